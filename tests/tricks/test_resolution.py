"Progressive resizing: sizes and strengths by other means, resizing against a matrix, and nothing left behind."
import math

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelBatchException, CancelFitException
from fastai.data.core import DataLoaders, TfmdDL
from fastai.learner import Learner
from torch import nn
from torch.optim.swa_utils import update_bn

from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.nets.resizing import augment_some, eased_strength, norm_layers, progressive_size, recalibrate_bn
from cnn_tricks.nets.resizing import resize_images
from cnn_tricks.tricks.resolution import ProgressiveResizing, SmallFirst
from cnn_tricks.data.drawn_shapes import shapes
from cnn_tricks.core.train import train

SIZE = 24, 20


class Net(nn.Module):
    "Batch norm, dropout, and a head that flattens: what makes trouble when images change their size."
    def __init__(self, size=SIZE, p=0.4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(p))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4*(size[0]//2)*(size[1]//2), 3))
    def forward(self, x): return self.head(self.body(x))


class Fails(Callback):
    "Raises at one event of the third step."
    order = 60
    def __init__(self, event, error): self.event, self.error = event, error
    def __call__(self, event):
        if event == self.event and self.training and self.iter == 2 and self.epoch == 0: raise self.error


def learner(model=None, n=64, size=SIZE, cbs=()):
    "A plain fastai learner on noise, with fastai's own loaders: 4 steps an epoch."
    g = torch.Generator().manual_seed(0)
    items = [(torch.rand(3, *size, generator=g), torch.tensor(i % 3)) for i in range(n)]
    dls = DataLoaders(TfmdDL(items, bs=16, shuffle=True, drop_last=True), TfmdDL(items[:20], bs=20))
    torch.manual_seed(0)
    return Learner(dls, model or Net(size), nn.CrossEntropyLoss(), opt_func=lambda p, lr: adam(p, lr), lr=0.01, cbs=list(cbs))


def adam(params, lr):
    from fastai.optimizer import OptimWrapper
    return OptimWrapper(params, torch.optim.Adam, lr=lr)


def fit(learn, epochs=3, cbs=()):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, cbs=list(cbs))


def left_behind(model):
    "Hooks on any module."
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# sizes and strengths

@pytest.mark.parametrize('full', [(28, 28), (64, 48), (33, 20), (224, 224)])
@pytest.mark.parametrize('scale, delay, final, step', [(.5, .5, .2, 4), (.25, 0., .5, 1), (.6, .8, .2, 7), (.5, .3, .3, 2)])
def test_sizes(full, scale, delay, final, step):
    fracs = [i/400 for i in range(401)]
    sizes = [progressive_size(f, full, scale, delay, final, step) for f in fracs]
    for side, seen in zip(full, zip(*sizes)):
        assert list(seen) == sorted(seen) and seen[-1] == side
        assert all((side - s) % step == 0 and s >= scale*side - 1e-6 for s in seen)
        assert seen[0] < scale*side + step  # no larger than it must be
    assert all(s == sizes[0] for f, s in zip(fracs, sizes) if f < delay)
    assert all(s == full for f, s in zip(fracs, sizes) if f >= 1 - final)


@pytest.mark.parametrize('f, args, says', [
    (progressive_size, dict(frac=1.2, full=(8, 8)), r'frac=1.2: must lie in \[0, 1\]'),
    (progressive_size, dict(frac=0, full=(8, 8), initial_scale=1), r'initial_scale=1: must lie in \(0, 1\)'),
    (progressive_size, dict(frac=0, full=(8, 8), finetune_fraction=0), r'finetune_fraction=0: must lie in \(0, 1\)'),
    (progressive_size, dict(frac=0, full=(8, 8), delay_fraction=.9), '= 1.1: must be at most 1'),
    (progressive_size, dict(frac=0, full=(8, 8), size_increment=0), 'size_increment=0: must be at least 1'),
    (eased_strength, dict(size=(8, 8), smallest=(4, 4), full=(8, 8), initial_strength=2), 'initial_strength=2: must lie'),
    (eased_strength, dict(size=(9, 9), smallest=(4, 4), full=(8, 8)), r'size=\(9, 9\): must lie between'),
    (resize_images, dict(x=torch.zeros(3, 8, 8), size=(4, 4)), r'x is torch.float32 \(3, 8, 8\): must be'),
    (resize_images, dict(x=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), size=(4, 4)), 'x is torch.uint8'),
    (resize_images, dict(x=torch.zeros(1, 3, 8, 8), size=(0, 4)), r'size=\(0, 4\): must be at least 1'),
    (ProgressiveResizing, dict(initial_scale=1.), 'initial_scale=1.0'),
    (ProgressiveResizing, dict(recalibrate=-1), 'recalibrate=-1: must be at least 0'),
    (SmallFirst, dict(initial_scale=1.), 'initial_scale=1.0'),
    (SmallFirst, dict(delay_fraction=.9, finetune_fraction=.2), 'must be at most 1')])
def test_bad_input(f, args, says):
    with pytest.raises(ValueError, match=says): f(**args)


def test_strength_of_the_paper():
    "EfficientNetV2-S: 128 to 300 pixels in four stages, dropout 0.1 to 0.3: a third of it at first, and evenly on."
    stages = [128 + (300 - 128)*i/3 for i in range(4)]
    got = [0.3*eased_strength((s, s), (128, 128), (300, 300), 1/3) for s in stages]
    assert got == pytest.approx([0.1 + 0.2*i/3 for i in range(4)])
    assert eased_strength((8, 8), (8, 8), (8, 8), 0.1) == 1


# resizing

def triangle(n, m):
    "(m, n): row i holds the weights with which pixel i of the smaller side averages the pixels of the larger one."
    scale = n/m
    at, px = (torch.arange(m, dtype=torch.float64) + .5)*scale, torch.arange(n, dtype=torch.float64) + .5
    w = (1 - (px - at[:, None]).abs()/max(scale, 1)).clamp(min=0)
    return w/w.sum(1, keepdim=True)


@pytest.mark.parametrize('full, size', [((28, 28), (16, 16)), ((31, 20), (17, 9)), ((8, 8), (8, 5)), ((5, 6), (1, 1))])
def test_resizing_is_two_matrices(full, size):
    x = torch.rand(2, 3, *full, dtype=torch.float64, requires_grad=True)
    rows, cols = triangle(full[0], size[0]), triangle(full[1], size[1])
    got = resize_images(x, size)
    assert torch.allclose(got, rows @ x @ cols.T, atol=1e-7)
    g = torch.rand_like(got)
    assert torch.allclose(torch.autograd.grad(got, x, g)[0], rows.T @ g @ cols, atol=1e-7)


def test_resizing_keeps():
    x = torch.rand(2, 3, 12, 10).contiguous(memory_format=torch.channels_last)
    kept = x.clone()
    y = resize_images(x, (6, 4))
    assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == x.dtype and torch.equal(x, kept)
    assert resize_images(x, (12, 10)) is x
    assert torch.allclose(resize_images(torch.full((1, 1, 9, 7), .3), (4, 5)), torch.tensor(.3))


# batch norm

def test_recalibrated_against_torch():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2, momentum=.3))
    batches = [torch.rand(6, 3, 9, 7) for _ in range(4)]
    assert recalibrate_bn(net.eval(), iter(batches)) == 4
    got = [b.clone() for b in net.buffers()]
    first = torch.stack([net[0](x) for x in batches]).detach()
    assert torch.allclose(got[0], first.mean((0, 1, 3, 4)), atol=1e-6)
    assert torch.allclose(got[1], first.var((1, 3, 4)).mean(0), atol=1e-6) and got[2] == 4  # `var` is the unbiased one
    update_bn(batches, net)
    for a, b in zip(got, net.buffers()): assert torch.allclose(a, b, atol=1e-6)
    assert not net.training and [net[1].momentum, net[4].momentum] == [.1, .3]


def test_recalibrating_changes_nothing_else():
    net = Net().train()
    net.body[1].running_mean.fill_(7)
    before = [b.clone() for b in net.buffers()]
    def breaks():
        yield torch.rand(4, 3, *SIZE)
        raise RuntimeError('no more')
    with pytest.raises(RuntimeError, match='no more'): recalibrate_bn(net, breaks())
    assert recalibrate_bn(net, []) == 0 and recalibrate_bn(net, [torch.rand(4, 3, *SIZE)], layers=[]) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers()))
    state, drawn = torch.get_rng_state(), net.body[3].p
    assert recalibrate_bn(net, [torch.rand(4, 3, *SIZE, generator=torch.Generator())]) == 1 and drawn == .4
    assert torch.equal(state, torch.get_rng_state())  # dropout drew nothing: it was off
    assert all(m.training for m in net.modules()) and net.body[1].momentum == .1
    assert norm_layers(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3))) == []


# augmentation

def test_augment_some():
    x, y, chosen = torch.rand(6, 1, 4, 4), torch.arange(6), torch.tensor([1, 0, 0, 1, 1, 0]).bool()
    kept = x.clone()
    new_x, new_y = augment_some([lambda x, y, g: (x + 1, y + 10), lambda x, y, g: (x*2, y)], x, y, chosen)
    assert torch.equal(new_x[chosen], (kept[chosen] + 1)*2) and torch.equal(new_x[~chosen], kept[~chosen])
    assert new_y.tolist() == [10, 1, 2, 13, 14, 5] and torch.equal(x, kept) and y.tolist() == list(range(6))
    assert augment_some([lambda x, y, g: (x + 1, y)], x, y, ~chosen & chosen)[0] is x
    assert augment_some([lambda x, y, g: (x[..., 1:, :], y)], x, y, chosen)[0].shape == (6, 1, 3, 4)
    soft = augment_some([lambda x, y, g: (x, F.one_hot(y, 6).float())], x, y, chosen)[1]
    assert soft.shape == (6, 6) and soft.dtype == torch.float32


# the callback on any learner

def test_what_the_network_sees():
    learn, cb, seen = learner(), ProgressiveResizing(), []
    drop = learn.model.body[3]
    learn.model.body[0].register_forward_pre_hook(lambda m, a: seen.append((m.training, *a[0].shape[2:])) if len(a[0]) > 1 else None)
    fit(learn, 3, [cb])
    trained = [s for mode, *s in seen if mode]
    assert [tuple(s) for s in trained] == cb.sizes and len(cb.sizes) == 12
    assert cb.sizes[0] == (12, 12) and cb.sizes[-1] == SIZE and len(set(cb.sizes)) > 2
    assert {tuple(s) for mode, *s in seen if not mode} == {SIZE}  # validation, and batch norm's statistics
    assert drop.p == 0.4 and left_behind(learn.model) == 1  # this test's own


def test_dropout_is_eased():
    learn, cb, ps = learner(), ProgressiveResizing(delay_fraction=0.25, finetune_fraction=.25), []
    learn.model.body[3].register_forward_hook(lambda m, a, y: ps.append(m.p) if m.training else None)
    fit(learn, 3, [cb])
    strengths = [eased_strength(s, cb.sizes[0], SIZE, 1/3) for s in cb.sizes]
    assert ps == pytest.approx([0.4*s for s in strengths]) and ps[0] == pytest.approx(0.4/3) and ps[-1] == 0.4


class Breaks(nn.Module):
    "Raises in the third training forward."
    def __init__(self, error):
        super().__init__()
        self.error, self.n = error, 0
    def forward(self, x):
        self.n += self.training
        if self.training and self.n == 3: raise self.error
        return x


@pytest.mark.parametrize('event, error', [
    ('before_batch', CancelBatchException()), ('after_pred', CancelFitException()), ('after_loss', CancelBatchException()),
    ('after_pred', RuntimeError('stop')), ('after_backward', RuntimeError('stop')), ('after_step', KeyboardInterrupt()),
    ('forward', RuntimeError('stop')), ('forward', CancelFitException())], ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_nothing_left_behind(event, error):
    data = shapes(110, size=SIZE)
    dls = data.loaders(16)
    for f in ('a', 'b'): dls.train.add_augment(lambda x, y, g, f=f: (x, y))
    model, fns = Net(), list(dls.train.augment)
    if event == 'forward': model.body.append(Breaks(error))
    learn = Learner(dls, model, nn.CrossEntropyLoss(), opt_func=lambda p, lr: adam(p, lr), lr=0.01)
    cb, momentum = ProgressiveResizing(), model.body[1].momentum
    try: fit(learn, 3, [cb, Fails(event, error)])
    except (RuntimeError, KeyboardInterrupt) as e: assert e is error
    assert left_behind(model) == 0 and dls.train.augment == fns
    assert model.body[3].p == 0.4 and model.body[1].momentum == momentum
    if isinstance(error, CancelFitException):  # stopped while small; the statistics are those of full images
        stats = [b.clone() for b in model.buffers()]
        recalibrate_bn(model, [dls.train.new().one_batch()[0]])
        assert cb.sizes[-1] != SIZE and stats[2] == 1


def test_a_network_of_one_size():
    class Fixed(Net):
        def forward(self, x): return self.head[1](self.body(x).flatten(1))
    with pytest.raises(ValueError, match=r'no images smaller than \(24, 20\): it needs a pooling'):
        fit(learner(Fixed()), 1, [ProgressiveResizing()])
    with pytest.raises(ValueError, match='no step from initial_scale=0.9'):
        fit(learner(), 1, [ProgressiveResizing(initial_scale=.9)])


def test_as_small_as_the_network_takes():
    "Three valid convolutions and two poolings need 18 pixels; half of 28 would be 14, or 16 in steps of 4."
    cb = ProgressiveResizing()
    r = train(Recipe(steps=10, batch_size=8), shapes(60, size=28), progress=False, cbs=[cb])
    assert cb.sizes[0] == (20, 20) and cb.sizes[-1] == (28, 28) and r.steps == 10


def test_every_fit_grows():
    learn, cb = learner(cbs=[ProgressiveResizing()]), None
    for epochs in 1, 2:
        fit(learn, epochs)
        cb = learn.progressive_resizing
        assert len(cb.sizes) == 4*epochs and cb.sizes[0] < SIZE == cb.sizes[-1]


# the trick

def test_trick():
    base, data = Recipe(steps=3, batch_size=8, network='resnet', network_args={'width': 4}), shapes(60, size=SIZE)
    trick = SmallFirst()
    assert Recipe.from_json((base + trick).to_json()).tricks == (trick,) and tricks['progressive_resizing'] is SmallFirst
    assert trick.applies(Recipe(), data, None) == '' and '(8, 6)' in SmallFirst(initial_scale=.6).applies(Recipe(), shapes(60, size=(8, 8)).resize((8, 6)), None)
    a, b = (train(r, data, progress=False).losses for r in (base, base + trick))
    assert a[0] != b[0] and all(map(math.isfinite, b))


def test_resumed_in_small_and_in_growing(tmp_path):
    "With dropout, eased augmentation and batch norm: the weights and statistics are those of the straight run."
    data = shapes(100, size=28)
    class Stop(Callback):
        order = 100
        def __init__(self, at): self.at = at
        def after_batch(self):
            if self.training and self.run_control.state.step == self.at: raise RuntimeError('stop')
    for network, at in (('article', 4), ('resnet', 9)):
        recipe = Recipe(steps=13, batch_size=16, network=network, lr=3e-3, schedule='one_cycle') + FlipShift() + SmallFirst()
        out = tmp_path/network
        straight = train(recipe, data, progress=False)
        with pytest.raises(RuntimeError, match='stop'):
            train(recipe, data, progress=False, out=out, checkpoint_every=0, cbs=[Stop(at)])
        resumed = train(recipe, data, progress=False, out=out, resume=True)
        assert straight.losses == resumed.losses
        for a, b in zip(straight.trained.model.state_dict().values(), resumed.trained.model.state_dict().values()):
            assert torch.equal(a, b)
