"""Pooling: against timm, finite differences and loops; sizes kept by every exchange; bad input; what a trick refuses."""
import itertools
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnn_tricks.nets.layer_costs import count_params
from cnn_tricks.tools.shift_consistency import moved, shift_consistency, shift_test
from cnn_tricks.data.images import Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.nets.networks import networks
from cnn_tricks.tricks.pooling import BlurPool, GlobalPool, Pooling, binomial, exchange_pooling, pool_globally
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.result import load_trained
from cnn_tricks.core.train import learner, train

KINDS = 'max', 'average', 'stride', 'blur'


@pytest.fixture(scope='module')
def data(): return embedded().subset(100).subset(50, parts=('valid', 'test'))


def test_binomial_is_repeated_pairs():
    "The filter of n + 1 taps is that of n, convolved with (1/2, 1/2)."
    for n in range(1, 9):
        want = F.conv1d(F.pad(binomial(n)[None, None], (1, 1)), torch.full((1, 1, 2), 0.5))[0, 0]
        torch.testing.assert_close(binomial(n + 1), want)


@pytest.mark.parametrize('taps, mode', list(itertools.product((3, 5, 7), ('reflect', 'constant'))))
def test_as_timm(taps, mode):
    timm = import_module('timm.layers')
    for h, w in ((8, 8), (9, 12), (7, 5)):
        x = torch.randn(2, 3, h, w)
        theirs = timm.BlurPool2d(filt_size=taps, stride=2, pad_mode=mode)(x)
        torch.testing.assert_close(BlurPool(taps, 2, padding_mode=mode)(x), theirs)


def test_blur_keeps_what_is_even():
    "An even map stays as it is, up to its border and down to one pixel; so does the mean of a wave that repeats."
    for taps, stride, size in itertools.product((1, 3, 5), (1, 2, 3), ((1, 1), (2, 5), (6, 9))):
        out = BlurPool(taps, stride)(torch.full((1, 2, *size), 3.))
        assert out.shape[2:] == tuple(-(-n // stride) for n in size) and torch.allclose(out, torch.tensor(3.), atol=1e-6)
    checker = (torch.arange(64).view(8, 8) // 8 + torch.arange(8)) % 2 * 1.
    inside = BlurPool(3, 2, padding_mode='reflect')(checker[None, None])
    assert torch.allclose(inside, torch.tensor(0.5))  # the finest pattern becomes its mean, and no false one


def test_blur_dtypes_layouts_gradients():
    x = torch.randn(2, 4, 6, 7)
    want = BlurPool()(x)
    last = BlurPool()(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, want)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(BlurPool().double()(x.double()).float(), want)
    assert (BlurPool().bfloat16()(x.bfloat16()).float() - want).abs().max() < 0.05
    assert torch.autograd.gradcheck(BlurPool(5, 2).double(), x[:1, :2, :5].double().requires_grad_())


def pools():
    "Poolings that networks have: windows, strides, paddings, rounded down and up."
    for k, s, up in itertools.product((2, 3, 4), (2, 3), (False, True)):
        for p in {0, k // 2}:
            yield nn.MaxPool2d(k, s, p, ceil_mode=up)
            yield nn.AvgPool2d(k, s, p, ceil_mode=up)


@pytest.mark.parametrize('kind', KINDS)
def test_exchange_keeps_sizes_or_says_no(kind):
    kept = refused = 0
    for pool, window in itertools.product(pools(), (None, 3, 5)):
        if kind == 'stride' and window: continue
        net = nn.Sequential(nn.Identity(), pool)
        try: n = exchange_pooling(net, kind, window)
        except ValueError as e:
            assert 'try a kernel_size' in str(e) or 'at most half' in str(e)
            refused += 1
            continue
        kept += n
        for size in ((9, 12), (10, 13), (11, 15), (17, 16)):
            x = torch.randn(1, 2, *size)
            assert net(x).shape == pool(x).shape, (pool, net[1], size)
    assert kept > 2*refused and kept >= 8


def test_exchange_values():
    x = torch.randn(2, 3, 9, 10)
    def to(*args, old=None):
        net = nn.Sequential(nn.Identity(), old or nn.MaxPool2d(2))
        assert exchange_pooling(net, *args) == 1
        return net(x)
    torch.testing.assert_close(to('average'), F.avg_pool2d(x, 2))
    torch.testing.assert_close(to('stride'), x[..., 0:8:2, 0:10:2])
    torch.testing.assert_close(to('stride', old=nn.MaxPool2d(3, 2, 1)), x[..., ::2, ::2])  # the middle of its window
    torch.testing.assert_close(to('max', 3), F.max_pool2d(x, 3, 2, ceil_mode=True))
    torch.testing.assert_close(to('max', old=nn.AvgPool2d(2)), F.max_pool2d(x, 2))
    every = F.pad(F.max_pool2d(x, 2, 1), (1, 1, 1, 1), mode='replicate')
    want = F.avg_pool2d(F.avg_pool2d(every, 2, 1), 2, 1)[..., ::2, ::2]  # two means of 2 make the blur of 3
    torch.testing.assert_close(to('blur'), want)


def test_what_is_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(2, return_indices=True), nn.Conv2d(8, 8, 1))
    assert exchange_pooling(nn.Sequential(net[0], net[1], net[3]), 'blur') == 0  # reads images; stride 1; stride 1
    assert exchange_pooling(nn.Sequential(nn.Conv2d(8, 8, 3, 2)), 'max') == 0
    assert exchange_pooling(nn.Sequential(nn.Conv2d(8, 8, 3, 2)), 'blur') == 1
    assert exchange_pooling(nn.Sequential(nn.MaxPool2d(2)), 'max') == 0
    shared = nn.MaxPool2d(2)
    twice = nn.Sequential(shared, nn.ReLU(), shared)
    assert exchange_pooling(twice, 'average') == 1 and twice[0] is twice[2]
    with pytest.raises(ValueError, match='return_indices'): exchange_pooling(nn.Sequential(net[2]), 'blur')


def test_blurred_convolution():
    conv = nn.Conv2d(8, 4, 3, 2, 1)
    net, x = nn.Sequential(conv), torch.randn(2, 8, 9, 12)
    plain = net(x)
    exchange_pooling(net, 'blur', 5)
    assert net(x).shape == plain.shape and net[0][1] is conv
    torch.testing.assert_close(net(x), conv(BlurPool(5, 1)(x)))


@pytest.mark.parametrize('network, size', [('article', (28, 31)), ('plain', (20, 33))])
def test_pool_globally(network, size):
    torch.manual_seed(0)
    net, same = networks[network](3, 7, size).eval(), networks[network](3, 7, size).eval()
    same.load_state_dict(net.state_dict())
    state = torch.get_rng_state()
    pool_globally(net)
    assert torch.equal(state, torch.get_rng_state())  # later tricks and layers draw as before
    flat = {n: m for n, m in same.named_modules() if isinstance(m, (nn.Flatten, nn.Linear))}
    linear = next(m for m in flat.values() if isinstance(m, nn.Linear))
    channels = net.get_submodule(next(n for n, m in flat.items() if m is linear)).in_features
    assert count_params(same) - count_params(net) == linear.out_features*(linear.in_features - channels)
    for s in (size, (40, 40)): assert net(torch.randn(2, 3, *s)).shape == (2, 7)
    with pytest.raises(ValueError, match='already'): pool_globally(net)


def test_pool_globally_needs_a_flatten():
    with pytest.raises(ValueError, match='no nn.Flatten'): pool_globally(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    with pytest.raises(ValueError, match='no nn.Flatten'): pool_globally(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))


@pytest.mark.parametrize('make, error, match', [
    (lambda: binomial(0), ValueError, 'kernel_size=0'), (lambda: binomial(3.), TypeError, 'kernel_size=3.0'),
    (lambda: BlurPool(4), ValueError, 'kernel_size=4: must be odd'),
    (lambda: BlurPool(padding_mode='circular'), ValueError, "padding_mode='circular'"),
    (lambda: exchange_pooling(nn.Sequential(), 'median'), ValueError, "kind='median'"),
    (lambda: exchange_pooling(nn.Sequential(), 'stride', 3), ValueError, 'kernel_size=3'),
    (lambda: exchange_pooling(nn.MaxPool2d(2), 'blur'), ValueError, 'itself'),
    (lambda: exchange_pooling(nn.Sequential(nn.MaxPool2d(2, dilation=2)), 'average'), ValueError, 'dilation'),
    (lambda: exchange_pooling(nn.Sequential(nn.MaxPool2d((2, 3))), 'max', 3), ValueError, 'square'),
    (lambda: Pooling('median'), ValueError, 'kind'), (lambda: Pooling(kernel_size=0), ValueError, 'kernel_size'),
    (lambda: learner(Recipe(network='resnet') + GlobalPool(), embedded()), ValueError, 'already'),
    (lambda: learner(Recipe() + Pooling('max'), embedded()), ValueError, 'no pooling to exchange'),
    (lambda: learner(Recipe() + Pooling(kernel_size=4), embedded()), ValueError, 'must be odd'),
    (lambda: shift_test(None, Part(torch.zeros(1, 1, 4, 4).byte(), torch.zeros(1).long()), 4), ValueError, 'pixels=4'),
    (lambda: shift_test(None, Part(torch.zeros(1, 1, 4, 4).byte(), torch.zeros(1).long()), 1.), TypeError, 'pixels=1.0'),
    (lambda: shift_test(None, Part(torch.zeros(0, 1, 4, 4).byte(), torch.zeros(0).long())), ValueError, 'no images')])
def test_bad_input(make, error, match):
    with pytest.raises(error, match=match): make()


@pytest.mark.parametrize('network, trick', [('plain', Pooling()), ('plain', GlobalPool()), ('resnet', Pooling()),
                                            ('article', Pooling('average', 4))])
def test_trained_and_loaded(data, tmp_path, network, trick):
    "Trains, saves and loads with the same answers; the first weights are those of the run without."
    recipe = Recipe(network=network, steps=2, batch_size=20, lr=1e-3) + trick
    res = train(recipe, data, 0, progress=False)
    res.trained.save(tmp_path)
    again = load_trained(tmp_path).predict(data.test.x)
    assert torch.allclose(again, res.trained.predict(data.test.x), atol=1e-6)
    if isinstance(trick, GlobalPool): return
    shapes = lambda r: [tuple(p.shape) for p in train(r, data, 0, progress=False).trained.model.parameters()]
    assert shapes(recipe) == shapes(recipe.replace(tricks=()))


def test_colour_images_that_are_not_square(data):
    part = Part(torch.randint(0, 256, (40, 3, 24, 37), dtype=torch.uint8), torch.arange(40) % 10)
    colour = type(data)(part, part, part, data.classes)
    for t in (Pooling(), Pooling('stride'), GlobalPool()):
        res = train(Recipe(steps=1, batch_size=20) + t, colour, 0, progress=False)
        assert 0 <= shift_consistency(res.trained.predict, part, 2) <= 1


def test_moved():
    x = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    for down, right in itertools.product((-2, 0, 1), (-3, 0, 2)):
        out = moved(x, down, right)
        for i, j in itertools.product(range(5), range(7)):
            a, b = min(max(i - down, 0), 4), min(max(j - right, 0), 6)
            assert torch.equal(out[:, :, i, j], x[:, :, a, b])
    assert moved(x).data_ptr() != x.data_ptr()


def test_shift_test_by_hand():
    "One bright pixel; the answer is the row that it is in. A move to the side changes nothing, up and down everything."
    x = torch.zeros(3, 1, 6, 6, dtype=torch.uint8)
    for i in range(3): x[i, 0, i + 1, 3] = 255
    part = Part(x, torch.tensor([1, 2, 3]))
    rows = shift_test(lambda x: x[:, 0].float().sum(2), part, 2)
    assert [r['pixels'] for r in rows] == [0, 1, 2] and [r['accuracy'] for r in rows] == [1, .5, .5]
    assert rows[1]['consistency'] == 0.5 and shift_consistency(lambda x: x[:, 0].float().sum(2), part, 2) == 0.5
