"""Choices of fine-tuning: what each changes, step by step; and every registered trick beside pretrained weights."""
import math

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from torch import nn

from cnn_tricks.core.fine_tuning import spoils_body
from cnn_tricks.core.recipe import Card, Recipe, Trick, trick, tricks
from cnn_tricks.core.train import learner, train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.data.images import ImageData
from cnn_tricks.measure.arm_names import refusal
from cnn_tricks.nets.networks import networks
from cnn_tricks.nets.pretrained import layer_groups, load_body, parameter_groups, pretrained
from cnn_tricks.tricks.averaging import EMA, SWA
from cnn_tricks.tricks.fine_tuning import FreezeBatchNorm, FreezeEarly, FreezeEpochs, HeadStart, LayerDecay
from cnn_tricks.tricks.imbalance import ClassWeights
from cnn_tricks.tricks.transfer import TARGET, FineTune, fine_tune, frozen_features, linear_probe, start_head

BASE = Recipe(steps=16, batch_size=10, optimizer='adamw', lr=0.02) + FineTune()
# what a pretrained body bears, and what it does not; a new trick is in neither, and its author says here which it is
BEARS = set('''accumulate alternating_flip augment balanced_sampling batch_size channels_last class_weights cutmix dropout
    early_stopping ema flip_shift framing freeze_batchnorm freeze_early freeze_epochs fused_optimizer head_start l1
    label_smoothing layer_decay mixup more_devices optimizer precision progressive_resizing
    stochastic_depth swa tta warmup weight_decay'''.split())
SPOILS = dict(one_cycle='would change nothing: fine_tune has a schedule of its own',
              activation='changes what the pretrained layers compute', depthwise='adds or removes weights',
              group_norm='adds or removes weights', kaiming_init='changes what the pretrained layers compute',
              lsuv='both choose the weights that training starts from', scale_network='both set network_args')


@pytest.fixture(scope='module')
def data(): return embedded().take_classes(TARGET).subset(40).subset(60, parts=('valid', 'test'))


def reason(name, base, data):
    "Why the trick cannot be added; empty if it can."
    try: return refusal(base + tricks[name](), data, 'cpu')
    except ValueError as e: return str(e)


@pytest.mark.filterwarnings('ignore')
def test_every_trick_beside_pretrained_weights(data):
    even = 'classes are even', 'bfloat16', 'float16', 'not read from files'  # reasons that have nothing to do with the weights
    found = {name: reason(name, BASE, data) for name in tricks if name != 'fine_tune'}
    for name in BEARS & found.keys(): assert not found[name] or any(e in found[name] for e in even), f'{name}: {found[name]}'
    for name, why in SPOILS.items(): assert why in found[name] and name in found[name], f'{name}: {found[name]}'


@pytest.mark.parametrize('network,name,why', [
    ('plain', 'pooling', 'changes what the pretrained'), ('plain', 'global_pool', 'pretrained weights|adds or removes'),
    ('article', 'batch_norm', 'adds or removes weights')])
def test_tricks_that_find_nothing_to_change_in_the_shipped_network(network, name, why, data, monkeypatch):
    "Tried on weights of another network."
    from cnn_tricks.nets.pretrained import Pretrained, split_head
    torch.manual_seed(0)
    net = networks[network](1, 4, 28)
    head = split_head(net)[0]
    weights = {k: v for k, v in net.state_dict().items() if not k.startswith(f'{head}.')}
    pretrained.register('theirs', lambda: Pretrained(network, {}, 1, lambda: weights))
    try:
        base = BASE.replace(tricks=()) + FineTune('theirs')
        assert not refusal(base, data, 'cpu')
        import re
        assert re.search(why, found := reason(name, base, data)) and name in found, found
        with pytest.raises(ValueError, match=f'cannot be used here: {name}'): train(base + tricks[name](), data, progress=False)
    finally: pretrained.remove('theirs')


def test_a_new_trick_needs_no_edit_elsewhere(data):
    card = Card('a', 'b', 'c', 'd', 'e')
    try:
        @trick('toy_leaky', card)
        class Leaky(Trick):
            def structure(self, m):
                m.stem[2] = nn.LeakyReLU(0.3)
                return m
        @trick('toy_noise', card)
        class Noise(Trick):
            def structure(self, m):
                m.stem[2] = nn.Sequential(m.stem[2], nn.Dropout(0.3))
                return m
        assert refusal(BASE + Leaky(), data, 'cpu').startswith('toy_leaky changes what the pretrained')
        assert not refusal(BASE + Noise(), data, 'cpu')
        chance = torch.get_rng_state()
        assert spoils_body(Leaky(), BASE, data, pretrained['fashion']())
        assert torch.equal(chance, torch.get_rng_state())
        assert refusal(Recipe(steps=3, tricks=(Leaky(), FineTune())), data, 'cpu')  # whichever comes first
    finally:
        for name in ('toy_leaky', 'toy_noise'): tricks.remove(name)


def test_choices_need_fine_tune(data):
    for t in (LayerDecay(), FreezeEarly(), FreezeEpochs(), HeadStart(), FreezeBatchNorm()):
        assert refusal(BASE.replace(tricks=(t,)), data, 'cpu') == 'it changes how fine_tune trains: add that first'
        assert not refusal(BASE + t, data, 'cpu')
    why = refusal(BASE + HeadStart() + FreezeEpochs(), data, 'cpu')
    assert why == 'head_start and freeze_epochs both set freeze_epochs: use one of them'


class Trace(Callback):
    "At each step: which groups learn, and the learning rates."
    order = 100
    def before_fit(self): self.rows = getattr(self, 'rows', [])
    def after_batch(self):
        if not self.training: return
        free = [all(p.requires_grad for p in g if p.ndim > 1) for g in self.opt.param_lists]
        self.rows.append((free, [h['lr'] for h in self.opt.hypers]))


def traced(data, *extra, steps=16):
    t = Trace()
    run = train(BASE.replace(steps=steps, tricks=(FineTune(), *extra)), data, 3, progress=False, cbs=[t])
    return run, t.rows


@pytest.mark.parametrize('name,args', [('article', {}), ('resnet', {}), ('plain', {}), ('resnet', dict(blocks=(2, 2)))])
def test_layer_groups_hold_each_parameter_once(name, args):
    net = networks[name](1, 4, 28, **args)
    groups, coarse = layer_groups(net), parameter_groups(net)
    ids = [id(p) for g in groups for p in g]
    assert len(ids) == len(set(ids)) == len(list(net.parameters())) and next(net.parameters()) is groups[0][0]
    assert [id(p) for g in coarse for p in g] == ids and groups[-1] == coarse[-1]
    assert len(groups) == {'article': 5, 'plain': 3, 'resnet': 5 if not args else 6}[name]


def test_layer_groups_take_loose_parameters():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(3))
            self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
    net = Net()
    assert [[id(p) for p in g] for g in layer_groups(net)] == [
        [id(net.token), *map(id, net.body.parameters())], list(map(id, net.head.parameters()))]


def test_layer_decay_step_by_step(data):
    "Each group's rate is that of the next one times `decay`, at every step; the head's is that of fine_tune."
    _, rows = traced(data, LayerDecay(0.6))
    _, plain = traced(data)
    n = len(layer_groups(networks['resnet'](1, 4, 28, **pretrained['fashion']().network_args)))
    for (_, lrs), (free, base) in zip(rows[4:], plain[4:]):
        assert len(lrs) == n and math.isclose(lrs[-1], base[-1])
        assert np.allclose(np.array(lrs[:-1])/lrs[1:], 0.6)
    assert [r[0] for r in rows] == [[False]*(n - 1) + [True]]*4 + [[True]*n]*12


@pytest.mark.parametrize('epochs,head', [(0., 0), (2., 8), (9., 8)])
def test_freeze_epochs(data, epochs, head):
    assert [r[0] for r in traced(data, FreezeEpochs(epochs))[1]] == [[False, False, True]]*head + [[True]*3]*(16 - head)


def test_freeze_early(data):
    run, rows = traced(data, FreezeEarly())
    assert [r[0] for r in rows] == [[False, False, True]]*4 + [[False, True, True]]*12
    body = pretrained['fashion']().weights
    same = {k for k, v in run.trained.model.state_dict().items() if k in body and torch.equal(v, body[k])}
    assert 'stem.0.weight' in same and not any(k.startswith('stage3') and 'weight' in k for k in same)
    run, rows = traced(data, FreezeEarly(), LayerDecay())
    assert [r[0] for r in rows[4:]] == [[False, False, True, True]]*12


def test_head_start_is_a_probe(data):
    p = pretrained['fashion']()
    net = load_body(networks[p.network](1, 4, 28, **p.network_args), p)
    want = linear_probe(frozen_features(net, data.train.x, data.mean, data.std), data.train.y, 4, 0.1)
    learn = learner(BASE, data, device='cpu')
    before = torch.get_rng_state()
    start_head(learn, 0.1)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(learn.model.head.parameters(), want.parameters()): assert torch.allclose(a, b, atol=1e-4)
    run, rows = traced(data, HeadStart())
    assert [r[0] for r in rows] == [[True]*3]*16
    assert run.losses[0] < traced(data)[0].losses[0]/2  # the head knows the classes before the first step
    part = data.train[data.train.y > 0]
    assert refusal(BASE + HeadStart(), ImageData(part, data.valid, data.test, data.classes), 'cpu') == \
        "class 'Coat' has no training image to fit a probe to"


def test_freeze_batchnorm_keeps_the_statistics(data):
    body = pretrained['fashion']().weights
    for extra, kept in (((), False), ((FreezeBatchNorm(),), True)):
        run, _ = traced(data, *extra)
        state = run.trained.model.state_dict()
        names = [k for k in body if 'running_mean' in k]
        assert names and all(torch.equal(state[k], body[k]) == kept for k in names)
    assert not torch.equal(state['stem.1.weight'], body['stem.1.weight'])  # its scale is trained with the rest


@pytest.mark.parametrize('average', [EMA(), SWA()], ids=lambda t: t.name)
def test_averages_of_weights_go_with_fine_tuning(data, average):
    run, _ = traced(data, average)
    plain, _ = traced(data)
    assert run.losses[:4] == plain.losses[:4] and run.steps == plain.steps
    a, b = (r.trained.model.state_dict()['stage3.0.body.0.0.weight'] for r in (run, plain))
    assert 0 < (a - b).abs().max() < 1


@pytest.mark.parametrize('kw,error', [(dict(layer_decay=0.), 'layer_decay'), (dict(layer_decay=1.1), 'layer_decay'),
                                      (dict(layer_decay='a'), 'layer_decay')])
def test_bad_settings(data, kw, error):
    learn = learner(BASE, data, device='cpu')
    with pytest.raises((ValueError, TypeError), match=error): fine_tune(learn, 4, 0.01, **kw)
    for bad in (0, 2): pytest.raises(ValueError, LayerDecay, bad)


def test_bigger_networks(data):
    "Each block of a residual network with several in a stage is a layer of its own."
    weighted = BASE + LayerDecay() + FreezeBatchNorm()
    uneven = ImageData(data.train[torch.cat([torch.arange(0, 40, 2), (data.train.y == 0).nonzero()[:, 0]])], data.valid,
                       data.test, data.classes, name='uneven')
    assert train(weighted.replace(steps=3) + ClassWeights(), uneven, progress=False).steps == 3
