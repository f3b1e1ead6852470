"Pictures come to their size as timm's evaluation transform brings them, and a saved model still knows how."
import io

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps, JpegImagePlugin
from timm.data import create_transform

from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.result import load_trained
from cnn_tricks.core.train import train
from cnn_tricks.cli.predict import probabilities, read_picture
from cnn_tricks.data.decode import decode_or_reason
from cnn_tricks.data.framing import Framing, as_framing, frame
from cnn_tricks.data.image_folder import read_folder
from cnn_tricks.nets.pretrained import pretrained

NETS = 'resnet18', 'tf_efficientnet_lite0', 'vit_base_patch16_clip_224', 'convnext_tiny'


def photograph(rng, w, h):
    "Colours that change over large and small distances, as a photograph has them."
    a = np.zeros((h, w, 3))
    for cell in (300, 80, 20, 6, 2):
        small = rng.integers(0, 256, (h//cell + 2, w//cell + 2, 3), np.uint8)
        a += (np.asarray(Image.fromarray(small).resize((w, h), Image.BICUBIC)).astype(float) - 128)*(cell/300)**.35
    return Image.fromarray((a*.5 + 128).clip(0, 255).astype(np.uint8))


def saved(path, picture, mark=1, **kw):
    "`mark`: the camera's, which says how the picture lies; 6 is a quarter turn"
    exif = picture.getexif()
    if mark != 1: exif[0x0112] = mark
    picture.save(path, exif=exif, **kw)
    return path


@pytest.mark.parametrize('size', [128, 224])
def test_pixels_are_those_of_timm(tmp_path, size):
    """50 photographs of odd sizes, as JPEG and PNG: the largest difference of a normalised pixel is at most 0.02

    A JPEG is below the size from which on it is decoded smaller."""
    rng, worst = np.random.default_rng(size), 0.
    for i in range(25):
        w, h = (int(v) for v in rng.integers(90, 1500 if i % 8 < 2 else 600, 2))
        jpeg, made = i % 2 == 0, pretrained[f'timm/{NETS[i % 4]}']().preprocessing
        if jpeg: h = min(h, 4*int(size/made.crop_pct) - 1)
        path = saved(tmp_path/f'{i}.{"jpg" if jpeg else "png"}', photograph(rng, w, h), **(dict(quality=90) if jpeg else {}))
        theirs = create_transform((3, size, size), is_training=False, interpolation=made.interpolation, crop_pct=made.crop_pct,
                                  crop_mode=made.crop_mode, mean=made.mean, std=made.std)
        want = theirs(Image.open(path).convert('RGB'))
        x = torch.from_numpy(decode_or_reason(path, (size, size), 3, framing=Framing(*made.framing)).copy())
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in made.moments(3))
        worst = max(worst, ((x/255 - mean)/std - want).abs().max().item())
    assert worst <= 0.02, worst


@pytest.mark.parametrize('mark,turn', [(1, None), (3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)])
@pytest.mark.parametrize('size,image,decoded', [((48, 48), (500, 256), (125, 64)), ((48, 48), (219, 1000), (55, 250)),
    ((48, 48), (433, 437), (55, 55)), ((32, 64), (401, 300), (101, 75)), ((48, 48), (215, 600), (215, 600))])
def test_large_photographs_are_decoded_small(tmp_path, monkeypatch, size, image, decoded, mark, turn):
    "From four times the resized picture on the decoder shrinks: pixels change a little, and nothing moves."
    rule, picture = Framing('bicubic', 0.875), photograph(np.random.default_rng(3), *image)
    path = saved(tmp_path/'a.jpg', picture.transpose(turn) if turn is not None else picture, mark, quality=90)
    whole = np.asarray(frame(ImageOps.exif_transpose(Image.open(path)), size, rule)).transpose(2, 0, 1)
    found, draft = [], JpegImagePlugin.JpegImageFile.draft

    def spy(self, mode, wanted):
        draft(self, mode, wanted)
        found.append(self.size[::-1] if mark == 6 else self.size)
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, 'draft', spy)
    off = abs(decode_or_reason(path, size, 3, framing=rule).astype(int) - whole)
    assert found == [decoded]
    assert off.max() == 0 if decoded == image else off.mean() < 2 and off.max() <= 12, (off.mean(), off.max())


def test_rules_are_those_of_the_configuration():
    for name in NETS:
        made = timm.data.resolve_model_data_config(timm.create_model(name))
        ours = pretrained[f'timm/{name}']().preprocessing
        assert (ours.mean, ours.std, ours.size) == (made['mean'], made['std'], made['input_size'][1:])
        assert ours.framing == (made['interpolation'], made['crop_pct'], made['crop_mode'])


def test_another_rule_gives_other_pixels(tmp_path):
    "The check above can fail: the package's own rule, another crop and another filter differ by far more."
    path = saved(tmp_path/'a.png', photograph(np.random.default_rng(0), 301, 207))
    right = decode_or_reason(path, (64, 64), 3, framing=Framing('bicubic', 0.875)).astype(int)
    for wrong in None, Framing('bicubic', 0.95), Framing('bilinear', 0.875), Framing('bicubic', 0.875, 'squash'):
        assert abs(decode_or_reason(path, (64, 64), 3, framing=wrong) - right).max() > 3


def test_sizes_that_are_not_square_and_pictures_that_are_turned(tmp_path):
    picture = photograph(np.random.default_rng(1), 333, 500)
    theirs = create_transform((3, 64, 96), is_training=False, interpolation='bicubic', crop_pct=0.9, mean=(0.,)*3, std=(1/255,)*3)
    assert abs(np.asarray(frame(picture, (64, 96), Framing('bicubic', 0.9))).transpose(2, 0, 1) - theirs(picture).numpy()).max() <= 1
    buffer = io.BytesIO()
    picture.save(buffer, 'JPEG', quality=95)
    turned = Image.open(buffer).convert('RGB').transpose(Image.Transpose.ROTATE_90)
    path, rule = saved(tmp_path/'a.png', turned, mark=6), Framing('bicubic', 0.9)
    upright = np.asarray(frame(Image.open(buffer).convert('RGB'), (64, 64), rule)).transpose(2, 0, 1)
    assert np.array_equal(decode_or_reason(path, (64, 64), 3, framing=rule), upright)


@pytest.mark.parametrize('rule,error', [(3, 'framing=3'), (('cubic', .9), 'interpolation='), (('bicubic', 1.2), 'crop_pct'),
                                        (('bicubic', .9, 'border'), 'crop_mode='), ((), 'framing')])
def test_bad_rules(rule, error):
    with pytest.raises((ValueError, TypeError), match=error): as_framing(rule)


def test_a_saved_model_reads_pictures_by_its_rule(tmp_path):
    rng = np.random.default_rng(2)
    for c in 'ab':
        (tmp_path/'photos'/c).mkdir(parents=True)
        for i in range(8): saved(tmp_path/'photos'/c/f'{i}.png', photograph(rng, *map(int, rng.integers(40, 90, 2))))
    plain, data = (read_folder(tmp_path/'photos', 32, framing=f, progress=False) for f in (None, ('bicubic', 0.875)))
    assert plain.framing is None and data.framing == Framing('bicubic', 0.875) and plain.fingerprint != data.fingerprint
    assert data.subset(4).resize(16).split(3).framing == data.framing
    train(Recipe(network='resnet', steps=1, batch_size=4), data, progress=False).save(tmp_path/'model')
    trained, path = load_trained(tmp_path/'model'), str(tmp_path/'photos'/'a'/'0.png')
    assert trained.framing == data.framing
    x = read_picture(path, trained)
    assert any(np.array_equal(x, y) for p in data.parts.values() for y in p.x.numpy())
    assert not any(np.array_equal(x, y) for p in plain.parts.values() for y in p.x.numpy())
    [(_, p)] = probabilities(trained, [path])
    assert torch.equal(p, trained.predict(torch.from_numpy(x.copy())[None])[0])
