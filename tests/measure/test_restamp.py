"scripts/record/restamp.py, which stamps records anew after a change of code that changes no run."
import runpy
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
still_called_stale = runpy.run_path(str(ROOT/'scripts'/'record'/'restamp.py'))['still_called_stale']
STALE = 'Recorded on 2026-11-22.\n\n**Stale:** since then the code of `nets.x` has changed. ' \
        'Run `python scripts/record/x.py dropout_short` again.'


def test_outputs_that_call_a_fresh_record_stale_are_named(tmp_path):
    said = new_output('display_data', data={'text/markdown': STALE})
    nbformat.write(new_notebook(cells=[new_code_cell("recorded('dropout_short').line()", outputs=[said])]),
                   tmp_path/'32_toy.ipynb')
    assert still_called_stale(['dropout_short'], tmp_path) == [tmp_path/'32_toy.ipynb']
    assert still_called_stale(['dropout', 'short'], tmp_path) == []


def test_no_saved_output_calls_a_fresh_record_stale():
    records = [p.stem for p in (ROOT/'results'/'records').glob('*.json')]
    assert records and still_called_stale(records) == []
