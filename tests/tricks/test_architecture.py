"""Width, depth and search: against loops, counts on real networks, closed forms, and on bad input."""
import itertools
import math

import numpy as np
import pytest
import torch

from cnn_tricks.tricks.architecture import ScaleNetwork, article_shaped, match_macs, recipe_macs, round_channels
from cnn_tricks.tricks.architecture import scaled_args
from cnn_tricks.nets.layer_costs import count_macs
from cnn_tricks.data.datasets import embedded
from cnn_tricks.nets.networks import networks
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.tools.successive_halving import best_of, rungs, sample, search
from cnn_tricks.core.train import train


@pytest.fixture(scope='module')
def data(): return embedded().subset(160).subset(100, parts=('valid',))


def test_round_channels():
    "The rule by search: of the multiples that keep nine tenths, the nearest; of two that are as near, the larger."
    for c, d in itertools.product(range(1, 200), (1, 4, 8, 16)):
        multiples = [m for m in range(d, 2*c + 2*d + 1, d) if m >= 0.9*c]
        assert round_channels(c, d) == min(multiples, key=lambda m: (abs(m - c), -m)), (c, d)


@pytest.mark.parametrize('channels, size', [(1, 28), (3, (32, 41)), (3, 18)])
@pytest.mark.parametrize('args', [{}, dict(widths=(4, 8, 12), blocks=(2, 1, 3))])
def test_article_shaped(channels, size, args):
    net = article_shaped(channels, 7, size, **args).eval()
    h, w = (size, size) if isinstance(size, int) else size
    assert net(torch.rand(2, channels, h, w)).shape == (2, 7)
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == sum(args.get('blocks', (1, 1, 1))) and not any(m.bias.any() for m in convs)


def test_depth_keeps_the_size():
    "Deeper stages give out maps of the same size, so the dense layer has as many weights."
    for blocks in ((1, 1, 1), (2, 3, 1), (1, 1, 4)):
        assert article_shaped(1, 10, 37, blocks=blocks).dense1.in_features == 64*5*5


def test_width_is_squared_depth_is_not():
    "Between two equal stages: MACs of the middle layers, with everything else taken away by subtraction."
    def middle(width, n):
        deep, shallow = (networks['resnet'](1, 10, 28, width=width, blocks=(b,)) for b in (n + 1, 1))
        return count_macs(deep, (1, 28, 28)) - count_macs(shallow, (1, 28, 28))
    assert middle(16, 1) == 4*middle(8, 1) and middle(8, 6) == 6*middle(8, 1) == 6*2*9*8*8*14*14


def test_scaled_args_leaves_its_input():
    args = {'widths': [10, 20], 'other': 1}
    with pytest.raises(ValueError): scaled_args('plain', dict(args), depth=-1)
    assert scaled_args('plain', args, width=0.5, depth=2) == {'widths': [8, 12, 12, 12], 'other': 1}
    assert scaled_args('plain', args, width=0.5, divisor=5)['widths'] == [5, 10]
    assert args == {'widths': [10, 20], 'other': 1} and scaled_args('plain', args) == args
    assert scaled_args('resnet', {'blocks': [0, 1, 2]}, depth=2)['blocks'] == [0, 3, 4]  # no stage comes into being


@pytest.mark.parametrize('make, error, match', [
    (lambda: round_channels(0), ValueError, 'channels=0'), (lambda: round_channels(8, 0), ValueError, 'divisor=0'),
    (lambda: round_channels(math.nan), ValueError, 'channels=nan'),
    (lambda: article_shaped(1, 10, 17), ValueError, 'size'),
    (lambda: article_shaped(1, 10, 28, (8, 8)), ValueError, 'three'),
    (lambda: article_shaped(1, 10, 28, blocks=(1, 0, 1)), ValueError, 'blocks='),
    (lambda: article_shaped(1, 10, 28, (8, 8, 0)), ValueError, r'widths\[2\]'),
    (lambda: scaled_args('article', {}, depth=1), ValueError, 'it takes no arguments'),
    (lambda: scaled_args('resnet', {}, depth=1.5), ValueError, 'depth=1.5'),
    (lambda: scaled_args('nosuch', {}), ValueError, 'unknown network'),
    (lambda: ScaleNetwork(width=0.), ValueError, 'width=0'), (lambda: ScaleNetwork(depth=-1), ValueError, 'depth=-1'),
    (lambda: ScaleNetwork(divisor=0), ValueError, 'divisor=0'), (lambda: best_of(0), ValueError, 'n=0'),
    (lambda: best_of(2.), ValueError, 'n=2.0'), (lambda: rungs(0, 10), ValueError, 'n=0'),
    (lambda: rungs(3, 10, factor=0), ValueError, 'factor=0'), (lambda: sample({'a': [1, 2]}, 3), ValueError, 'n=3'),
    (lambda: plan(Recipe(network='plain') + ScaleNetwork() + ScaleNetwork(width=2.)), ValueError, 'both set')])
def test_bad_input(make, error, match):
    with pytest.raises(error, match=match): make()


def test_trick(data):
    r = Recipe(steps=3, batch_size=16) + ScaleNetwork(width=0.25, depth=1)
    assert Recipe.from_json(r.to_json()) == r and plan(plan(r).recipe.replace(tricks=())).recipe == plan(r).recipe.replace(tricks=())
    assert plan(r).recipe.network_args == {'widths': [8, 16, 16], 'blocks': [2, 2, 2]}
    net = train(r, data, progress=False).trained.model
    assert net.conv1.out_channels == 8 and net.conv3_2.in_channels == 16
    assert plan(Recipe(network='resnet') + ScaleNetwork()).recipe.network_args == {'width': 24}


def test_nothing_asked_nothing_done():
    r = recipes['fast']
    assert plan(r + ScaleNetwork(width=1.)).recipe.network_args == r.network_args


@pytest.mark.parametrize('network', ['plain', 'resnet', 'article_shaped'])
def test_recipe_macs(data, network):
    "On the meta device as on a real one, of the size that the recipe asks for; torch's random state stays."
    for size in (28, 40):
        r, real = Recipe(network=network, size=size if size != 28 else None), networks[network](1, 10, size)
        before = torch.get_rng_state()
        assert recipe_macs(r, data) == count_macs(real, (1, size, size))
        same = torch.equal(torch.get_rng_state(), before)
        assert same


def test_match_macs_is_the_nearest(data):
    "Against all widths, one by one; and it undoes a change of width."
    r = Recipe(network='resnet', network_args=dict(width=8, blocks=[1, 2]))
    each = {w: recipe_macs(r.replace(network_args=dict(width=w, blocks=[1, 2])), data) for w in range(2, 40)}
    for macs in (100_000, 700_000, 5_000_000):
        assert match_macs(r, data, macs).network_args['width'] == min(each, key=lambda w: abs(each[w] - macs))
    assert match_macs(plan(r + ScaleNetwork(width=3.)).recipe.replace(tricks=()), data, recipe_macs(r, data)) == r
    assert match_macs(r, data, 700_000, divisor=4).network_args['width'] % 4 == 0
    with pytest.raises(ValueError, match='comes no nearer'): match_macs(r, data, 10)


def test_best_of():
    "Closed forms for up to five; symmetry: the mean of the largest of n grows, and ever more slowly."
    assert best_of(1) == pytest.approx(0, abs=1e-9) and best_of(2) == pytest.approx(math.pi**-0.5)
    assert best_of(3) == pytest.approx(1.5/math.sqrt(math.pi))
    assert best_of(4) == pytest.approx(3/math.sqrt(math.pi)*(0.5 + math.asin(1/3)/math.pi))
    gains = np.diff([best_of(n) for n in range(1, 40)])
    assert (gains > 0).all() and (np.diff(gains) < 0).all()


def test_sample():
    space = dict(a=[1, 2, 3], b='xy', c=[[0], [1]])
    every = sample(space, 12)
    assert sorted(map(str, every)) == sorted(str(dict(zip(space, c))) for c in itertools.product(*space.values()))
    assert sample(space, 5, seed=1) != sample(space, 5, seed=2) and sample(space, 5) == sample(space, 12)[:5]


def test_rungs():
    assert rungs(9, 90) == [(9, 10), (3, 30), (1, 90)] and rungs(1, 7) == [(1, 7)] and rungs(2, 7) == [(2, 7)]
    assert rungs(10, 100, 2) == [(10, 12), (5, 25), (3, 50), (2, 100)] and rungs(50, 3, 1) == [(50, 3)]
    for n, f in itertools.product(range(1, 100), (2, 3, 4)):
        p = rungs(n, 10_000, f)
        assert p[0][0] == n and p[-1] == (p[-1][0], 10_000) and f**(len(p) - 1) <= n < f**len(p)
        assert all(b[0] == math.ceil(a[0]/f) for a, b in itertools.pairwise(p))


def test_search(data):
    "Every rung keeps the best of the one before; a rate of zero learning loses; the same seed finds the same."
    base = Recipe(network='plain', network_args={'widths': [8]}, batch_size=20, optimizer='adamw')
    todo = {f'lr {lr:g}': base.replace(lr=lr) for lr in (1e-7, 1e-6, 1e-5, 1e-2)}
    found = search(todo, data, steps=24, factor=2)
    assert found.best == 'lr 0.01' and found.steps == sum(n*s for n, s in rungs(4, 24, 2)) and found.seconds > 0
    for k in range(2):
        now, then = ([t for t in found.trials if t['rung'] == j] for j in (k, k + 1))
        best = sorted(now, key=lambda t: -t['accuracy'])[:len(then)]
        assert {t['name'] for t in then} == {t['name'] for t in best}
    again = search(todo, data, steps=24, factor=2)
    drop = lambda s: [{k: v for k, v in t.items() if k != 'seconds'} for t in s.trials]
    assert drop(again) == drop(found) and 'lr 0.01' in found._repr_markdown_()
    plain = search(dict(itertools.islice(todo.items(), 2)), data, steps=5, factor=1)
    assert [t['steps'] for t in plain.trials] == [5, 5]
