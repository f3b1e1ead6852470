"""Augmentation: against loops and libraries, on odd shapes, with bad input; labels, chance, inputs; the turns of flips."""
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torchvision.transforms import v2

from cnn_tricks.tricks.augment import AlternatingFlip, AlternatingLoader, Augment, CutMix, MixUp, SoftCrossEntropy
from cnn_tricks.data.augmentations import affine, affine_matrix, beta, box_mask, cutmix, erase, mixup, noise, one_hot
from cnn_tricks.data.augmentations import warp
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.core.train import learner, train
from cnn_tricks.tools.tta import one_view, predict_tta

ALL = dict(affine=affine(20, 1.3, 0.2, 0.5), noise=noise(0.1), erase=erase(0.8), mixup=mixup(7), cutmix=cutmix(7))


def gen(seed=0): return torch.Generator().manual_seed(seed)


def matrix(degrees=0, zoom=1, down=0, right=0, mirror=False):
    return affine_matrix(*(torch.tensor([float(v)]) for v in (degrees, zoom, down, right)), torch.tensor([mirror]))


@pytest.fixture(scope='module')
def data(): return embedded().subset(64).subset(50, parts=('valid', 'test'))


def tiny(**kw): return Recipe(network='plain', network_args={'widths': [4]}, batch_size=16, **{'steps': 3, **kw})


@pytest.mark.parametrize('size', [(7, 7), (6, 6), (5, 8)])
def test_whole_moves_are_exact(size):
    "Mirrors, moves by whole pixels and (on squares) quarter turns only reorder pixels."
    x = torch.rand(1, 3, *size, generator=gen())
    pairs = [(warp(x, matrix(mirror=True)), x.flip(-1)), (warp(x, matrix(180)), x.flip(-1, -2)),
             (warp(x, matrix(down=2, right=-1)), F.pad(x, (-1, 1, 2, -2))), (warp(x, matrix()), x)]
    if size[0] == size[1]: pairs.append((warp(x, matrix(90)), x.rot90(1, (2, 3))))
    for ours, theirs in pairs: torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_product_of_matrices():
    "The product acts as the changes one after the other: on coordinates, exactly; the inverse brings the image back."
    p = torch.tensor([3., -2., 1.])
    for a, b in ((matrix(20), matrix(zoom=1.5, right=2)), (matrix(mirror=True, degrees=10), matrix(down=1, degrees=-30))):
        torch.testing.assert_close((a @ b)[0] @ p, a[0] @ (b[0] @ p))
    m = matrix(25, 1.3, 2, -1, True)
    x = torch.rand(1, 1, 9, 9, generator=gen())
    torch.testing.assert_close(warp(x, m @ torch.linalg.inv(m)), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize('padding, value', [('zeros', 0.), ('border', 1.), ('reflection', 1.)])
def test_padding(padding, value):
    out = warp(torch.ones(1, 1, 6, 10), matrix(right=4), padding)
    assert torch.allclose(out[..., :3], torch.tensor(value)) and torch.allclose(out[..., 4:], torch.tensor(1.))


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('shape', [(5, 1, 8, 8), (6, 3, 7, 12), (1, 3, 5, 5)])
def test_every_change(name, shape):
    "Shape, type and memory layout are kept, inputs are not changed, and all chance follows from the generator."
    x, y = torch.rand(shape, generator=gen()), torch.arange(shape[0])
    kept = x.clone()
    state = torch.get_rng_state()
    a, ya = ALL[name](x, y, gen(1))
    b, yb = ALL[name](x, y, gen(1))
    assert a.shape == x.shape and a.dtype == x.dtype and bool((a == b).all()) and bool((ya == yb).all())
    assert bool((x == kept).all()) and bool((y == torch.arange(shape[0])).all())
    assert bool((torch.get_rng_state() == state).all())  # the global generator is left alone
    assert 0 <= a.min() and a.max() <= 1
    if shape[0] > 1: assert not bool((ALL[name](x, y, gen(2))[0] == a).all())


@pytest.mark.parametrize('name', ['affine', 'noise', 'erase', 'cutmix', 'mixup'])
def test_chance_is_per_sample(name):
    "Two kinds of image, twenty of each: the results differ, but for those that met their own kind."
    x = torch.linspace(0.1, 0.9, 64).view(1, 1, 8, 8).repeat(40, 1, 1, 1)
    x[20:] = 1 - x[20:]
    out = ALL[name](x, torch.zeros(40, dtype=torch.int64), gen())[0]
    assert len(out.flatten(1).unique(dim=0)) > dict(cutmix=12, mixup=12, erase=20).get(name, 39)


def test_affine_ranges():
    "A single bright pixel off the centre: its way tells angle, zoom and move, and they fill their ranges."
    x = torch.zeros(400, 1, 31, 31)
    x[:, :, 15, 25] = 1.
    yx = torch.stack(torch.meshgrid(torch.arange(31.) - 15, torch.arange(31.) - 15, indexing='ij'))

    def centre(b): return (b*yx).sum((-2, -1))/b.sum((-2, -1))

    turned = centre(affine(degrees=40)(x, None, gen())[0])
    angle = torch.rad2deg(torch.atan2(-turned[:, 0], turned[:, 1]))
    assert angle.abs().max() < 41 and angle.min() < -35 and angle.max() > 35
    zoomed = centre(affine(zoom=1.4)(x, None, gen())[0])[:, 1]/10
    assert 0.69 < zoomed.min() < 0.75 and 1.35 < zoomed.max() < 1.42
    place = centre(affine(translate=0.1)(x, None, gen())[0])
    assert place[:, 0].abs().max() < 3.2 and (place[:, 1] - 10).abs().max() < 3.2 and place[:, 0].max() > 2.7
    mirrored = centre(affine(flip=0.25)(x, None, gen())[0])[:, 1] < 0
    assert 0.17 < mirrored.float().mean() < 0.33


def test_box_mask():
    box = box_mask(torch.tensor([1, -3]), torch.tensor([2, 4]), torch.tensor([3, 2]), torch.tensor([4, 99]), (4, 6))
    want = torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    want[0, 0, 1:3, 2:4], want[1, 0, :2, 4:] = True, True
    assert bool((box == want).all())


def test_erase_is_one_box():
    "What is blanked is one full rectangle, of an area and shape within the ranges."
    out = erase(p=1., scale=(0.1, 0.3), ratio=(0.5, 2.))(torch.ones(200, 3, 20, 30), None, gen())[0]
    gone = (out == 0).all(1)
    assert bool((gone == (out == 0).any(1)).all())  # the same in every colour
    tall, wide = gone.any(2).sum(1), gone.any(1).sum(1)
    assert bool((gone.sum((1, 2)) == tall*wide).all())
    share = tall*wide/600
    assert 0.08 < share.min() and share.max() < 0.33
    assert ((tall/wide).min() > 0.4) and ((tall/wide).max() < 2.5)
    assert erase(p=1., value=0.7)(torch.zeros(4, 1, 9, 9), None, gen())[0].max() == pytest.approx(0.7)
    assert bool((erase(p=0.)(torch.ones(9, 1, 5, 5), None, gen())[0] == 1).all())


@pytest.mark.parametrize('alpha', [0.2, 1., 4.])
def test_beta(alpha):
    draws = beta(alpha, 4000, gen())
    assert stats.kstest(draws.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert draws.var().item() == pytest.approx(1/(4*(2*alpha + 1)), rel=0.1)


def test_mixing_has_one_partner():
    "Every mixed label has at most two classes, the image's own among them; cutmix keeps every pixel from one of the two."
    x, y = torch.rand(50, 2, 6, 9, generator=gen()), torch.arange(50)
    for mix in (mixup(50), cutmix(50)):
        out, t = mix(x, y, gen(3))
        assert int((t > 0).sum(1).max()) <= 2
        other = torch.where((t > 0) & (one_hot(y, 50) == 0), t, 0.)
        share, j = other.max(1)
        if mix(x, y, gen(3))[0].eq(x).float().mean() > 0.2:  # cutmix
            ok = (out == x) | (out == x[j])
            assert bool(ok.all())
            torch.testing.assert_close((out != x).any(1).float().mean((1, 2)), share)
        else: torch.testing.assert_close(out, x*(1 - share)[:, None, None, None] + x[j]*share[:, None, None, None])


def test_mixing_twice_keeps_sums():
    x, y = torch.rand(20, 1, 5, 5, generator=gen()), torch.arange(20) % 4
    x, y = cutmix(4)(*mixup(4)(x, y, gen(1)), gen(2))
    torch.testing.assert_close(y.sum(1), torch.ones(20))
    assert y.shape == (20, 4) and y.min() >= 0


def test_soft_cross_entropy():
    out, y = torch.randn(6, 4, generator=gen()), torch.tensor([0, 1, 2, 3, 0, 1])
    loss, p = SoftCrossEntropy(), torch.rand(6, 4, generator=gen()).softmax(1)
    assert loss(out, y).item() == pytest.approx(F.cross_entropy(out, y).item())
    assert loss(out, p).item() == pytest.approx(-(p*out.log_softmax(1)).sum(1).mean().item(), rel=1e-5)
    out.requires_grad_()
    got, = torch.autograd.grad(loss(out, p), out)
    torch.testing.assert_close(got, (out.softmax(1) - p).detach()/6)
    assert bool((loss.decodes(out) == out.argmax(1)).all())
    torch.testing.assert_close(loss.activation(out).sum(1), torch.ones(6))


@pytest.mark.parametrize('make, match', [
    (lambda: affine(degrees=-1), 'degrees=-1'), (lambda: affine(degrees=181), 'degrees=181'),
    (lambda: affine(zoom=0.9), 'zoom=0.9'), (lambda: affine(translate=1.1), 'translate=1.1'),
    (lambda: affine(flip=2), 'flip=2'), (lambda: affine(padding='wrap'), "padding='wrap'"),
    (lambda: affine(zoom=math.inf), 'zoom=inf'), (lambda: noise(-0.1), 'sigma=-0.1'), (lambda: erase(p=1.5), 'p=1.5'),
    (lambda: erase(scale=(0.5, 0.2)), 'scale='), (lambda: erase(ratio=(0, 1)), 'ratio='), (lambda: mixup(0), 'n_classes=0'),
    (lambda: mixup(3, alpha=0), 'alpha=0'), (lambda: cutmix(3, alpha=-1), 'alpha=-1'), (lambda: MixUp(alpha=0.), 'alpha'),
    (lambda: CutMix(alpha=-1.), 'alpha'), (lambda: Augment(zoom=0.5), 'zoom'), (lambda: Augment(degrees=200.), 'degrees')])
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match): make()


def test_bad_type():
    with pytest.raises(TypeError, match='degrees'): affine(degrees='10')


@pytest.mark.parametrize('trick', [Augment(flip=0.5, noise=0.1, erase=0.5), MixUp(), CutMix(), AlternatingFlip()])
def test_tricks_train(data, trick):
    "On grey squares and on colour that is not square; JSON brings the recipe back; the same seed gives the same weights."
    g = gen()
    part = Part(torch.randint(0, 256, (48, 3, 12, 17), generator=g, dtype=torch.uint8), torch.arange(48) % 3)
    colour = ImageData(part, part[:9], part[:9], ['a', 'b', 'c'])
    for d in (data, colour):
        r = tiny(channels_last=True) + trick
        assert Recipe.from_json(r.to_json()) == r
        a, b = train(r, d, 1, progress=False), train(r, d, 1, progress=False)
        assert a.losses == b.losses and a.losses != train(tiny(channels_last=True), d, 1, progress=False).losses
        assert all(math.isfinite(v) for v in a.losses)


def test_augment_off_is_nothing(data):
    off = Augment(flip=0., degrees=0., zoom=1., translate=0.)
    assert learner(tiny() + off, data).dls.train.augment == []
    assert train(tiny() + off, data, 1, progress=False).losses == train(tiny(), data, 1, progress=False).losses


def test_loss_of_mixing(data):
    both = plan(tiny(loss_args={'label_smoothing': 0.1}) + MixUp() + CutMix()).recipe
    assert (both.loss, both.loss_args) == ('soft_cross_entropy', {'label_smoothing': 0.1})
    assert train(both.replace(steps=2), data, 0, progress=False).finished
    x, y = learner(tiny() + MixUp(), data).dls.train.one_batch()
    assert y.shape == (16, 10) and y.dtype == torch.float32
    assert learner(tiny() + MixUp(), data).dls.valid.one_batch()[1].dtype == torch.int64


def test_mixing_refuses_other_losses(data):
    from cnn_tricks.core.components import losses
    losses.register('other_loss', lambda: F.mse_loss)
    try:
        with pytest.raises(ValueError, match="loss='other_loss': mixup"): plan(tiny(loss='other_loss') + MixUp())
    finally: losses.remove('other_loss')


def test_alternating_loader(data):
    "Each epoch is the mirror of the one before; looking at a batch and starting in the middle change nothing."
    dls = AlternatingFlip().loaders(data.loaders(16, normalize=False, seed=3, device='cpu'))
    dl, plain = dls.train, data.loaders(16, normalize=False, seed=3, device='cpu').train
    assert type(dl) is AlternatingLoader and dls.valid is not dl and not isinstance(dls.valid, AlternatingLoader)
    look = dl.one_batch()[0]
    epochs = [torch.cat([x for x, _ in dl]) for _ in range(3)]
    assert bool((epochs[0][:16] == look).all())
    for e, x in enumerate(epochs):
        y = torch.cat([x for x, _ in plain])
        turned = (x == y.flip(-1)).flatten(1).all(1)
        assert bool(((x == y).flatten(1).all(1) | turned).all()) and 10 < int(turned.sum()) < 54
    again = AlternatingFlip().loaders(data.loaders(16, normalize=False, seed=3, device='cpu')).train
    again.epoch, again.skip = 2, 1
    assert bool((torch.cat([x for x, _ in again]) == epochs[2][16:]).all())
    idx = torch.arange(64)
    assert bool((dl.mirrored(idx, 4) ^ dl.mirrored(idx, 7)).all())
    assert bool((dl.mirrored(idx, 4) == dl.new().mirrored(idx, 0)).all())


def test_alternating_with_others(data):
    "The tricks that came before keep their functions, those that come after find the loader."
    for r in (tiny() + FlipShift(p=0.) + AlternatingFlip(), tiny() + AlternatingFlip() + FlipShift(p=0.)):
        dl = learner(r, data).dls.train
        assert isinstance(dl, AlternatingLoader) and len(dl.augment) == 2


def test_tta(data):
    trained = train(tiny(), data, 0, progress=False).trained
    x = data.test.x
    a, b = trained.predict(x), trained.predict(x.flip(-1))
    torch.testing.assert_close(predict_tta(trained, x, [one_view(), one_view(mirror=True)]), (a + b)/2)
    torch.testing.assert_close(predict_tta(trained, x, [one_view(), one_view(mirror=True)], [3, 1]), (3*a + b)/4)
    down = torch.zeros_like(x)
    down[:, :, 2:, :-1] = x[:, :, :-2, 1:]
    assert bool((one_view(down=2, right=-1)(x) == down).all())
    assert bool((predict_tta(trained, x, [one_view(1, 1)]) == trained.predict(one_view(1, 1)(x))).all())
    for views, weights in (([], None), ([one_view()], [1, 1]), ([one_view()], [-1]), ([one_view()], [0])):
        with pytest.raises(ValueError, match='weights='): predict_tta(trained, x, views, weights)


def test_noise_is_torchvisions():
    "The same spread and the same clipping."
    x = torch.full((4000, 1, 4, 4), 0.95)
    torch.manual_seed(0)
    ours, theirs = noise(0.1)(x, None, gen())[0], v2.GaussianNoise(sigma=0.1)(x)
    assert (ours.mean() - theirs.mean()).abs() < 2e-3 and (ours.std() - theirs.std()).abs() < 2e-3
    assert ours.max() == theirs.max() == 1
