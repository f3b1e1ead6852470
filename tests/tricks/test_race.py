"""Stacks, contrasts, Holm's rule, times to target and the ledger of all records, against loops, libraries and bad input."""
import json, math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cnn_tricks.measure.arms import Arm, Run
from cnn_tricks.measure.statistics import holm
from cnn_tricks.tricks.averaging import EMA
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import Comparison, Ledger
from cnn_tricks.tricks.optimizers import SwapOptimizer
from cnn_tricks.cli.run_options import read_recipe
from cnn_tricks.tricks.race import (
    CHANGES, STACK, add_one, contrast, interaction, leave_one_out, stack, target_table,
                             time_to_target)
from cnn_tricks.studies.all_records import all_recorded
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.measure.records import record
from cnn_tricks.core.result import build_network
from cnn_tricks.core.train import train

BASE = Recipe(epochs=1)


def arm(name, accuracies, recipe=BASE):
    return Arm(name, recipe.to_dict(), [Run(s, a, a, 10, 1.) for s, a in enumerate(accuracies)], data={'name': 'toy', 'train': 5},
               machine={'name': 'toy', 'device': 'cpu', 'threads': 1})


# the stack

def test_stack_is_what_its_changes_say():
    r = stack(BASE, {'n': dict(network='plain', network_args={'widths': [4]}), 'e': EMA(0.3), 's': dict(schedule='one_cycle')})
    assert r == BASE.replace(network='plain', network_args={'widths': [4]}, schedule='one_cycle') + EMA(0.3)
    assert stack(BASE, {}) == BASE


def test_order_of_tricks_is_kept():
    a, b = EMA(), SwapOptimizer()
    assert stack(BASE, {'a': a, 'b': b}).tricks == (a, b) and stack(BASE, {'b': b, 'a': a}).tricks == (b, a)


def test_one_in_one_out():
    changes = {'n': dict(network='plain'), 's': dict(schedule='one_cycle'), 'e': EMA()}
    singles, rest = add_one(BASE, changes), leave_one_out(BASE, changes)
    assert list(singles) == list(rest) == list(changes)
    for n, c in changes.items():
        others = {k: v for k, v in changes.items() if k != n}
        assert rest[n] == stack(BASE, others) and singles[n] == stack(BASE, {n: c})
        put_back = stack(rest[n], {n: c})
        assert put_back.replace(tricks=()) == stack(BASE, changes).replace(tricks=())
        assert set(put_back.tricks) == set(stack(BASE, changes).tricks)


@pytest.mark.parametrize('changes, error, says', [
    ({'a': dict(lr=.1), 'b': dict(lr=.2)}, ValueError, "'a' and 'b' both set lr"),
    ({'a': dict(seconds=5.)}, ValueError, "'a' sets seconds"),
    ({'a': dict(tricks=())}, ValueError, "unknown recipe field 'tricks'"),
    ({'a': dict(schedule='fixed')}, ValueError, "'a' changes nothing"),
    ({'a': dict(lr=-1.)}, ValueError, 'lr=-1.0'),
    ({'a': 'muon'}, TypeError, "'a'='muon': must be a Trick or a dict"),
    ({'a': SwapOptimizer('muon', lr=.1), 'b': SwapOptimizer('sgd', lr=.2)}, ValueError, 'both set'),
])
def test_bad_changes(changes, error, says):
    with pytest.raises(error, match=says) as e: stack(BASE, changes)
    assert '\n' not in str(e.value)


def test_registered_and_found_by_the_command():
    assert recipes['stack'] == STACK and 'stack' in recipes.names()
    assert Recipe.from_dict(read_recipe('stack')['fields']) == STACK
    assert STACK == stack(recipes['baseline'], CHANGES).replace(lr=STACK.lr, epochs=STACK.epochs)


@pytest.mark.parametrize('channels, size', [(1, (28, 28)), (3, (32, 20))])
def test_stack_fits_other_images(channels, size):
    assert build_network(STACK, channels, 4, size)(torch.zeros(2, channels, *size)).shape == (2, 4)


def test_stack_trains(monkeypatch, tmp_path):
    monkeypatch.setenv('CNN_TRICKS_CACHE', str(tmp_path))
    data = embedded().subset(128).subset(100, parts=('valid',))
    res = train(STACK.replace(steps=3), data, 0, progress=False)
    assert res.steps == 3 and all(map(math.isfinite, res.losses))


# contrasts

def test_contrast_is_a_paired_difference():
    rng = np.random.default_rng(0)
    a, b = arm('a', rng.random(6)), arm('b', rng.random(6))
    c, d = contrast('d', [(1, b), (-1, a)]), Comparison(a, b)
    assert c.mean == pytest.approx(d.difference) and c.interval == pytest.approx(d.interval) and c.sd == pytest.approx(d.sd)
    assert 'd: ' in repr(c) and '6 seeds' in repr(c)


@pytest.mark.parametrize('k', [2, 3, 5])
def test_interaction_by_loop(k):
    rng = np.random.default_rng(k)
    base, alone, both = rng.random(4), rng.random((k, 4)), rng.random(4)
    got = interaction(arm('n', base), [arm(str(i), v) for i, v in enumerate(alone)], arm('all', both))
    want = [both[s] - base[s] - sum(alone[i][s] - base[s] for i in range(k)) for s in range(4)]
    assert np.allclose(got.values, want)


def test_additive_tricks_do_not_interact():
    luck = np.array([.7, .72, .69])
    def seen(name, values, n=1000): return replace(arm(name, values), data={'name': 'toy', 'valid': n})
    got = interaction(seen('n', luck), [seen('a', luck + .03), seen('b', luck + .05)], seen('ab', luck + .08))
    assert np.allclose(got.values, 0) and got.resolution == .001
    assert got.interval == pytest.approx((-.001*4.302653/3**.5, .001*4.302653/3**.5), abs=1e-9)


def test_resolution_of_a_contrast():
    "One image of the arm that counts most; unknown where one arm's images are not counted."
    def seen(name, n): return replace(arm(name, [.5, .6]), data={'valid': n})
    alone = [seen(k, 100) for k in 'abc']
    assert interaction(seen('n', 100), alone, seen('abc', 100)).resolution == pytest.approx(2/100)
    assert contrast('x', [(1, seen('a', 50)), (-1, seen('b', 100))]).resolution == pytest.approx(1/50)
    lost = contrast('x', [(1, seen('a', 50)), (-1, arm('b', [.5, .6]))])
    assert lost.resolution == 0 and lost.interval == (-math.inf, math.inf)


def test_interval_of_few_seeds():
    assert contrast('x', [(1, arm('a', [.5]))]).interval == (-math.inf, math.inf)
    assert math.isnan(contrast('x', [(1, arm('a', [.5]))]).sd)


@pytest.mark.parametrize('terms, error, says', [
    ([], ValueError, 'at least one'), ([(1, 'a')], TypeError, 'must be an Arm'),
    ([(math.nan, arm('a', [.5]))], ValueError, 'finite'),
    ([(1, arm('a', [.5])), (-1, arm('b', [.5, .6]))], ValueError, '1 runs against 2: must be pairs'),
])
def test_bad_contrast(terms, error, says):
    with pytest.raises(error, match=says): contrast('x', terms)


def test_arms_of_other_images_or_seeds():
    here, there = (replace(arm(n, [.5, .6]), data={'fingerprint': n}) for n in ('here', 'there'))
    with pytest.raises(ValueError, match="data here of 'here' and there of 'there' differ"): contrast('x', [(1, here), (-1, there)])
    other = arm('b', [.1, .5, .6])[1:]
    with pytest.raises(ValueError, match=r"seeds \(0, 1\) of 'a' and \(1, 2\) of 'b' differ"):
        contrast('x', [(1, arm('a', [.5, .6])), (-1, other)])


def test_interaction_needs_two():
    with pytest.raises(ValueError, match='at least 2'): interaction(arm('n', [.5]), [arm('a', [.5])], arm('b', [.5]))


# Holm

def by_definition(p):
    "A p-value's correction: the largest of (n - rank) times p over all that are as small or smaller"
    order = sorted(range(len(p)), key=lambda i: p[i])
    return [min(1, max((len(p) - r)*p[j] for r, j in enumerate(order[:order.index(i) + 1]))) for i in range(len(p))]


def test_holm():
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 7): assert np.allclose(holm(p := rng.random(n).tolist()), by_definition(p))
    assert holm([1., .9]) == [1., 1.]


def test_holm_is_the_ledgers():
    rng = np.random.default_rng(1)
    base = arm('base', .8 + .01*rng.random(5))
    found = Ledger([Comparison(base, arm(str(i), .8 + .01*rng.random(5) + .003*i)) for i in range(4)])
    assert holm([c.p for c in found.comparisons]) == pytest.approx([found.holm()[str(i)] for i in range(4)])


@pytest.mark.parametrize('p', [[.5, 1.1], [-.1], [math.nan]])
def test_bad_p(p):
    with pytest.raises(ValueError, match='between 0 and 1'): holm(p)


# time to target

def timed(*runs):
    "An arm whose runs have these validations: [(seconds, accuracy), ...]"
    return Arm('r', {}, [Run(s, h[-1][1], h[-1][1], 9, h[-1][0], [dict(step=1, seconds=t, accuracy=a) for t, a in h])
                         for s, h in enumerate(runs)])


def test_first_validation_counts():
    r = time_to_target(timed([(1, .5), (2, .9), (3, .7)], [(1, .2), (2, .3), (4, .9)]), .9)
    assert r.seconds == (2, 4) and r.median == 3 and r.missed == 0 and r.tried == (3, 4)


def test_shortest_of_several_lengths():
    short, longer = timed([(1, .6)], [(1, .4)]), timed([(2, .5)], [(2, .7)])
    r = time_to_target([short, longer], .6)
    assert r.seconds == (1, 2) and r.tried == (2, 2)
    assert time_to_target([longer, short], .6).seconds == r.seconds


def test_diverged_runs_are_kept():
    a = timed([(1, .9)], [(1, .9)])
    a.runs[1].diverged, a.runs[1].seconds = 'nan', None
    r = time_to_target(a, .5)
    assert r.seconds == (1, math.inf) and r.missed == 1 and math.isnan(r.tried[1])


def test_ratio_and_its_bound():
    slow, quick = time_to_target(timed([(8, .9)], [(6, .9)]), .9), time_to_target(timed([(2, .9)], [(2, .9)]), .9)
    assert quick.times_as_fast(slow) == (3.5, False)
    lost = time_to_target(timed([(8, .1)], [(6, .1)]), .9)
    assert lost.median == math.inf and quick.times_as_fast(lost) == (3.5, True)
    text = str(target_table([lost, quick, lost]))
    assert 'at least 3.5' in text and 'unknown' in text and '2 of 2' in text and 'inf' not in text


def test_bad_targets():
    for t in (80, -.1, math.nan):
        with pytest.raises(ValueError, match='target='): time_to_target(timed([(1, .5)]), t)
    with pytest.raises(ValueError, match='same seeds'): time_to_target([timed([(1, .5)]), timed([(1, .5)], [(1, .5)])], .5)
    with pytest.raises(ValueError, match='same seeds'): time_to_target([], .5)
    a, b = (time_to_target(timed([(1, .5)]), t) for t in (.5, .4))
    with pytest.raises(ValueError, match='target 0.4'): a.times_as_fast(b)


# the ledger of all records

@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(3)
    draw = lambda name, mean: arm(name, mean + .002*rng.standard_normal(5))
    base, up, down, same = draw('base', .8), draw('up', .9), draw('down', .7), draw('same', .8)
    record('one', Comparison(base, up), tmp_path)
    record('many', Ledger([Comparison(base, down), Comparison(base, same)]), tmp_path)
    record('mixed', {'x': Comparison(base, up), 'y': Ledger([Comparison(base, down)]), 'alone': base}, tmp_path)
    record('arms', base, tmp_path)
    (tmp_path/'bench.json').write_text('{"rows": []}')
    (tmp_path/'odd.json').write_text('{"result": [1]}')
    (tmp_path/'broken.json').write_text('{')
    return tmp_path


def test_everything_is_found(folder):
    t = all_recorded(folder)
    assert sorted((n, k, c.trick.name) for n, k, c in t.entries) == [
        ('many', '', 'down'), ('many', '', 'same'), ('mixed', 'x', 'up'), ('mixed', 'y', 'down'), ('one', '', 'up')]
    assert t.counts() == {'helps': 2, 'hurts': 2, 'no difference beyond δ': 1}
    assert set(t.unread) == {'arms', 'mixed', 'bench', 'odd', 'broken'} and t.unread['mixed'].startswith('1 arm ')
    assert len(t.rows) == 5 and all(str(folder) not in str(v) for v in (t, *t.unread.values()))


def test_sorted_and_corrected(folder):
    t = all_recorded(folder)
    d = [c.difference for *_, c in t.entries]
    assert d == sorted(d, reverse=True) and t.holm() == holm([c.p for *_, c in t.entries])


def test_stale_is_seen(folder):
    assert not all_recorded(folder).stale
    d = json.loads((folder/'one.json').read_text())
    d['code'] = dict.fromkeys(d['code'], 'other')
    (folder/'one.json').write_text(json.dumps(d))
    t = all_recorded(folder)
    assert t.stale == {'one'} and {r['record'] for r in t.rows if r['stale']} == {'one'}


def test_plot_shows_what_is_there(folder):
    import matplotlib.pyplot as plt
    t = all_recorded(folder)
    ax = t.plot()
    points = sorted((x, y) for l in ax.lines if l.get_marker() in '^vso' for x, y in zip(*l.get_data()))
    assert np.allclose(points, [(i, 100*c.difference) for i, (*_, c) in enumerate(t.entries)])
    plt.close(ax.figure)


def test_empty_and_missing(tmp_path):
    t = all_recorded(tmp_path)
    assert len(t) == 0 and t.counts() == {} and t.holm() == []
    with pytest.raises(FileNotFoundError, match='no such folder'): all_recorded(tmp_path/'nowhere')
