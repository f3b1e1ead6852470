"scripts/build/save_outputs.py, by which every lesson gets its outputs and its time."
import base64, io, json

import nbformat
import numpy as np
import pytest
import save_outputs  # on the path through the top conftest.py
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

PASTED = [new_output('stream', text='pasted')]


def save(tmp_path, monkeypatch, *cells, cell_timeout=300):
    "Save a notebook of `cells` and read it back, with the times noted beside it."
    path = tmp_path/'00_toy.ipynb'
    monkeypatch.setattr(save_outputs, 'TIMES', tmp_path/'times.json')
    nbformat.write(new_notebook(cells=cells), path)
    monkeypatch.chdir(tmp_path)
    save_outputs.save(path, cell_timeout)
    times = json.loads((tmp_path/'times.json').read_text())
    return nbformat.read(path, as_version=4).cells, json.loads(path.read_text()), times


def test_outputs_are_saved_without_noise(tmp_path, monkeypatch):
    cells = [
        new_code_cell('import sys\nfrom IPython.display import HTML, display'),
        new_code_cell('print("kept"); print("noise", file=sys.stderr); display(HTML("<progress value=1></progress>"))'),
        new_code_cell('1 + 1', metadata={'tags': ['nbval-ignore-output'], 'jupyter': {'source_hidden': True}, 'x': 1}),
        new_code_cell('3;'),
        new_code_cell('"last time"'),
        new_code_cell('#| eval: false\n1/0', metadata={'tags': ['mine']}, outputs=PASTED)]
    sentences = iter(['last time', 'this time'])
    monkeypatch.setattr(save_outputs, 'recorded_time', lambda stem: next(sentences))
    got, raw, times = save(tmp_path, monkeypatch, *cells)
    assert [len(c.outputs) for c in got] == [0, 1, 1, 0, 1, 0]
    assert got[1].outputs[0].text == 'kept\n' and got[2].outputs[0].data['text/plain'] == '2'
    assert got[2].metadata == {'tags': ['nbval-ignore-output'], 'jupyter': {'source_hidden': True}}
    assert got[4].outputs[0].data['text/plain'] == "'this time'"
    assert got[5].metadata == {'tags': ['mine']}
    assert {c.execution_count for c in got} == {None} and [c.id for c in got] == [c.id for c in cells]
    assert raw['cells'][0]['source'] == ['import sys\n', 'from IPython.display import HTML, display']
    time = times['00_toy']
    assert time['seconds'] > 0 and time.keys() == {'seconds', 'cores', 'threads', 'torch', 'python', 'date'}


@pytest.mark.parametrize('source, reason', [
    ('def f(): raise ValueError("boo")\nf()', 'ValueError: boo'), ('while True: pass', 'not done after 10 s'),
    ('import os; os._exit(1)', 'the kernel died')])
def test_failure_names_the_cell_and_saves_nothing(source, reason, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r'00_toy\.ipynb: cell 1 \(id \w+, nbval: Cell 1\) failed: ' + reason):
        save(tmp_path, monkeypatch, new_code_cell('1', outputs=PASTED), new_code_cell(source), cell_timeout=10 if 'while' in source else 300)
    assert nbformat.read(tmp_path/'00_toy.ipynb', as_version=4).cells[0].outputs == PASTED
    assert not (tmp_path/'times.json').exists()


def png(array) -> str:
    out = io.BytesIO()
    Image.fromarray(array).save(out, 'png')
    return base64.b64encode(out.getvalue()).decode()


def test_figures_take_less_room_and_look_the_same():
    lines = np.full((200, 300, 4), 255, np.uint8)
    for i in range(100): lines[i + 20:i + 22, 2*i:2*i + 3, :3] = 31, 119, 2*i  # a hundred colours
    small = save_outputs.smaller(png(lines))
    assert len(small) < .8*len(png(lines))
    seen = np.array(Image.open(io.BytesIO(base64.b64decode(small))).convert('RGB'), int)
    assert np.abs(seen - lines[..., :3]).max() <= 1
    lines[0, 0, 3] = 0
    assert save_outputs.smaller(png(lines)) == png(lines)  # what shines through stays


def test_figures_are_sharp_at_the_size_that_they_are_shown_with(tmp_path, monkeypatch):
    "Twice the pixels, whatever the lesson sets; what is compared, the text beside it, is that of the reader's own run."
    source = ("import matplotlib.pyplot as plt\nplt.rcParams['figure.dpi'] = 70\n"
              "plt.figure(figsize=(4, 2))\nplt.plot([1, 2])\nplt.show()")
    (cell,), _, _ = save(tmp_path, monkeypatch, new_code_cell(source))
    output, = cell.outputs
    shown, drawn = output.metadata['image/png'], Image.open(io.BytesIO(base64.b64decode(output.data['image/png'])))
    assert 270 < shown['width'] < 320 and [s//2 for s in drawn.size] == [shown['width'], shown['height']]
    assert drawn.info['dpi'] == pytest.approx((192, 192), abs=.1)  # what Quarto takes for twice
    assert output.data['text/plain'] == '<Figure size 280x140 with 1 Axes>'


def test_noisy_pictures_in_colour_take_as_much_room_as_they_may():
    "With so few colours that they fit, and what is grey in them stays grey."
    picture = np.random.default_rng(0).integers(0, 256, (250, 300, 4), np.uint8)
    picture[..., 3], picture[:100, :, :3] = 255, picture[:100, :, :1]
    small = save_outputs.smaller(png(picture))
    assert len(small) < save_outputs.LARGE < len(png(picture))
    grey = np.array(Image.open(io.BytesIO(base64.b64decode(small))).convert('RGB'), int)[:100]
    assert np.ptp(grey, axis=2).mean() < 25
