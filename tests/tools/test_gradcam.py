"""Grad-CAM against closed forms, loops and the libraries where they are installed; what a look leaves behind; refusals."""
import json, sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import run as command
from fastai.callback.core import Callback
from PIL import Image
from torch import nn
from training import StopAt, same

from cnn_tricks.core.run_control import Interrupted
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tools.gradcam import WatchHeat, deletion_curve, grad_cam, heat_share, map_layers, network_input
from cnn_tricks.tools.heat_overlay import CARD, explain, overlay, show_heat
from cnn_tricks.nets.networks import networks
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.data.drawn_shapes import shapes
from cnn_tricks.core.train import learner, train

TINY = Recipe(network='resnet', network_args=dict(width=4, blocks=[1]), batch_size=16, steps=9, channels_last=True)


def images(*shape, seed=0, **kw): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **kw)


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def net(n_classes=4, **kw): return seeded(lambda: networks['resnet'](3, n_classes, 32, **{'width': 4, 'blocks': (1, 1), **kw}))


def hooks(m): return sum(len(p._forward_hooks) + len(p._backward_hooks) + len(p._forward_pre_hooks) for p in m.modules())


def oracle(maps, slopes, size):
    "From numpy sums; bilinear by hand along each axis"
    weights = slopes.mean((2, 3))
    raw = np.maximum(np.einsum('nk,nkij->nij', weights, maps), 0)
    def axis(n_in, n_out):  # (n_out, n_in): shares of each input, pixel centres at halves, edges repeated
        m, at = np.zeros((n_out, n_in)), (np.arange(n_out) + 0.5)*n_in/n_out - 0.5
        low = np.floor(at).astype(int)
        for o in range(n_out):
            for i, share in ((low[o], 1 - (at[o] - low[o])), (low[o] + 1, at[o] - low[o])):
                m[o, min(max(i, 0), n_in - 1)] += share
        return m
    big = np.einsum('ai,nij,bj->nab', axis(raw.shape[1], size[0]), raw, axis(raw.shape[2], size[1]))
    top = big.max((1, 2), keepdims=True)
    return np.divide(big, top, out=np.zeros_like(big), where=top > 0)


@pytest.fixture(scope='module')
def data(): return shapes(160, background_bias=0.95)


@pytest.fixture(scope='module')
def trained(data): return train(TINY.replace(steps=24), data, progress=False).trained


class Dense(nn.Module):
    "Convolution, ReLU by function, a dense layer"
    def __init__(self, inplace=False):
        super().__init__()
        self.conv, self.inplace = nn.Conv2d(3, 6, 3, stride=2), inplace
        self.head = nn.LazyLinear(4)

    def forward(self, x): return self.head(F.relu(self.conv(x), inplace=self.inplace).flatten(1))


@pytest.mark.parametrize('size', [(17, 24), (9, 8)])
def test_dense_head_by_hand(size):
    "The maps of a dense head, whose gradient differs from place to place; in float64, and with a ReLU in place"
    m, x = seeded(Dense).double(), images(3, 3, *size, dtype=torch.float64)
    m(x)
    maps = m.conv(x).detach()
    for t in range(4):
        slopes = m.head.weight[t].detach().view(1, *maps.shape[1:])*(maps > 0)
        want = oracle(maps.numpy(), slopes.numpy(), size)
        m.inplace = bool(t % 2)
        got = grad_cam(m, x, t, layer='conv')
        assert got.dtype == torch.float64 and np.abs(got.numpy() - want).max() < 1e-5 and want.max() == 1


def test_exact_after_global_pooling():
    "Scores are the mean of the class's map: the positive part of it, whatever the class, on images that are not square"
    m, x = net().eval(), images(4, 3, 22, 37)
    with torch.no_grad(): maps = m.stage2(m.stage1(m.stem(x)))
    targets = torch.tensor([3, 0, 2, 2])
    want = oracle(maps.numpy(), m.head.weight[targets].detach()[:, :, None, None].expand_as(maps).numpy(), (22, 37))
    assert np.abs(grad_cam(m, x, targets).numpy() - want).max() < 1e-5
    one = torch.stack([grad_cam(m, x[i:i + 1], int(t))[0] for i, t in enumerate(targets)])
    assert torch.allclose(grad_cam(m, x, targets), one, atol=1e-5)
    with torch.no_grad(): said = m(x).argmax(1)
    assert torch.equal(grad_cam(m, x), grad_cam(m, x, said))


@pytest.mark.skipif(not find_spec('captum'), reason='captum is not installed')
def test_against_captum():
    from captum.attr import LayerGradCam
    m, x = net().eval(), images(3, 3, 30, 45)
    for layer, t in (('stage2', 1), ('stage1', 2), ('stem', 0)):
        raw = LayerGradCam(m, m.get_submodule(layer)).attribute(x, target=t, relu_attributions=True).detach()
        want = F.interpolate(raw, (30, 45), mode='bilinear')[:, 0]
        assert torch.allclose(grad_cam(m, x, t, layer), want/want.amax((1, 2), keepdim=True), atol=1e-5)


@pytest.mark.skipif(not find_spec('pytorch_grad_cam'), reason='pytorch_grad_cam is not installed')
def test_against_pytorch_grad_cam():
    "It scales each map from its lowest to its highest value before it enlarges it"
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    m, x = net().eval(), images(3, 3, 32, 48)
    with GradCAM(m, [m.stage2]) as cam: theirs = cam(x, [ClassifierOutputTarget(1)]*3)
    ours = grad_cam(m, x, 1).numpy()
    assert theirs.shape == ours.shape
    for a, b in zip(theirs, ours): assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.995


def test_frozen_and_in_inference_mode():
    "Parameters without gradients, inference mode and no_grad around it: the same map"
    m, x = net(), images(2, 3, 32, 32)
    want = grad_cam(m, x, 1)
    for p in m.parameters(): p.requires_grad_(False)
    assert torch.equal(grad_cam(m, x, 1), want)
    with torch.no_grad(): assert torch.equal(grad_cam(m, x, 1), want)
    with torch.inference_mode(): assert torch.equal(grad_cam(m, x.clone(), 1), want)
    assert not want.requires_grad


def test_leaves_no_trace():
    "Modes layer by layer, gradients and statistics, the images and the random state, also after an error"
    m, x = net().train(), images(2, 3, 32, 32).requires_grad_()
    m.stem.eval()
    m(x).sum().backward()
    slopes, state = [p.grad.clone() for p in m.parameters()], {k: v.clone() for k, v in m.state_dict().items()}
    modes, image, chance = [p.training for p in m.modules()], x.detach().clone(), torch.get_rng_state()
    x.grad = None
    for _ in range(3): grad_cam(m, x)
    deletion_curve(m, x, grad_cam(m, x), steps=2)
    map_layers(m, x)
    with pytest.raises(ValueError, match='target'): grad_cam(m, x, 4)
    with pytest.raises(RuntimeError): grad_cam(m, x[:, :2])
    with pytest.raises(RuntimeError): map_layers(m, x[:, :2])
    assert hooks(m) == 0 and modes == [p.training for p in m.modules()]
    assert all(bool(torch.equal(a, p.grad)) for a, p in zip(slopes, m.parameters()))
    assert same(state, m.state_dict()) and x.grad is None and bool(torch.equal(x, image))
    assert bool(torch.equal(chance, torch.get_rng_state()))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_follows_the_type(dtype):
    m, x = net(), images(2, 3, 32, 32)
    got = grad_cam(m.to(dtype), x.to(dtype), 1)
    assert got.dtype == dtype and (got.double() - grad_cam(m.float(), x, 1).double()).abs().max() < 0.15


def test_layers_that_run_twice_and_blocks():
    "A shared ReLU stands where it ran last; a block comes after its parts; of equal maps the outermost is taken"
    relu = nn.ReLU(inplace=True)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 5, 3, 2), relu)
    m = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    x = images(2, 3, 16, 12)
    found = map_layers(m, x)
    assert list(found.items()) == [('0.0', (4, 14, 10)), ('0.2', (5, 6, 4)), ('0.1', (5, 6, 4)), ('0', (5, 6, 4)),
                                   ('1', (5, 1, 1))]
    want = grad_cam(m, x, 1, layer='0')
    for layer in (None, body, relu): assert torch.allclose(grad_cam(m, x, 1, layer), want)


def test_nothing_speaks_for_it():
    "Weights below zero after a ReLU: an empty map, not one of nan; a map of one value: 1 everywhere"
    m, x = net().eval(), images(2, 3, 32, 32)
    m.head.weight.data.abs_().neg_()
    heat = grad_cam(m, x, 0)
    assert not heat.any() and heat_share(heat, torch.ones(2, 32, 32, dtype=torch.bool)).isnan().all()
    m.head.weight.data.neg_()
    assert torch.allclose(grad_cam(m, x, 0, layer='pool'), torch.ones(2, 32, 32))


@pytest.mark.parametrize('kw, error, text', [
    (dict(target=4), ValueError, 'target=4'), (dict(target=-1), ValueError, 'between 0 and 3'),
    (dict(target=1.), TypeError, 'target'), (dict(target=True), TypeError, 'target'),
    (dict(target=torch.tensor([1])), TypeError, 'each of 2'), (dict(layer='stage9'), ValueError, 'stage1'),
    (dict(layer=nn.ReLU()), ValueError, 'no part'), (dict(layer='head'), ValueError, 'gives no maps'),
    (dict(layer=3), ValueError, 'none of that name'), (dict(layer=''), ValueError, 'gives no maps')])
def test_refused(kw, error, text):
    with pytest.raises(error, match=text): grad_cam(net(), images(2, 3, 32, 32), **kw)


@pytest.mark.parametrize('x, error', [
    (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ValueError), (torch.zeros(3, 8, 8), ValueError),
    (torch.zeros(0, 3, 8, 8), ValueError), ([1], TypeError), (np.zeros((1, 3, 8, 8)), TypeError)])
def test_refused_images(x, error):
    for f in (grad_cam, map_layers):
        with pytest.raises(error, match='x'): f(net(), x)


def test_networks_without_a_map():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    with pytest.raises(ValueError, match='4x4 pixels'): grad_cam(flat, images(2, 3, 4, 4))
    point = nn.Sequential(nn.Conv2d(3, 2, 4), nn.Flatten())
    with pytest.raises(ValueError, match='1x1'): grad_cam(point, images(2, 3, 4, 4))
    pair = nn.Sequential(nn.Conv2d(3, 2, 3))
    with pytest.raises(ValueError, match='scores'): grad_cam(pair, images(2, 3, 8, 8))

    class Aside(nn.Module):
        "Runs a layer whose output it does not use, and holds one that it does not run"
        def __init__(self):
            super().__init__()
            self.used, self.aside, self.never = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)
        def forward(self, x):
            self.aside(x)
            return self.used(x).mean((2, 3))
    for layer, why in (('aside', 'do not depend'), ('never', 'did not run')):
        with pytest.raises(ValueError, match=why): grad_cam(Aside(), images(2, 3, 8, 8), layer=layer)


def test_heat_share():
    heat, mask = torch.rand(5, 6, 7), torch.rand(5, 6, 7) < 0.3
    want = [sum(h[i, j].item() for i in range(6) for j in range(7) if m[i, j])/h.sum().item() for h, m in zip(heat, mask)]
    assert heat_share(heat, mask).tolist() == pytest.approx(want)
    assert torch.allclose(heat_share(9*heat, mask), heat_share(heat, mask))
    assert torch.allclose(heat_share(heat, mask) + heat_share(heat, ~mask), torch.ones(5))
    for bad in ((heat[0], mask[0]), (heat, mask[:, :5]), (heat - 1, mask)):
        with pytest.raises(ValueError, match='heat'): heat_share(*bad)
    with pytest.raises(TypeError, match='mask'): heat_share(heat, mask.float())


def test_deletion_by_a_loop():
    "Pixel by pixel, from the hottest, with a fill of its own"
    m, x, heat = net().eval(), images(2, 3, 8, 6), torch.rand(2, 8, 6)
    got = deletion_curve(m, x, heat, target=torch.tensor([1, 3]), steps=4, fill=0.5)
    for i, t in enumerate((1, 3)):
        order = sorted(range(48), key=lambda k: -heat[i].flatten()[k].item())
        for step in range(5):
            y = x[i:i + 1].clone()
            for k in order[:12*step]: y[0, :, k//6, k % 6] = 0.5
            with torch.no_grad(): assert got[i, step].item() == pytest.approx(m(y).softmax(1)[0, t].item(), abs=1e-5)
    with pytest.raises(ValueError, match='heat'): deletion_curve(m, x, heat[:1])
    with pytest.raises(ValueError, match='steps=0'): deletion_curve(m, x, heat, steps=0)


def test_input_is_that_of_predict(trained, data):
    x = data.test.x[:5]
    with torch.no_grad(): p = trained.model(network_input(trained, x)).softmax(1)
    assert torch.allclose(p, trained.predict(x), atol=1e-6)
    for bad in (x.float(), x[:, :1], x[:0], x[..., :9]):
        with pytest.raises(ValueError, match='x is'): network_input(trained, bad)


class Fail(Callback):
    "Breaks the second validation"
    def before_validate(self):
        if self.epoch == 1: raise RuntimeError('broken')


def test_watching_changes_nothing(data):
    watch = WatchHeat(n=10, keep=2)
    seen, plain = (train(TINY, data, progress=False, cbs=c) for c in ([watch], []))
    assert seen.losses == plain.losses and same(seen.trained.model.state_dict(), plain.trained.model.state_dict())
    assert [h['heat_share'] for h in seen.history] == watch.shares and len(watch.shares) == 2
    assert [tuple(h.shape) for h in watch.heats] == [(2, 32, 32)]*2 and hooks(seen.trained.model) == 0
    x = network_input(seen.trained, data.valid.x[:10])
    last = heat_share(grad_cam(seen.trained.model, x), data.valid.masks[:10]).nanmean().item()
    assert watch.shares[-1] == pytest.approx(last, abs=1e-6)
    json.dumps(seen.metrics())


def test_watching_resumed(data, tmp_path):
    straight, first, second = (WatchHeat(n=5, keep=1) for _ in range(3))
    recipe = TINY.replace(steps=18)
    want = train(recipe, data, progress=False, cbs=[straight])
    with pytest.raises(Interrupted):
        train(recipe, data, progress=False, out=tmp_path, checkpoint_every=0, cbs=[first, StopAt(14)])
    got = train(recipe, data, progress=False, out=tmp_path, resume=True, cbs=[second])
    assert second.shares == straight.shares and [h['heat_share'] for h in got.history] == straight.shares
    assert all(bool(torch.equal(a, b)) for a, b in zip(second.heats, straight.heats)) and want.losses == got.losses


def test_watching_without_masks_and_without_control():
    "The clothes have no masks: maps, and no share; a learner of fastai's own; a validation outside of a fit is no look"
    clothes = embedded().subset(48).subset(20, parts=('valid',))
    watch = WatchHeat(n=4, keep=3)
    learn = learner(TINY, clothes, cbs=[watch])
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.fit(2)
        learn.validate()
    assert len(watch.heats) == 2 and np.isnan(watch.shares).all() and hooks(learn.model) == 0
    boxes = torch.zeros(4, 28, 28, dtype=torch.bool)
    boxes[:, 7:21, 7:21] = True
    learn = learner(TINY, clothes, cbs=[watch := WatchHeat(n=4, masks=boxes), Fail()])
    with learn.no_bar(), learn.no_logging(), pytest.raises(RuntimeError, match='broken'): learn.fit(3)
    assert len(watch.shares) == 1 and 0 < watch.shares[0] < 1 and hooks(learn.model) == 0


def test_watching_is_refused_before_the_first_step(data):
    steps = []
    learn = learner(TINY, data, cbs=[WatchHeat(layer='nowhere'), Callback(before_batch=lambda: steps.append(1))])
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='none of that name'): learn.fit(1)
    assert not steps
    for name, value in (('n', 0), ('keep', -1)):
        with pytest.raises(ValueError, match=f'{name}={value}'): WatchHeat(**{name: value})


def test_overlay():
    grey, heat = torch.full((1, 4, 6), 100, dtype=torch.uint8), torch.zeros(4, 6)
    heat[0, 5] = 1
    got = overlay(grey, heat)
    assert got.shape == (4, 6, 3) and np.allclose(got[1:], 100/255) and got[0, 5, 0] > 0.7 > got[0, 5, 2]
    assert np.allclose(overlay(grey, heat, 0), 100/255)
    assert np.allclose(overlay(np.asarray(grey), heat), got) and np.allclose(overlay(grey/255, heat), got)
    for bad in ((grey, heat[:3]), (grey[0], heat), (grey, heat, 1.1)):
        with pytest.raises(ValueError): overlay(*bad)
    with pytest.raises(ValueError, match='maps'): show_heat([grey], torch.zeros(2, 4, 6))


def test_figures_are_files(trained, data, tmp_path):
    show_heat(data.test.x[:3], torch.rand(3, 32, 32), list('abc')).savefig(tmp_path/'a.svg')
    assert all(t in (tmp_path/'a.svg').read_text() for t in '<svg')
    said = explain(trained, data.test.x[0])
    said.savefig(tmp_path/'a.png')
    assert Image.open(tmp_path/'a.png').width > 300
    i = trained.predict(data.test.x[:1])[0].argmax()
    assert said.axes[0].get_title().startswith(trained.classes[i] + ': ')
    assert explain(trained, data.test.x[0], 'square').axes[0].get_title().startswith('square: ')
    with pytest.raises(ValueError, match='circle'): explain(trained, data.test.x[0], 'dog')


def test_explain_as_a_command_would(trained, data, tmp_path):
    "Saved, loaded, and asked about a file of another size, without a display and without pyplot"
    trained.save(tmp_path/'model')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)).save(tmp_path/'x.png')
    code = f'''
from cnn_tricks.tools.heat_overlay import explain
from cnn_tricks.data.decode import decode_or_reason
from cnn_tricks.core.result import load_trained
t = load_trained({str(tmp_path/"model")!r})
explain(t, decode_or_reason({str(tmp_path/"x.png")!r}, t.size, t.channels)).savefig({str(tmp_path/"heat.png")!r})'''
    command(sys.executable, '-c', code, cwd=tmp_path)
    assert Image.open(tmp_path/'heat.png').width > 300


def test_card_is_whole(): assert [k for k, v in CARD.rows() if not v] == [] and len(CARD.rows()) == 8
