"""Lion and Muon against timm's and against loops in numpy, torch's behind the registry; the trick that swaps optimisers."""
import copy, math
from importlib import import_module
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.optimizer_classes import Lion, Muon, orthogonalize
from cnn_tricks.nets.networks import networks
from cnn_tricks.tricks.optimizers import SwapOptimizer, convert_lr
from cnn_tricks.core.components import optimizers
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.train import learner, train

ALL = 'sgd', 'adagrad', 'rmsprop', 'adam', 'adamw', 'lion', 'muon'
SHAPES = (6, 3, 5, 5), (6,), (7, 6, 3, 1), (4, 7, 2, 3), (20, 5), (3, 20)  # not square, tall and wide; no depthwise


def weights(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=g).to(dtype)) for s in SHAPES]


def walk(opt, ps, steps=12, seed=1):
    "Steps along a quadratic with noise; what the weights are afterwards."
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for i, p in enumerate(ps): p.grad = (p*(i + 1) + torch.randn(p.shape, generator=g)).detach().to(p.dtype)
        opt.step()
    return [p.detach().clone() for p in ps]


def apart(a, b): return max((x - y).abs().max().item() for x, y in zip(a, b))


@pytest.mark.parametrize('decay', [0., 0.3])
def test_lion_is_timms(decay):
    theirs = import_module('timm.optim').Lion
    a, b = weights(), weights()
    ours = walk(Lion(a, 0.02, (0.8, 0.95), decay), a)
    assert apart(ours, walk(theirs(b, 0.02, (0.8, 0.95), decay), b)) < 1e-5
    assert apart(ours, weights()) > 0.1


@pytest.mark.parametrize('nesterov', [False, True])
def test_muon_is_timms(monkeypatch, nesterov):
    "In single precision (timm computes in bfloat16) and with our choice of hidden weights; AdamW for the rest."
    from timm.optim import Muon as theirs, muon as module
    single = partial(module.zeropower_via_newtonschulz, dtype=torch.float32)
    monkeypatch.setattr(module, 'zeropower_via_newtonschulz', single)
    a, b = weights(), weights()
    opt = Muon(a, 0.02, (0.9, 0.99), 0.1, nesterov)
    hidden = {id(p) for p in opt.hidden()}
    assert [id(p) in hidden for p in a] == [False, False, True, True, True, False]
    groups = [{'params': [p], 'use_muon': id(q) in hidden} for p, q in zip(b, a)]
    other = theirs(groups, 0.02, 0.1, 0.9, nesterov, ns_coefficients='original', betas=(0.9, 0.99))
    ours, timms = walk(opt, a), walk(other, b)
    same = [i for i, p in enumerate(a) if id(p) in hidden or not nesterov]  # with nesterov timm's rest takes NAdamW
    assert apart([ours[i] for i in same], [timms[i] for i in same]) < 1e-5 and apart(ours, weights()) > 0.1


def test_muon_is_torchs():
    "Up to bfloat16, in which torch computes: two of its 8-bit fractions in a hundred."
    if not hasattr(torch.optim, 'Muon'): pytest.skip('this torch has no Muon: 2.9 or newer')
    a = [p for p in weights() if p.ndim == 2 or p.ndim == 4]
    b = nn.Parameter(a[3].detach().clone())
    ours, before = walk(Muon(a, 0.02, weight_decay=0.1), a)[3], b.detach().clone()
    theirs = torch.optim.Muon([b], 0.02, 0.1, 0.95, adjust_lr_fn='match_rms_adamw')
    g = torch.Generator().manual_seed(1)
    for _ in range(12):
        for i, p in enumerate(a):
            noise = torch.randn(p.shape, generator=g)
            if i == 3: b.grad = (b*4 + noise).detach()
        theirs.step()
    assert (b - ours).norm() < 0.03 * (b - before).norm()


@pytest.mark.parametrize('shape', [(3, 7), (7, 3), (5, 5), (1, 4), (16, 200)])
def test_orthogonalize(shape):
    "Against the singular value decomposition: the same singular vectors, all values near 1; the scale does not count."
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, v = torch.linalg.svd(g, full_matrices=False)
    o = orthogonalize(g, 5)
    d = u.T @ o @ v.T
    assert o.shape == g.shape and o.dtype == g.dtype
    assert (d - d.diag().diag()).abs().max() < 1e-8 and d.diag().min() > 0.5 and d.diag().max() < 1.25
    assert apart([orthogonalize(1000*g)], [o]) < 1e-9 and apart([orthogonalize(g.T).T], [o]) < 1e-9
    by_hand = s / s.norm()
    for _ in range(5): by_hand = 3.4445*by_hand - 4.7750*by_hand**3 + 2.0315*by_hand**5
    assert torch.allclose(d.diag(), by_hand, atol=1e-8)


def test_orthogonalize_half_and_zero():
    g = torch.randn(8, 20, generator=torch.Generator().manual_seed(0))
    half = orthogonalize(g, dtype=torch.bfloat16)
    assert half.dtype == torch.float32 and 0 < (half - orthogonalize(g)).abs().max() < 0.05
    assert torch.equal(orthogonalize(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_lion_in_numpy():
    p = nn.Parameter(torch.tensor([1., -2., 3.], dtype=torch.float64))
    opt, w, m = Lion([p], 0.1, (0.9, 0.99), 0.5), np.array([1., -2., 3.]), np.zeros(3)
    for t in range(5):
        g = np.array([math.sin(t), math.cos(2*t), -0.3])
        p.grad = torch.tensor(g)
        opt.step()
        w, m = w - 0.1*(np.sign(0.9*m + 0.1*g) + 0.5*w), 0.99*m + 0.01*g
    np.testing.assert_allclose(p.detach().numpy(), w, atol=1e-12)
    np.testing.assert_allclose(opt.state[p]['exp_avg'].numpy(), m, atol=1e-12)


@pytest.mark.parametrize('name', ALL)
def test_state(name):
    "Saved half-way and loaded into another optimiser over other weights, the rest of the walk is the same, bit for bit."
    a = weights()
    opt = optimizers[name](a, 0.01)
    walk(opt, a)
    b = [nn.Parameter(p.detach().clone()) for p in a]
    other = optimizers[name](b, 0.5)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    twin_opt, twin = copy.deepcopy((opt, a))
    straight = walk(opt, a, seed=2)
    assert all(map(torch.equal, straight, walk(other, b, seed=2)))
    assert all(map(torch.equal, straight, walk(twin_opt, twin, seed=2)))


@pytest.mark.parametrize('name', ['lion', 'muon'])
def test_one_step_is_one_step(name):
    "Gradients and their absence are left as they were; a closure is called once; layouts in memory change nothing."
    a, b = weights(), weights()
    opt = optimizers[name](a, 0.01)
    for p in b: p.data = p.data.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.data
    for p in a: p.grad = torch.ones_like(p)
    a[2].grad, before, calls = None, a[2].detach().clone(), []
    def closure():
        assert torch.is_grad_enabled()
        calls.append(1)
        return torch.tensor(7.)
    assert opt.step(closure) == 7 and len(calls) == 1 and torch.equal(a[2], before) and a[2].grad is None
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in a if p is not a[2])
    assert opt.step() is None
    a = weights()
    assert apart(walk(optimizers[name](a, 0.01), a), walk(optimizers[name](b, 0.01), b)) < 1e-5


def test_hidden():
    "In groups of several, and with a depthwise convolution, which has one input channel to each filter."
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1),
                        nn.Flatten(), nn.Linear(4, 5), nn.Linear(5, 2))
    want = [net[3].weight, net[5].weight]
    groups = [list(net[:3].parameters()), list(net[3:].parameters())]
    for params in (list(net.parameters()), [{'params': g} for g in groups]):
        assert [id(p) for p in Muon(params, 0.1).hidden()] == [id(p) for p in want]
    assert Muon(list(net[5:].parameters()), 0.1).hidden() == []
    plain, resnet = (networks[n](1, 10, 28) for n in ('plain', 'resnet'))
    assert [id(p) for p in Muon(plain.parameters()).hidden()] == [id(plain.conv1[0].weight)]
    assert len(Muon(resnet.parameters()).hidden()) == sum(isinstance(m, nn.Conv2d) for m in resnet.modules()) - 1


@pytest.mark.parametrize('make, error, match', [
    (lambda: Lion(weights(), -1.), ValueError, 'lr=-1.0'), (lambda: Lion(weights(), betas=(1., 0.9)), ValueError, r'betas\[0\]=1'),
    (lambda: Muon(weights(), math.nan), ValueError, 'lr=nan'), (lambda: Muon(weights(), betas=(0.9, -.1)), ValueError, r'betas\[1\]'),
    (lambda: Muon(weights(), weight_decay=-1), ValueError, 'weight_decay=-1'), (lambda: Muon(weights(), steps=0), ValueError, 'steps=0'),
    (lambda: orthogonalize(torch.ones(2, 2, 2)), ValueError, r'shape \(2, 2, 2\)'),
    (lambda: orthogonalize(torch.ones(2, 2), 0), ValueError, 'steps=0'),
    (lambda: SwapOptimizer(to='mion'), ValueError, "unknown optimizer 'mion'; did you mean"),
    (lambda: SwapOptimizer(to='lion', args={'beta3': 1}), ValueError, 'no argument'),
    (lambda: SwapOptimizer(lr=0.), ValueError, 'lr=0'), (lambda: SwapOptimizer(to=3), TypeError, 'to=3'),
    (lambda: plan(Recipe(optimizer='muon') + SwapOptimizer()), ValueError, "has 'muon' already"),
    (lambda: convert_lr(0.1, 'adam', 'nothing'), ValueError, 'unknown optimizer')])
def test_bad_input(make, error, match):
    with pytest.raises(error, match=match): make()


def test_trick():
    base = Recipe(optimizer='adamw', optimizer_args={'weight_decay': 0.2}, lr=0.01)
    for to in ALL:
        if to == 'adamw': continue
        r = plan(base + SwapOptimizer(to)).recipe
        assert (r.optimizer, r.optimizer_args) == (to, {}) and r.lr == pytest.approx(convert_lr(0.01, 'adamw', to))
        assert convert_lr(r.lr, to, 'adamw') == pytest.approx(0.01)
    r = plan(base + SwapOptimizer('sgd', lr=0.3, args={'momentum': 0.5})).recipe
    assert (r.lr, r.optimizer_args) == (0.3, {'momentum': 0.5})
    assert plan(base + SwapOptimizer('adamw', args={'weight_decay': 0.})).recipe.optimizer_args == {'weight_decay': 0.}
    full = base + SwapOptimizer('lion', lr=0.001, args={'beta1': 0.8})
    assert Recipe.from_json(full.to_json()) == full


@pytest.fixture(scope='module')
def data(): return embedded().subset(200).subset(100, parts=('valid',))


@pytest.mark.parametrize('name', ALL)
def test_trains(data, name):
    "Under one-cycle, which moves momentum too; three steps do something; and what was planned is what the optimiser had."
    base = Recipe(network='plain', network_args={'widths': [4, 6, 6]}, batch_size=20, steps=3, schedule='one_cycle',
                  optimizer='adamw' if name != 'adamw' else 'sgd', lr=0.01)
    recipe = base + SwapOptimizer(name)
    run = train(recipe, data, progress=False)
    start = learner(recipe, data)
    lr = plan(recipe).recipe.lr
    assert run.lrs[0] == pytest.approx(lr/25) and max(run.lrs) <= lr*(1 + 1e-9) and all(map(math.isfinite, run.losses))
    assert apart(run.trained.model.parameters(), start.model.parameters()) > 1e-4
