"Every command that takes a folder takes a CSV file of labels."
import csv

import numpy as np
import pytest
from PIL import Image

from cnn_tricks.cli.base_network import look_at
from cnn_tricks.cli.main import main
from cnn_tricks.core.result import load_trained


@pytest.fixture
def labels(tmp_path, monkeypatch):
    monkeypatch.setenv('CNN_TRICKS_CACHE', str(tmp_path/'cache'))
    monkeypatch.chdir(tmp_path)
    (tmp_path/'p').mkdir()
    rows = [('path', 'label', 'burst')]
    for i in range(60):
        x = np.random.default_rng(i).integers(0, 100, (20, 20, 3)).astype(np.uint8)
        x[..., i % 2] += 120
        Image.fromarray(x).save(tmp_path/'p'/f'{i}.png')
        rows.append((f'p/{i}.png', ('red', 'green')[i % 2], i//3))
    with open('labels.csv', 'w', newline='') as f: csv.writer(f).writerows(rows)
    return tmp_path/'labels.csv'


def test_train(labels, capsys):
    "Told and trained, and read back where the run goes on; a wrong table leaves nothing behind."
    assert main(['train', 'labels.csv', '--steps', '4', '--no-baseline', '--out', 'run']) == 0
    said = capsys.readouterr().out
    assert 'labels.csv: 2 classes, 20 x 20 pixels' in said and '20 groups kept whole' in said
    assert load_trained(labels.parent/'run').classes == ['green', 'red']
    labels.write_text('a,b\n1,2\n')
    assert main(['train', 'labels.csv', '--out', 'other']) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and 'labels.csv: no column is called path or label' in said[0]
    assert not (labels.parent/'other').exists()


def test_its_files_are_looked_at(labels):
    "They decide, as those of a folder do, which network it gets."
    assert (look_at(str(labels)).side, look_at(str(labels)).colour) == (20, True)
