"scripts/test.py: what it starts, and that it refuses a foreign processor which changes nothing."
import os, runpy

import pytest
from common import ROOT

script = runpy.run_path(str(ROOT/'scripts'/'test.py'))
PROCESSORS, other_processor, main = script['PROCESSORS'], script['other_processor'], script['main']


@pytest.fixture
def started(monkeypatch):
    "`main(argv)` that starts no tests: gives the command and the environment that the tests would get."
    def start(*argv):
        seen = {}
        def note(command, **kw):
            seen.update(command=command[1:], threads=os.environ['OMP_NUM_THREADS'], isa=os.environ.get('ONEDNN_MAX_CPU_ISA'))
            return script['subprocess'].CompletedProcess(command, 0)
        monkeypatch.setattr(script['subprocess'], 'run', note)
        assert main(argv) == 0
        return seen
    for name in 'OMP_NUM_THREADS', 'OMP_WAIT_POLICY', 'ONEDNN_MAX_CPU_ISA', 'ATEN_CPU_CAPABILITY', 'MKL_CBWR':
        monkeypatch.setenv(name, '')  # so that what main() sets is undone
        monkeypatch.delenv(name)
    return start


def test_everything_unless_told_otherwise(started):
    assert started() == dict(command='-m pytest -n 2 --dist loadfile'.split(), threads='1', isa=None)
    assert started('tests/project/test_form.py', '-x')['command'][-2:] == ['tests/project/test_form.py', '-x']


def test_another_processor_gets_the_notebooks(started, monkeypatch):
    weights = iter('abac')
    monkeypatch.setitem(main.__globals__, 'weights_after_60_steps', lambda setting: next(weights))
    assert started('--processor', 'onednn_avx2') == dict(command='-m pytest -n 2 --dist loadfile nbs'.split(), threads='1', isa='AVX2')
    assert started('--processor', 'threads', 'nbs/00_data.ipynb', '-x') == dict(
        command='-m pytest -n 1 --dist loadfile nbs/00_data.ipynb -x'.split(), threads='2', isa='AVX2')


def test_a_setting_without_effect_is_refused(monkeypatch):
    "With no setting at all, 60 steps give the same weights to the bit."
    monkeypatch.setitem(PROCESSORS, 'none', {})
    with pytest.raises(SystemExit, match="processor 'none': 60 steps give the same weights"): other_processor('none')


def test_other_is_the_first_that_has_an_effect(monkeypatch):
    weights = iter('aab')
    monkeypatch.setitem(other_processor.__globals__, 'weights_after_60_steps', lambda setting: next(weights))
    assert other_processor('other') == PROCESSORS[list(PROCESSORS)[1]]
    monkeypatch.setitem(other_processor.__globals__, 'weights_after_60_steps', lambda setting: 'a')
    with pytest.raises(SystemExit, match=' and '.join(map(repr, PROCESSORS))): other_processor('other')


def test_the_spinning_processes_end_with_the_tests(started, monkeypatch):
    made, plain = [], script['subprocess'].Popen
    monkeypatch.setattr(script['subprocess'], 'Popen', lambda *a, **kw: made.append(plain(*a, **kw)) or made[-1])
    started('--busy', 'tests/project/test_form.py')
    assert len(made) == os.cpu_count() and all(p.wait(60) for p in made)
