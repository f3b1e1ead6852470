"""Depthwise convolutions: the layers, the nearest pair, the conversion of networks, the trick, and what is timed."""
import copy, math
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import Conv2dNormActivation

from cnn_tricks.nets.layer_costs import count_macs
from cnn_tricks.tricks.depthwise import (
    Depthwise, LayerNorm2d, depthwise_form, is_dense, nearest_separable,
                                  to_depthwise, ungrouped)
from cnn_tricks.tools.depthwise_speed import depthwise_speeds, layer_times, least_bytes
from cnn_tricks.nets.networks import networks
from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.data.drawn_shapes import shapes
from cnn_tricks.core.train import train

FORMS = 'separable', 'mobilenet', 'convnext'
GEOMETRIES = [dict(kernel_size=k, stride=s, padding=p, dilation=d) for k, s, p, d in [
    (3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 0, 1), (5, 2, 2, 1), (3, 1, 2, 2), ((3, 1), (1, 2), (1, 0), 1), (2, 2, 0, 1), (4, 1, 1, 1),
    (3, 1, 'same', 1), (3, 1, 'valid', 1), (9, 1, 4, 1), ((5, 7), (2, 1), (1, 3), (1, 2))]]


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


def close(a, b, tol=1e-5): return a.shape == b.shape and bool((a - b).abs().max() <= tol*b.abs().max().clamp(min=1))


# grouped and dense

@pytest.mark.parametrize('groups', [1, 2, 3, 6])
@pytest.mark.parametrize('padding_mode', ['zeros', 'reflect'])
def test_ungrouped(groups, padding_mode):
    conv = nn.Conv2d(6, 12, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=groups, padding_mode=padding_mode)
    full, x = ungrouped(conv.double()), torch.randn(2, 6, 9, 8, dtype=torch.float64)
    assert full.groups == 1 and close(full(x), conv(x), 1e-12)
    assert (full.weight != 0).sum() == conv.weight.numel()  # all other places hold zeros


def test_block_diagonal_by_torch():
    "The kernel of 1x1 is a matrix, and torch builds the same one of its blocks."
    conv = nn.Conv2d(6, 9, 1, groups=3, bias=False)
    blocks = torch.block_diag(*conv.weight.flatten(1).split(3))
    assert torch.equal(ungrouped(conv).weight.flatten(1), blocks)
    assert ungrouped(conv).training and not ungrouped(conv.eval()).training
    with pytest.raises(TypeError, match='must be an nn.Conv2d'): ungrouped(nn.Linear(2, 2))


# the nearest pair

def test_nearest_is_nearest():
    "No pair found by alternating least squares from many starts comes nearer, and the share says how near it is."
    w = torch.randn(6, 3, 3, 2, dtype=torch.float64)
    d, p, share = nearest_separable(w)
    d, p = d.double(), p.double()
    error = lambda p, d: (w - p*d[:, 0]).square().sum()
    assert d.shape == (3, 1, 3, 2) and p.shape == (6, 3, 1, 1)
    assert error(p, d) == pytest.approx((1 - share)*w.square().sum().item(), rel=1e-4)
    for _ in range(5):
        dd = torch.randn_like(d)
        for _ in range(200):
            pp = (w*dd[:, 0]).sum((2, 3))/dd.square().sum((1, 2, 3))
            dd = ((w*pp[:, :, None, None]).sum(0)/pp.square().sum(0)[:, None, None])[:, None]
        assert error(pp[:, :, None, None], dd) >= error(p, d)*(1 - 1e-4)


def test_nearest_edges():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        d, p, share = nearest_separable(torch.randn(4, 2, 3, 3).to(dtype))
        assert d.dtype == p.dtype == dtype and 0 < share < 1
    d, p, share = nearest_separable(torch.zeros(4, 2, 3, 3))
    assert share == 0 and not d.any() and not p.any()
    with pytest.raises(ValueError, match=r'weight is \(4, 2, 3\)'): nearest_separable(torch.zeros(4, 2, 3))


def test_start_nearest_keeps_what_is_separable():
    "A network whose kernels are pairs already answers the same after the conversion, biases included."
    net = networks['article'](1, 10, 28).eval()
    for conv in (net.conv2, net.conv3):
        d, p, _ = nearest_separable(conv.weight)
        conv.weight.data, conv.bias.data = p*d[:, 0], torch.randn_like(conv.bias)
    x = torch.randn(3, 1, 28, 28)
    before = net(x)
    assert to_depthwise(net, start='nearest') == 2 and close(net(x), before, 1e-4)


# the forms

@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
def test_shapes(form, geometry):
    for n, bias in ((8, True), (5, False)):
        conv = nn.Conv2d(8, n, bias=bias, **geometry)
        x = torch.randn(2, 8, 17, 14, requires_grad=True)
        new = depthwise_form(conv, form)
        assert new(x).shape == conv(x).shape
        grads = torch.autograd.grad(new(x).square().mean(), [x, *new.parameters()])
        assert all(g.isfinite().all() for g in grads) and sum(g.abs().sum() > 0 for g in grads) > len(grads)//3


@pytest.mark.parametrize('geometry', [g for g in GEOMETRIES if g['padding'] not in ('same', 'valid')], ids=str)
def test_separable_is_dense_of_rank_one(geometry):
    new = depthwise_form(nn.Conv2d(4, 7, **geometry))
    w = new.pointwise.weight*new.depthwise.weight[:, 0]
    x = torch.randn(2, 4, 17, 19)
    rest = {k: v for k, v in geometry.items() if k != 'kernel_size'}
    assert close(new(x), F.conv2d(x, w, new.pointwise.bias, **rest), 1e-4)


def test_separable_against_timm():
    timm = import_module('timm.layers')
    theirs, ours = timm.SeparableConv2d(6, 9, 3, stride=2, bias=True), depthwise_form(nn.Conv2d(6, 9, 3, stride=2, padding=1))
    ours.depthwise.weight.data = theirs.conv_dw.weight.data
    ours.pointwise.weight.data, ours.pointwise.bias.data = theirs.conv_pw.weight.data, theirs.conv_pw.bias.data
    x = torch.randn(2, 6, 9, 12)
    assert close(ours(x), theirs(x))


@pytest.mark.parametrize('training', [True, False])
def test_mobilenet_against_torchvision(training):
    "MobileNet's depthwise layer with its norm and ReLU, then the 1x1 convolution; running statistics too."
    theirs = nn.Sequential(Conv2dNormActivation(6, 6, 3, groups=6), nn.Conv2d(6, 9, 1, bias=False)).train(training)
    ours = depthwise_form(nn.Conv2d(6, 9, 3, padding=1, bias=False).train(training), 'mobilenet')
    names = {'0.0.weight': 'depthwise.weight', '1.weight': 'pointwise.weight'}
    ours.load_state_dict({names.get(k, k.replace('0.1.', 'norm.')): v for k, v in theirs.state_dict().items()})
    x = torch.randn(4, 6, 9, 12)
    assert ours.norm.training == training and close(ours(x), theirs(x))
    assert close(ours.norm.running_var, theirs[0][1].running_var) and close(ours.norm.running_mean, theirs[0][1].running_mean)


def test_layer_norm_of_a_pixel():
    norm, x = LayerNorm2d(5), torch.randn(2, 5, 3, 4)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    for i, j in ((0, 0), (2, 3)):
        pixel = x[:, :, i, j]
        wanted = (pixel - pixel.mean(1, keepdim=True))/(pixel.var(1, keepdim=True, unbiased=False) + norm.eps).sqrt()
        assert close(norm(x)[:, :, i, j], wanted*norm.weight + norm.bias)


def test_convnext_residual():
    same = depthwise_form(nn.Conv2d(8, 8, 3, padding=1), 'convnext')
    x = torch.randn(2, 8, 9, 9)
    assert close(same(x), x, 1e-4) and same.body.depthwise.kernel_size == (7, 7) and same.body.depthwise.padding == (3, 3)
    for other in (nn.Conv2d(8, 9, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 2, padding=1)):
        assert depthwise_form(other, 'convnext').scale is None
    mirrored = depthwise_form(nn.Conv2d(8, 8, 3, padding=1, padding_mode='reflect'), 'convnext')
    assert mirrored.body.depthwise.kernel_size == (3, 3)  # grown padding need not fit a small map


@pytest.mark.parametrize('form', FORMS)
def test_follows_the_old_layer(form):
    conv = nn.Conv2d(8, 12, 3, dtype=torch.float64).to(memory_format=torch.channels_last).eval()
    kept = copy.deepcopy(conv.state_dict())
    new = depthwise_form(conv, form)
    assert {p.dtype for p in new.parameters()} == {torch.float64} and not any(m.training for m in new.modules())
    assert all(torch.equal(a, b) for a, b in zip(kept.values(), conv.state_dict().values()))
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert new(x).is_contiguous(memory_format=torch.channels_last)
    meta = depthwise_form(nn.Conv2d(8, 8, 3, device='meta'), form)
    assert {p.device.type for p in meta.parameters()} == {'meta'}


def test_start_has_the_old_scale():
    for init in (nn.init.kaiming_normal_, nn.init.xavier_uniform_, lambda w: w.fill_(0.)):
        conv = nn.Conv2d(48, 96, 5, padding=2)
        with torch.no_grad(): init(conv.weight)
        new, x = depthwise_form(conv), torch.randn(4, 48, 20, 20)
        spread = lambda m: (m(x) - m(torch.zeros_like(x))).std().item()  # without the bias
        assert spread(new) == pytest.approx(spread(conv), rel=0.15, abs=1e-6)
        assert torch.equal(new.pointwise.bias, conv.bias)


# networks

def test_what_is_dense():
    class Special(nn.Conv2d): pass
    yes, no = nn.Conv2d(8, 2, 3), [nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, groups=2), Special(8, 8, 3), nn.Conv1d(8, 8, 3), nn.ReLU()]
    assert is_dense(yes) and is_dense(yes, 8) and not is_dense(yes, 9) and not any(map(is_dense, no))
    assert is_dense(nn.Conv2d(8, 8, (1, 3)))


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('name', ['article', 'plain', 'resnet'])
def test_networks(name, form):
    net = networks[name](3, 5, (28, 36))
    dense = [m for m in net.modules() if is_dense(m, 8)]
    before, macs = net(x := torch.randn(4, 3, 28, 36)).shape, count_macs(net, (3, 28, 36))
    assert to_depthwise(net, form) == len(dense) > 0 and net(x).shape == before == (4, 5)
    assert [m.in_channels for m in net.modules() if is_dense(m)] == [3]  # the first one is left alone
    if form != 'convnext': assert count_macs(net, (3, 28, 36)) < macs
    assert to_depthwise(net, form) == 0 and nn.Sequential(net).state_dict().keys()
    with FlopCounterMode(display=False) as flops: net.eval()(x)
    assert flops.get_total_flops() == 2*count_macs(net, x)  # the counter of torch knows grouped convolutions


def test_minimum_of_channels():
    net = networks['resnet'](1, 10, 28)  # 16 -> 16, 16 -> 16, 16 -> 32, 32 -> 32, 32 -> 64, 64 -> 64, and the first: 1 -> 16
    replaced = {least: to_depthwise(copy.deepcopy(net), min_channels=least) for least in (1, 2, 17, 33, 65)}
    assert replaced == {1: 7, 2: 6, 17: 3, 33: 1, 65: 0}


def test_one_layer_at_two_places():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    net = nn.Sequential(conv, nn.ReLU(), conv)
    assert to_depthwise(net) == 1 and net[0] is net[2]


@pytest.mark.parametrize('f, says', [
    (lambda c: depthwise_form(c, 'dense'), "form='dense': must be one of 'separable'"),
    (lambda c: depthwise_form(c, start='zero'), "start='zero': must be one of"),
    (lambda c: depthwise_form(c, 'mobilenet', 'nearest'), "start='nearest': must go with form='separable'"),
    (lambda c: depthwise_form(nn.Conv2d(8, 8, 1)), 'must be a dense nn.Conv2d'),
    (lambda c: depthwise_form(nn.Conv2d(8, 8, 3, groups=8)), 'must be a dense nn.Conv2d'),
    (lambda c: to_depthwise(nn.Sequential(c), min_channels=0), 'min_channels=0: must be at least 1'),
    (lambda c: to_depthwise(nn.Sequential(c), 'wide'), "form='wide'"),
    (lambda c: to_depthwise(c), 'matches itself'),
    (lambda c: Depthwise(form='wide'), "form='wide': must be one of"),
    (lambda c: Depthwise(min_channels=0), 'min_channels=0: must be at least 1')])
def test_bad_input(f, says):
    with pytest.raises(ValueError, match=says): f(nn.Conv2d(8, 8, 3))


# the trick

def test_trick():
    base, data = Recipe(steps=3, batch_size=8, network='resnet', network_args={'width': 8}), shapes(60, size=(24, 20))
    for form in FORMS:
        recipe = Recipe.from_json((base + Depthwise(form)).to_json())
        assert recipe.tricks == (Depthwise(form),) and tricks['depthwise'] is Depthwise
        r = train(recipe, data, progress=False)
        layers = [m for m in r.trained.model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
        assert len(layers) == 6 and all(map(math.isfinite, r.losses))
    with pytest.raises(ValueError, match='no dense convolution with at least min_channels=99'):
        train(base + Depthwise(min_channels=99), data, progress=False)


def test_saved_and_loaded(tmp_path):
    from cnn_tricks.core.result import load_trained
    data = shapes(60, size=24)
    r = train(Recipe(steps=2, batch_size=8, network='resnet', network_args={'width': 8}) + Depthwise('mobilenet'), data, progress=False)
    r.trained.save(tmp_path)
    assert torch.equal(load_trained(tmp_path).predict(data.valid.x), r.trained.predict(data.valid.x))


# what is timed

def test_least_bytes():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.ReLU(), nn.Conv2d(4, 6, 1))
    x = torch.randn(2, 4, 5, 7)
    maps = [2*c*35 for c in (4, 4, 4, 6)]  # the input, and what each layer writes: the inner ones are read again
    wanted = 4*(2*sum(maps) - maps[0] - maps[-1] + 36 + 24 + 6)
    assert least_bytes(net, x) == wanted == least_bytes(net, x.to('meta')) == 2*least_bytes(net.bfloat16(), x.bfloat16())
    assert not any(m._forward_hooks for m in net.modules()) and x.device.type == 'cpu'


def test_times_leave_the_layers_alone():
    layers = dict(a=nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)), b=nn.Conv2d(4, 6, 1))
    before = copy.deepcopy({n: m.state_dict() for n, m in layers.items()})
    x = torch.randn(2, 4, 8, 8)
    for last in (False, True):
        t = layer_times(layers, x, last, rounds=2)
        assert list(t.seconds) == ['a, forward', 'a, training', 'b, forward', 'b, training']
        assert all(len(s) == 2 and min(s) > 0 for s in t.seconds.values())
    for n, m in layers.items():
        assert all(torch.equal(a, b) for a, b in zip(before[n].values(), m.state_dict().values()))
        assert all(p.grad is None for p in m.parameters()) and m.training
    assert x.grad is None and not x.requires_grad


def test_speeds_of_a_network():
    net = networks['resnet'](3, 10, 20, width=8).train()
    state = copy.deepcopy(net.state_dict())
    table = depthwise_speeds(net, torch.randn(2, 3, 20, 26), rounds=1)
    assert [r['name'] for r in table.rows] == [n for n, m in net.named_modules() if is_dense(m, 8)]
    first = table.rows[0]
    assert first['what'] == '8 → 8, 10 × 13' and first['macs'] == round(9*64/(72 + 64), 1) and first['training'] > 0
    assert net.training and all(torch.equal(a, b) for a, b in zip(state.values(), net.state_dict().values()))
    assert depthwise_speeds(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.randn(1, 3, 8, 8)).rows == []
