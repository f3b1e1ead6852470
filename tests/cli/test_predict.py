"Prediction of whole folders: a table with a row for every file, at the speed of batches, in flat memory."
import csv, json, math, os, subprocess, sys

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_tricks.cli import predict
from cnn_tricks.cli.main import main
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.result import Trained, build_network, load_trained
from cnn_tricks.data.decode import decode_picture

CLASSES = ['ant', 'Köln, 猫', 'error']


def save_model(folder, network='resnet', size=(24, 24), **kw):
    torch.manual_seed(1)
    recipe = Recipe(network=network)
    net = build_network(plan(recipe).recipe, 3, 3, size)
    head = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
    torch.nn.init.normal_(head.weight, std=0.5)
    Trained(net.eval(), recipe, CLASSES, 3, size, [.5, .4, .3], [.2, .3, .25], **kw).save(folder)
    return folder


@pytest.fixture
def model(tmp_path): return save_model(tmp_path/'model')


@pytest.fixture
def photos(tmp_path):
    "Forty pictures at two depths, a broken one, a note, and what machines leave."
    folder = tmp_path/'photos'
    (folder/'more'/'deep').mkdir(parents=True)
    for i in range(40):
        x = np.random.default_rng(i).integers(0, 256, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(x).save((folder if i % 2 else folder/'more'/'deep')/f'{i:02}.png')
    (folder/'broken.jpg').write_bytes(b'no picture')
    (folder/'note.txt').touch(), (folder/'.hidden.png').touch()
    return folder


def table(path):
    with open(path, encoding='utf-8', newline='') as f: return list(csv.DictReader(f))


def probabilities(model, path):
    t = load_trained(model)
    return t.predict(torch.from_numpy(decode_picture(path, t.size, 3, t.ranges, t.framing).copy())[None])[0].tolist()


@pytest.mark.parametrize('network,framing', [('resnet', None), ('timm/test_resnet', ('bicubic', 0.9, 'center'))])
def test_table(tmp_path, photos, capsys, monkeypatch, network, framing):
    "Every file has its row, in order; the probabilities are those of each picture alone."
    model = save_model(tmp_path/'model', network, framing=framing)
    monkeypatch.chdir(tmp_path)
    assert main(['predict', 'model', 'photos', '--csv', 'out.csv']) == 1  # one is broken
    said, rows = capsys.readouterr(), table('out.csv')
    files = [os.path.relpath(p, tmp_path) for p in photos.rglob('[0-9b]*.*')]
    assert [r['path'] for r in rows] == sorted(files)
    assert list(rows[0]) == ['path', 'class', 'error', 'ant', 'Köln, 猫', 'error (class)']
    bad = [r for r in rows if r['error']]
    assert [(r['path'], r['error'], r['class'], r['ant']) for r in bad] == [(os.path.join('photos', 'broken.jpg'), 'not an image', '', '')]
    assert said.out == 'out.csv: 41 pictures, 3 classes\n' and len(said.err.splitlines()) == 2
    assert 'ignored 1 file without an image suffix (1 .txt)' in said.err and 'broken.jpg (not an image)' in said.err
    for r in rows:
        if r['error']: continue
        got, want = [float(v) for v in list(r.values())[3:]], probabilities(model, r['path'])
        assert max(abs(a - b) for a, b in zip(got, want)) < 1e-5 and r['class'] == CLASSES[int(np.argmax(want))]
    assert len({r['class'] for r in rows}) > 1


def test_views(model, photos, tmp_path):
    file = str(photos/'01.png')
    t = load_trained(model)
    x = torch.from_numpy(decode_picture(file, t.size, 3).copy())[None]
    assert main(['predict', str(model), file, '--csv', str(tmp_path/'2.csv'), '--views', '2']) == 0
    got = [float(table(tmp_path/'2.csv')[0][c]) for c in ('ant', 'Köln, 猫')]
    want = (t.predict(x) + t.predict(x.flip(-1)))[0]/2
    assert max(abs(a - b) for a, b in zip(got, want.tolist())) < 1e-5
    assert abs(got[0] - t.predict(x)[0, 0].item()) > 1e-4  # one view says something else
    views = predict.some_views(10, (32, 48))
    big = torch.randint(256, (1, 3, 32, 48)).to(torch.uint8)
    shown = [v(big) for v in views]
    assert len({v.numpy().tobytes() for v in shown}) == 10 and all(v.shape == big.shape for v in shown)
    assert torch.equal(shown[2][..., 3:], big[..., :-3])  # moved by a sixteenth of the width


def test_other_forms(model, photos, capsys):
    rows = []
    assert main(['predict', str(model), str(photos), '--json']) == 1
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 41 and sum('error' in r for r in rows) == 1
    assert main(['predict', str(model), str(photos/'more'), '--top', '2']) == 0
    assert len(capsys.readouterr().out.splitlines()) == 20


def test_refusals(model, photos, tmp_path, capsys):
    def said(*args, code):
        assert main(['predict', str(model), *map(str, args)]) == code
        return capsys.readouterr().err
    (tmp_path/'empty').mkdir()
    assert 'empty: no image in it' in said(tmp_path/'empty', '--csv', tmp_path/'x.csv', code=1)
    assert 'empty: no image in it' in said(tmp_path/'empty', photos/'01.png', '--csv', tmp_path/'y.csv', code=1)
    assert len(table(tmp_path/'y.csv')) == 1
    assert 'one of them' in said(photos, '--csv', tmp_path/'x.csv', '--json', code=2)
    assert 'not allowed with' in said(photos, '--csv', tmp_path/'x.csv', '--heat', 'h', code=2)
    assert 'at most 10' in said(photos, '--views', 11, code=2)
    assert 'No such file' in said(photos, '--csv', tmp_path/'nowhere'/'x.csv', code=1)
    (tmp_path/'x.csv').write_text('mine')
    assert 'exists: remove it' in said(photos, '--csv', tmp_path/'x.csv', code=1)
    assert (tmp_path/'x.csv').read_text() == 'mine'


def test_an_interrupted_table_leaves_nothing(model, photos, tmp_path):
    def answers():
        yield 'a.png', torch.tensor([1., 0, 0])
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): predict.write_table(tmp_path/'x.csv', CLASSES, answers())
    assert not list(tmp_path.glob('*.csv*')) and not list(tmp_path.glob('.*csv*'))


def test_batches_are_read_ahead_and_bounded(model, photos, monkeypatch):
    "However many pictures: at most two batches are held."
    held, most, t = set(), [], load_trained(model)
    def read(path, trained):
        held.add(path)
        most.append(len(held))
        return np.zeros((3, 24, 24), np.uint8)
    monkeypatch.setattr(predict, 'read_picture', read)
    paths = [str(i) for i in range(2000)]
    for path, p in predict.probabilities(t, paths): held.discard(path)
    assert len(most) == 2000 and max(most) <= 512


MEMORY = '''
import resource, sys
from cnn_tricks.cli.main import main
n, model, file = int(sys.argv[1]), *sys.argv[2:]
assert main(['predict', model, *[file]*n, '--csv', f'{n}.csv']) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
'''


def test_memory_is_flat(tmp_path):
    "Eight times the pictures take hardly more memory."
    model = save_model(tmp_path/'model', size=(64, 64))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(tmp_path/'a.png')
    peak = [float(subprocess.run([sys.executable, '-c', MEMORY, str(n), str(model), 'a.png'], cwd=tmp_path, check=True,
                                 capture_output=True, text=True).stdout.split()[-1]) for n in (600, 4800)]
    assert not math.isnan(peak[0]) and peak[1] < peak[0] + 40, peak  # 4,200 pictures more are 52 MB
    assert len(table(tmp_path/'4800.csv')) == 4800
