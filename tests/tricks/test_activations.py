"Activations and initial weights: gains by closed forms and by drawing, starts on networks of all kinds, nothing left behind."
import math

import pytest
import torch
import torch.nn.functional as F
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from scipy.stats import norm
from torch import nn

from cnn_tricks.tricks.activations import (
    ACTIVATIONS, LSUV, ChangeActivation, KaimingInit, LSUVInit, conv_stack, gaussian_mean,
                                    init_gain, kaiming_init, lsuv_init, orthonormal, replace_activations)
from cnn_tricks.nets.networks import networks
from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.data.drawn_shapes import shapes
from cnn_tricks.tools.layer_signals import dead_units, layer_signals
from cnn_tricks.core.train import train

SIZE = 21, 33


class Branches(nn.Module):
    "Groups, a layer used twice, batch norm, dropout, a head that starts at zero, a frozen layer, one input more."
    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.norm, self.act, self.drop = nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.frozen, self.head = nn.Linear(8, 6).requires_grad_(False), nn.Linear(6, 4)
        nn.init.zeros_(self.head.weight)
    def forward(self, x, more=0.):
        x = self.act(self.norm(self.twice(self.twice(self.act(self.first(x))))))
        return self.head(self.frozen(self.drop(x.mean((2, 3))))) + more


def pictures(n=16, channels=3, seed=0): return torch.randn(n, channels, *SIZE, generator=torch.Generator().manual_seed(seed))
def hooks(model): return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
def state(model): return {k: v.clone() for k, v in model.state_dict().items()}
def same(a, b): return all(torch.equal(v, b[k]) for k, v in a.items())


# gains

def test_gains_in_closed_form():
    assert init_gain('relu') == pytest.approx(math.sqrt(2), abs=1e-6)
    assert init_gain(lambda z: F.leaky_relu(z, 0.3)) == pytest.approx(math.sqrt(2/(1 + 0.3**2)), abs=1e-6)
    assert init_gain(lambda z: z) == pytest.approx(1) and init_gain(lambda z: z**2) == pytest.approx(1/math.sqrt(3))
    assert init_gain(torch.cos) == pytest.approx(1/math.sqrt((1 + math.exp(-2))/2))
    elu = 0.5 + math.exp(2)*norm.cdf(-2) - 2*math.exp(0.5)*norm.cdf(-1) + 0.5  # E[(e^z - 1)^2] below zero, term by term
    assert init_gain('elu') == pytest.approx(1/math.sqrt(elu), abs=1e-6)
    assert gaussian_mean(lambda z: (z.abs() < 1.5).double()) == pytest.approx(1 - 2*norm.cdf(-1.5), abs=1e-3)


@pytest.mark.parametrize('act', ACTIVATIONS)
def test_gains_by_drawing(act):
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    assert init_gain(act) == pytest.approx(1/ACTIVATIONS[act]()(z).square().mean().sqrt().item(), rel=0.01)


@pytest.mark.parametrize('f, args, says', [
    (init_gain, ('swish',), "act='swish': must be a function or one of sigmoid, tanh"),
    (init_gain, (torch.zeros_like,), 'has no gain'),
    (kaiming_init, (nn.Sequential(nn.Linear(2, 2)), 'swish'), "act='swish'"),
    (kaiming_init, (nn.ReLU(),), 'ReLU: has no convolution or linear layer'),
    (lsuv_init, (nn.ReLU(), torch.zeros(2)), 'has no convolution or linear layer'),
    (orthonormal, (torch.zeros(3),), r'shape \(3,\): must have at least two'),
    (replace_activations, (nn.Sequential(nn.Sigmoid()), 'relu'), 'has no activation module'),
    (replace_activations, (nn.Sequential(nn.ReLU()), 'swish'), "act='swish'"),
    (layer_signals, (nn.Linear(2, 2), torch.zeros(1, 2)), 'at least two'),
    (dead_units, (nn.Sequential(nn.Linear(2, 2)), torch.zeros(2, 2)), 'runs no module of kind'),
    (conv_stack, (1, 2, 8, 1), 'depth=1: must be at least 2'), (conv_stack, (1, 2, 8, 4, 0), 'width=0'),
    (ChangeActivation, ('swish',), "act='swish': must be one of"), (KaimingInit, ('no',), "act='no'")])
def test_bad_input(f, args, says):
    with pytest.raises(ValueError, match=says): f(*args)


# starts

@pytest.mark.parametrize('make', [lambda: nn.Conv1d(20, 30, 7), lambda: nn.Conv2d(32, 64, (3, 5), groups=4),
                                  lambda: nn.Conv3d(4, 40, 3), lambda: nn.Linear(200, 100)])
@pytest.mark.parametrize('act', ['relu', 'tanh', torch.cos])
def test_kaiming_spread(make, act):
    torch.manual_seed(0)
    m = make()
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(m.weight)
    assert kaiming_init(m, act) is m and not m.bias.any()
    assert m.weight.std().item()*math.sqrt(fan_in) == pytest.approx(init_gain(act), rel=0.04)


def test_what_is_not_started():
    for start in kaiming_init, lambda m: lsuv_init(m, pictures()):
        torch.manual_seed(0)
        model = Branches()
        before = state(model)
        start(model)
        assert not model.head.weight.any() and same(state(model.frozen), {k[7:]: v for k, v in before.items() if 'frozen' in k})
        assert same(state(model.head), {k[5:]: v for k, v in before.items() if 'head' in k})
        assert not torch.equal(model.first.weight, before['first.weight'])


@pytest.mark.parametrize('shape', [(6, 20), (20, 6), (5, 5), (4, 3, 3, 3), (30, 2, 3, 3)])
def test_orthonormal(shape):
    torch.manual_seed(3)
    q = orthonormal(torch.randn(shape)).flatten(1)
    torch.manual_seed(3)
    assert torch.allclose(q, nn.init.orthogonal_(torch.empty(shape)).flatten(1), atol=1e-5)
    assert torch.allclose(torch.linalg.svdvals(q), torch.ones(min(q.shape)), atol=1e-5)


def test_orthonormal_keeps():
    w = torch.rand(8, 4, 3, 3, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    kept = w.clone()
    assert orthonormal(w).dtype == w.dtype and orthonormal(w).shape == w.shape and torch.equal(w, kept)
    assert torch.equal(orthonormal(w), orthonormal(w.contiguous()))


@pytest.mark.parametrize('network', ['article', 'plain', 'resnet', 'conv_stack'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_lsuv_on_every_network(network, layout):
    torch.manual_seed(0)
    model = networks[network](3, 4, SIZE).to(memory_format=layout)
    found = lsuv_init(model, pictures())
    outs = layer_signals(model.eval(), pictures())
    assert list(found) == [r['name'] for r in outs] and min(found.values()) > 0
    assert all(r['std'] == pytest.approx(1, abs=0.01) for r in outs)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m.bias is not None)


def test_lsuv_scales_alone():
    "Without the orthonormal start every layer keeps its direction, and its bias is scaled with its weights."
    torch.manual_seed(0)
    model = conv_stack(3, 4, SIZE, depth=3)
    before = state(model)
    found = lsuv_init(model, pictures(), orthogonal=False)
    for name, std in found.items():
        for p in ('weight', 'bias'):
            assert torch.allclose(state(model)[f'{name}.{p}']*std, before[f'{name}.{p}'], rtol=1e-5)
    assert set(found) == {'conv0', 'conv1', 'conv2', 'head'}


def test_lsuv_leaves_behind_only_weights():
    torch.manual_seed(0)
    model = Branches()
    model.drop.eval()
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    found = lsuv_init(model, pictures(), torch.ones(16, 4))
    assert list(found) == ['first', 'twice'] and hooks(model) == 0 and torch.equal(random, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert model.norm.num_batches_tracked == 0 and not model.norm.running_mean.any()
    with pytest.raises(RuntimeError): lsuv_init(model, torch.zeros(2, 5, 9, 9))
    assert hooks(model) == 0 and modes == [m.training for m in model.modules()]


def test_lsuv_of_nothing():
    "A layer that gives out a constant cannot be scaled, and stays; what comes after it too."
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert lsuv_init(model, torch.zeros(3, 4)) == {} and all(torch.isfinite(p).all() for p in model.parameters())


# the callback on any learner

def test_callback_acts_once():
    data = shapes(60, size=SIZE)
    model, cb = conv_stack(3, 3, SIZE, depth=3, width=4), LSUVInit()
    learn = Learner(data.loaders(16), model, nn.CrossEntropyLoss(), lambda p, lr: OptimWrapper(p, torch.optim.SGD, lr=lr),
                    lr=1e-9, cbs=[cb])
    x, _ = learn.dls.train.one_batch()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        assert all(r['std'] == pytest.approx(1, abs=1e-3) for r in layer_signals(model, x.cpu()))
        found, model.conv0.weight.data = cb.found, model.conv0.weight.data*3
        learn.fit(1)
    assert cb.found is found and layer_signals(model, x.cpu())[0]['std'] == pytest.approx(3, abs=0.01)


# exchanging

@pytest.mark.parametrize('network, n', [('article', 4), ('plain', 2), ('resnet', 7), ('conv_stack', 10)])
def test_exchange_on_every_network(network, n):
    torch.manual_seed(0)
    model = networks[network](3, 4, SIZE)
    before = state(model)
    assert replace_activations(model, 'silu') == n and same(before, model.state_dict())
    assert sum(isinstance(m, nn.SiLU) for m in model.modules()) == n and not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert replace_activations(model, lambda: nn.Softplus(beta=2)) == n and model(pictures()).isfinite().all()


def test_exchange_what_is_asked_for():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.PReLU(), nn.Sequential(nn.Tanh(), nn.Sigmoid()))
    assert replace_activations(model, 'gelu', old=nn.Tanh) == 1 and isinstance(model[3][0], nn.GELU)
    assert replace_activations(model, 'relu', old=nn.Sigmoid) == 1 and isinstance(model[3][1], nn.ReLU)
    assert replace_activations(model, 'relu') == 4 and not model[1].inplace
    class Functional(nn.Module):
        def forward(self, x): return F.relu(x)
    with pytest.raises(ValueError, match='`forward` calls as functions'): replace_activations(Functional(), 'gelu')


# looking in

def test_signals_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4*19*31, 5))
    x, y = pictures(6), torch.arange(6) % 5
    got = layer_signals(model, x, y)
    z = model[0](x).detach().requires_grad_()
    logits = model[3](z.relu().flatten(1))
    logits.retain_grad()
    F.cross_entropy(logits, y).backward()
    for row, out in zip(got, (z, logits)):
        assert row['std'] == pytest.approx(out.std(correction=0).item(), rel=1e-4)
        assert row['between'] == pytest.approx(out.detach().var(0).mean().sqrt().item(), rel=1e-4)
        assert row['gradient'] == pytest.approx(out.grad.square().mean().sqrt().item(), rel=1e-4)
    assert [r['name'] for r in got] == ['0', '3'] and 'gradient' not in layer_signals(model, x)[0]


def test_looking_changes_nothing():
    torch.manual_seed(0)
    model, x = Branches(), pictures()
    before, random = state(model), torch.get_rng_state()
    layer_signals(model, x, torch.arange(16) % 4)
    dead_units(model, x)
    assert same(before, model.state_dict()) and hooks(model) == 0 and torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters()) and all(m.training for m in model.modules())


def test_dead_units():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4*9, 2), nn.ReLU())
    with torch.no_grad():
        model[0].weight.fill_(1.)
        model[0].bias.copy_(torch.tensor([0., -1., -2., -0.5]))  # pictures between 0 and 1: the second and third are dead
        model[3].weight.fill_(0.)
        model[3].bias.copy_(torch.tensor([1., -1.]))
    x = torch.rand(5, 1, 3, 3)
    assert dead_units(model, x) == {'1': 0.5, '4': 0.5}
    model(x).sum().backward()
    idle = (model[0].weight.grad.flatten() == 0).tolist()
    assert idle == [True]*4 and dead_units(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), torch.rand(4, 3), nn.Tanh) == {'1': 0.0}


# network and tricks

def test_conv_stack():
    model = conv_stack(3, 5, SIZE, depth=5, width=6)
    assert [m.stride for m in model if isinstance(m, nn.Conv2d)] == [(2, 2), (1, 1), (2, 2), (1, 1), (1, 1)]
    assert model(pictures(2)).shape == (2, 5)
    assert sum(p.numel() for p in model.parameters()) == 6*(27 + 1) + 4*6*(54 + 1) + 5*7
    torch.manual_seed(0)
    model = conv_stack(3, 5, SIZE)
    torch.manual_seed(0)
    assert torch.equal(model.conv0.weight, nn.Conv2d(3, 16, 3).weight)  # torch's own start


@pytest.mark.parametrize('trick', [ChangeActivation(), KaimingInit(), LSUV(), LSUV(orthogonal=False), KaimingInit(act='tanh')],
                         ids=lambda t: t.name)
@pytest.mark.parametrize('network', ['article', 'resnet'])
def test_tricks(trick, network):
    data = shapes(60, size=SIZE)
    base = Recipe(network=network, steps=3, batch_size=8, channels_last=True)
    assert Recipe.from_json((base + trick).to_json()).tricks == (trick,) and tricks[trick.name] is type(trick)
    assert trick.applies(Recipe(), data, None) == ''
    a, b = (train(r, data, progress=False) for r in (base, base + trick))
    assert a.losses[0] != b.losses[0] and all(map(math.isfinite, b.losses))
    x = data.test.x[:4]
    assert torch.allclose(b.trained.predict(x).sum(1), torch.ones(4), atol=1e-5)


def test_same_seed_same_start():
    data, r = shapes(60, size=SIZE), Recipe(network='conv_stack', steps=2, batch_size=8) + ChangeActivation(act='tanh') + LSUV()
    torch.manual_seed(0)
    a = train(r, data, 5, progress=False).losses
    torch.manual_seed(1)
    b, c = (train(r, data, seed, progress=False).losses for seed in (5, 6))
    assert a == b != c
