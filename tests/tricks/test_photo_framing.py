"Crop or squish as a trick: the same images, framed anew wherever a run looks at them."
import numpy as np
import pytest
import torch
from PIL import Image

from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.result import load_trained
from cnn_tricks.core.train import train
from cnn_tricks.cli.predict import read_picture
from cnn_tricks.cli.train import load_result
from cnn_tricks.data.datasets import embedded
from cnn_tricks.data.framing import Framing
from cnn_tricks.data.image_folder import read_folder
from cnn_tricks.data.origin import reframed
from cnn_tricks.studies.audit_plan import usable
from cnn_tricks.tricks.photo_framing import PhotoFraming

BASE = Recipe(network='resnet', network_args=dict(width=4), steps=2, batch_size=4)
CROP, SQUASH = Framing('bicubic', 0.875, 'center'), Framing('bicubic', 1., 'squash')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "Three classes of ten oblong pictures, one of them grey."
    monkeypatch.setenv('CNN_TRICKS_CACHE', str(tmp_path/'cache'))
    rng = np.random.default_rng(0)
    for c in 'abc':
        (tmp_path/'photos'/c).mkdir(parents=True)
        for i in range(10):
            h, w = map(int, rng.integers(24, 60, 2))
            image = Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8))
            (image.convert('L') if c + str(i) == 'c4' else image).save(tmp_path/'photos'/c/f'{i}.png')
    return tmp_path/'photos'


def read(folder, framing=CROP): return read_folder(folder, 16, framing=framing, progress=False)


def same(a, b):
    return all(torch.equal(p.x, b.parts[n].x) and torch.equal(p.y, b.parts[n].y) for n, p in a.parts.items())


def test_images_are_those_of_a_folder_read_so(folder):
    "Also where the cache answers, and after splits, subsets and fewer classes: an image is known by its pixels."
    want = read(folder, SQUASH)
    for data in read(folder), read(folder):
        new = plan(BASE + PhotoFraming(), data).data
        assert new.framing == SQUASH and same(new, want) and not same(data, want) and new.classes == data.classes
    def change(d): return d.split(5, seed=3).subset(9, seed=1).take_classes(['c', 'a'])
    assert same(reframed(change(data), SQUASH), change(want))
    assert same(reframed(reframed(data, SQUASH), CROP), data)


def test_a_run_sees_validates_and_predicts_so(folder, tmp_path):
    data = read(folder)
    result = train(BASE + PhotoFraming(), data, progress=False)
    assert same(result.data, read(folder, SQUASH)) and result.trained.framing == SQUASH
    result.save(tmp_path/'model')
    trained = load_trained(tmp_path/'model')
    assert trained.framing == SQUASH and trained.recipe == BASE + PhotoFraming()
    assert same(load_result(tmp_path/'model', data).data, result.data)  # a finished run of `cnn_tricks train`
    x = read_picture(str(folder/'a'/'3.png'), trained)
    assert any(np.array_equal(x, y) for p in result.data.parts.values() for y in p.x.numpy())
    small = train(BASE.replace(size=8) + PhotoFraming(), data, progress=False)
    assert torch.equal(small.data.test.x, result.data.resize(8).test.x)


def test_an_audit_can_try_it(folder):
    "Where there are files, and the images are not framed so already; not elsewhere, and it says why."
    good, refused = usable(BASE, read(folder), ['framing', 'flip_shift'], 'cpu')
    assert {t.name for t in good} == {'framing', 'flip_shift'} and not refused
    assert 'nothing for it to change' in usable(BASE, read(folder, SQUASH), ['framing'], 'cpu')[1]['framing']
    assert 'not read from files' in usable(BASE, embedded().subset(60), ['framing'], 'cpu')[1]['framing']


def test_what_cannot_be_framed_anew(folder):
    data = read(folder)
    with pytest.raises(ValueError, match='not read from files'):
        train(BASE + PhotoFraming(), embedded().subset(60), progress=False)
    with pytest.raises(ValueError, match='changed since their files'): reframed(data.resize(12), SQUASH)
    (folder/'b'/'0.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='files have changed'): reframed(data, SQUASH)


@pytest.mark.parametrize('args', [dict(crop_mode='pad'), dict(crop_pct=0.), dict(crop_pct=1.1)])
def test_bad_settings(args):
    with pytest.raises(ValueError, match=next(iter(args))): PhotoFraming(**args)
