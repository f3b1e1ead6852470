"`cnn_tricks bench`: runs, goes on, plans, shows; mistakes in a line."
import json

import pytest
from bench_images import small

from cnn_tricks.cli.main import main
from cnn_tricks.measure import bench_record
from cnn_tricks.measure.benches import benches


@pytest.fixture
def bench(tmp_path, monkeypatch):
    "The small bench under a name, in a folder of its own, without records of the package."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('cnn_tricks.cli.bench.benches_path', lambda: tmp_path/'package')
    benches.register('small', small(lengths={1: ('label_smoothing',)}))
    yield tmp_path
    benches.remove('small')


def test_a_bench_runs_goes_on_and_is_shown(bench, capsys):
    assert main(['bench', 'small', '--device', 'cpu', '--minutes', '1e-6']) == 0
    out = capsys.readouterr().out
    assert 'cnn_tricks_bench/small.json: 0 runs' in out and 'the rest goes on with: cnn_tricks bench small' in out
    assert main(['bench', 'small', '--device', 'cpu', '--dry-run']) == 0
    out = capsys.readouterr().out
    assert "small: base 'bench_small'" in out and '2 seeds of 2 arms: base, label_smoothing' in out and 'in all 0.0 h' in out
    assert main(['bench', 'small', '--device', 'cpu']) == 0
    said = capsys.readouterr()
    assert 'label_smoothing, 1 epoch, seed 1:' in said.err and ' left' in said.err
    assert 'the rest' not in said.out and 'base, 1 epoch:' in said.out
    assert main(['bench', 'small', '--show', '--out', 'cnn_tricks_bench/small.json']) == 0
    out = capsys.readouterr().out
    assert 'numbered, 180 training images, 90 judge' in out and 'label_smoothing' in out and 'corrected p' in out
    assert main(['bench', 'small', '--check', '--device', 'cpu']) == 0
    assert 'agrees (tolerance 1 points)' in capsys.readouterr().out
    assert main(['bench', 'small', '--costs', '--device', 'cpu']) == 0
    costs = json.loads((bench/'cnn_tricks_bench'/'small.json').read_text())['costs']
    assert costs['base']['ratios'] == [1.]*5 and len(costs['label_smoothing']['ratios']) == 5


def test_a_new_record_takes_over_the_rates_of_the_package(bench, capsys):
    "They are chosen once: a reader runs the arms."
    (bench/'package').mkdir()
    assert main(['bench', 'small', '--device', 'cpu', '--out', 'package/small.json']) == 0
    capsys.readouterr()
    assert main(['bench', 'small', '--device', 'cpu']) == 0
    said = capsys.readouterr()
    assert 'lr ' not in said.err and '4 runs in' in said.out
    mine, theirs = (json.loads((bench/f/'small.json').read_text()) for f in ('cnn_tricks_bench', 'package'))
    assert mine['tuned'] == theirs['tuned'] and mine['recipes'] == theirs['recipes'] and len(mine['runs']) == 4


@pytest.mark.parametrize('words,said', [
    (['smal'], "no bench 'smal': one of"), (['all', '--out', 'x.json', '--show'], 'name one bench'),
    (['small', '--tricks', 'muonn'], "no arm and no trick 'muonn'"), (['small', '--show'], 'nothing is recorded of small'),
    (['small', '--seeds', '1'], 'at least 2'),
    (['small', '--epochs', '2'], 'small has no runs of 2 epochs: one of 1'), (['small', '--show', '--dry-run'], 'not allowed with')])
def test_mistakes_are_one_line(bench, capsys, words, said):
    assert main(['bench', *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count('\n') == 1


def test_one_program_writes_a_record(bench, capsys):
    from cnn_tricks.base.files import only_writer
    with only_writer(bench/'x.json'):
        assert main(['bench', 'small', '--out', 'x.json', '--device', 'cpu']) == 1
    assert 'another program is writing it' in capsys.readouterr().err


def test_images_that_are_missing_are_named(bench, capsys, monkeypatch):
    monkeypatch.delenv('CNN_TRICKS_DATA', raising=False)
    assert main(['bench', 'photos', '--dry-run']) == 0
    assert 'photos: cannot be planned here: no photographs' in capsys.readouterr().out


def test_the_package_has_its_own_folder_of_records():
    assert bench_record.benches_path().name == 'benches'
