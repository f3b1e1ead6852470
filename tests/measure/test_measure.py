"Comparisons, records and costs, as far as lessons 03 and 04 do not show them."
import json, math, os, re, runpy, shutil, sys, time, warnings, weakref
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import ROOT, run
from fastai.callback.core import Callback
from scipy import stats

import cnn_tricks
from cnn_tricks.measure.arms import Plain, Run, read_plain
from cnn_tricks.measure.repeated_runs import best_lr, plan_steps
from cnn_tricks.measure.machine_counters import _rapl, joules_between
from cnn_tricks.measure.statistics import paired_t
from cnn_tricks.core.run_control import Interrupted, RunControl
from cnn_tricks.measure.cost import Timings, energy_counters, measure_costs, time_in_turns, training_costs
from cnn_tricks.data.datasets import embedded
from cnn_tricks.base.display import Shown, Table
from cnn_tricks.data.loaders import ImageLoader
from cnn_tricks.measure.compare import Arm, Comparison, Ledger, compare, ledger, repeat, seeds_needed
from cnn_tricks.nets.networks import resnet
from cnn_tricks.core.components import optimizers, sgd
from cnn_tricks.core.recipe import Card, Recipe, Trick, recipes, trick, tricks
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.measure.records import code_hash, code_hashes, modules_used, record, recorded
from cnn_tricks.base.fields import bounded
from cnn_tricks.base.registry import Registry
from cnn_tricks.tricks.schedule import step
from cnn_tricks.core.train import train
from cnn_tricks.core.training_step import first_batch, recipe_step

TINY = Recipe(network='resnet', network_args={'width': 4, 'blocks': [0, 1]}, steps=6, batch_size=16,
              schedule='one_cycle', lr=0.01)
CARD = Card('A toy.', 'In tests.', 'Elsewhere.', 'None.', 'None.')
QUIET = dict(progress=False, device='cpu')


@pytest.fixture(scope='module')
def data(): return embedded().resize(8).subset(160, parts=('train', 'valid', 'test'))


@pytest.fixture(scope='module')
def flips(data): return compare(TINY, FlipShift(), data, (0, 1), **QUIET)


@pytest.fixture
def toys():
    "Register tricks for one test."
    names = []
    def add(name, **hooks):
        names.append(name)
        return trick(name, CARD)(type('Toy', (Trick,), hooks))
    yield add
    for name in names: tricks.remove(name)


def arm(accuracies, name='arm', **kw):
    return Arm(name, TINY.to_dict(), [Run(i, a, a, steps=6, seconds=1.) for i, a in enumerate(accuracies)], **kw)


def against(differences, delta=0.01, base=0.8):
    return Comparison(arm([base]*len(differences)), arm([base + d for d in differences], 'trick'), delta)


# the numbers, against scipy and by simulation

@pytest.mark.parametrize('seed', range(5))
def test_interval_is_scipys(seed):
    a, b = np.random.default_rng(seed).uniform(0, 1, (2, 5))
    c, theirs = Comparison(arm(a), arm(b)), stats.ttest_rel(b, a)
    assert c.interval == pytest.approx(tuple(theirs.confidence_interval(0.95))) and c.p == pytest.approx(theirs.pvalue)
    assert c.difference == pytest.approx(b.mean() - a.mean()) and c.sd == pytest.approx((b - a).std(ddof=1))


def spread_for(low, high):
    "Two differences whose 95% interval is (low, high)."
    half, middle = (high - low)/2, (high + low)/2
    gap = half/stats.t.ppf(0.975, 1)
    return middle - gap, middle + gap


@pytest.mark.parametrize('low,high,wanted', [
    (0.002, 0.018, 'helps'), (0.002, 0.0098, 'helps, by less than δ'), (-0.004, 0.009, 'no difference beyond δ'),
    (-0.002, 0.011, 'undecided'), (-0.018, -0.002, 'hurts'), (-0.0098, -0.001, 'no difference beyond δ'),
    (-0.03, 0.03, 'undecided'), (0.011, 0.012, 'helps'), (-0.0101, 0.001, 'undecided')])
def test_verdict(low, high, wanted):
    c = against(spread_for(low, high))
    assert c.interval == pytest.approx((low, high), abs=1e-9) and c.verdict == wanted


@pytest.mark.parametrize('kw, differ, says', [
    (dict(data={'fingerprint': 'other'}), 'data', "data this of 'arm' and other of 't' differ"),
    (dict(runs=[Run(i, .8, .8, steps=6) for i in (1, 0)]), 'seeds', r"seeds \(0, 1\) of 'arm' and \(1, 0\) of 't' differ"),
    (dict(part='test'), None, "part valid of 'arm' and test of 't' differ")])
def test_pairs_share_seeds_part_and_data(kw, differ, says):
    base = arm([.8, .8], data={'fingerprint': 'this'})
    other = replace(base, name='t', **kw)
    with pytest.raises(ValueError, match=says): Comparison(base, other)
    if differ:
        meant = Comparison(base, other, differ=[differ])
        assert meant.differ == (differ,) and Comparison.from_dict(json.loads(meant.to_json())) == meant
    with pytest.raises(ValueError, match='must hold nothing but'): Comparison(base, other, differ=('part',))
    with pytest.raises(ValueError, match='2 runs against 1: must be pairs'): Comparison(base, base[:1], differ=('seeds',))


def test_steps_of_runs_that_stopped_early():
    "Not those of the first run: the mean, and the table says from where to where."
    def stopped(*steps): return Arm('a', TINY.to_dict(), [Run(i, .8, .8, n, 1.) for i, n in enumerate(steps)])
    early = stopped(1200, 400, 500)
    assert early.steps == 700 and early.step_range == (400, 1200) and stopped(6, 6).step_range == (6, 6)
    table = Comparison(stopped(1200, 1200, 1200), early).table().markdown
    assert '| 1,200 |' in table and '| 700 (400 to 1,200) |' in table


def judged(differences, images, delta=0.01):
    "A comparison whose runs were all scored on so many images."
    arms = (arm([0.]*len(differences), data={'valid': images}), arm(differences, 'trick', data={'valid': images}))
    return Comparison(*arms, delta)


@pytest.mark.parametrize('seeds', [2, 3, 5, 20, 300])
@pytest.mark.parametrize('images', [1, 7, 500])
@pytest.mark.parametrize('more', [0, 1])
def test_agreement_is_no_certainty(seeds, images, more):
    "However many seeds agree, an interval is as wide as one image at least, and p says what the interval says."
    c = judged([more/images]*seeds, images)
    low, high = c.interval
    assert high - low >= 1/images - 1e-12 and c.p > 0 and (c.p < 0.05) == (not low <= 0 <= high)
    assert c.difference == pytest.approx((low + high)/2) and c.resolution == pytest.approx(1/images)


def test_one_image_decides_nothing():
    for delta in (0.01, 0.1, 0.5): assert judged([0.]*3, 1, delta).verdict == 'undecided'
    assert judged([1.]*2, 1).verdict == judged([0.002]*2, 500).verdict == 'undecided'
    assert 'One image is 10 points here: more images are needed.' in judged([0.]*3, 10).summary()
    assert judged([0.]*3, 4000).verdict == 'no difference beyond δ' and judged([0.03]*3, 4000).verdict == 'helps'


def test_floor_is_where_it_should_be():
    "A spread of an image or more is Student's own; below, the interval is that of one image's."
    d = [0.004, 0.008, -0.002, 0.006]
    theirs = stats.ttest_1samp(d, 0)
    assert judged(d, 1000).interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert judged(d, 1000).p == pytest.approx(theirs.pvalue)
    low, high = judged(d, 100).interval
    assert (high - low)/2 == pytest.approx(stats.t.ppf(0.975, 3)*0.01/2) and low > judged(d, 50).interval[0]
    mean, low, high, p = paired_t([0.1]*4, resolution=0.05, level=0.8)
    assert high - mean == pytest.approx(stats.t.ppf(0.9, 3)*0.05/2) and p == pytest.approx(2*stats.t.sf(0.1/0.025, 3))


def test_false_alarms_on_few_images():
    "The same network twice, its images judged anew: of tables with few images and seeds, few say that one is better."
    rng = np.random.default_rng(0)
    for images, seeds in ((1, 3), (5, 2), (20, 3), (100, 5)):
        counts = rng.binomial(images, 0.9, (2, 1500, seeds))/images
        assert np.mean([paired_t(d, 1/images).p < 0.05 for d in counts[1] - counts[0]]) < 0.065


def test_verdict_at_the_borders():
    for equal in ([0.01 - 1e-9]*3, [0.5]*2): # of how many images? then they say nothing
        assert against(equal).verdict == 'undecided' and against(equal).p == 1
    one = against([0.5])
    assert one.verdict == 'undecided' and one.interval == (-math.inf, math.inf) and one.p == 1
    assert json.loads(one.to_json())['interval'] == [None, None] and 'seeds' not in one.summary()


def test_seeds_needed_has_the_power_it_says():
    rng = np.random.default_rng(0)
    for sd, delta, power, alpha in ((1, 1, .8, .05), (1, .5, .9, .05), (2, 1, .5, .01)):
        n = seeds_needed(sd, delta, power, alpha)
        found = lambda k: (stats.ttest_1samp(rng.normal(delta, sd, (20_000, k)), 0, axis=1).pvalue < alpha).mean()
        assert found(n) > power - 0.012 and found(n - 1) < power + 0.012
    assert seeds_needed(3, 0.01) == pytest.approx((2.8016*300)**2, rel=1e-3)  # for many seeds, the normal formula


@pytest.mark.parametrize('args,name', [((-1, 1), 'sd=-1'), ((1, 0), 'delta=0'), ((1, math.nan), 'delta=nan'),
                                       ((1, 1, 0), 'power=0'), ((1, 1, .8, 1), 'alpha=1')])
def test_seeds_needed_refuses(args, name):
    with pytest.raises(ValueError, match=name): seeds_needed(*args)


# what is run

def test_arms_take_turns_over_the_same_seeds(data, monkeypatch):
    done = []
    def note(recipe, data, seed, **kw):
        done.append((bool(recipe.tricks), seed))
        return train(recipe, data, seed, **kw)
    monkeypatch.setattr('cnn_tricks.measure.repeated_runs.train', note)
    c = compare(TINY, FlipShift(), data, (3, 1, 4), **QUIET)
    assert done == [(False, 3), (True, 3), (True, 1), (False, 1), (False, 4), (True, 4)]
    assert c.base.seeds == c.trick.seeds == c.seeds == (3, 1, 4) and c.base.steps == c.trick.steps == 6
    alone = train(TINY + FlipShift(), data, 1, **QUIET)
    assert c.trick.runs[1].accuracy == alone.accuracy and c.trick.runs[1].steps == alone.steps


def test_a_trick_that_does_nothing_makes_no_difference(data, toys):
    c = compare(TINY, toys('_nothing')(), data, (0, 1, 2), delta=0.02, **QUIET)
    assert c.differences.tolist() == [0, 0, 0] and c.verdict == 'no difference beyond δ' and c.p == 1
    assert replace(c, delta=0.01).verdict == 'undecided'  # 160 images do not show a point


def test_whole_recipes_and_names(data, toys):
    c = compare(recipes['baseline'].replace(steps=2, size=18), TINY.replace(steps=3), data, (0,), **QUIET)
    assert (c.base.name, c.trick.name) == ('base', 'other') and c.base.steps == c.trick.steps == 2
    again = compare(TINY, TINY, data, (0,), **QUIET)
    assert again.trick.name != again.base.name and again.difference == 0
    assert compare(TINY, FlipShift(pixels=1), data, (0,), **QUIET).trick.name == 'flip_shift(pixels=1)'
    with pytest.raises(TypeError, match='must be a Trick or a Recipe'): compare(TINY, 'flip_shift', data, **QUIET)


def test_budget_and_epochs(data):
    twice = TINY.replace(batch_size=32)
    assert plan_steps([TINY.replace(epochs=2), twice], data, 'steps') == ([20, 20], [None, None])
    assert plan_steps([TINY.replace(epochs=2), twice], data, 'epochs')[0] == [20, 10]
    c = compare(TINY, twice, data, (0,), budget={'epochs': 1}, equal='epochs', **QUIET)
    assert (c.base.steps, c.trick.steps, c.equal) == (10, 5, 'epochs')
    with pytest.raises(ValueError, match="equal='hours'"): compare(TINY, twice, data, equal='hours', **QUIET)


@pytest.mark.parametrize('budget', [{'steps': 12}, {'seconds': 0.2}])
def test_equal_seconds(data, monkeypatch, budget):
    "Seconds a step are given here, so that the arithmetic can be checked: the trick's step costs 2.5 times as much."
    monkeypatch.setattr('cnn_tricks.measure.repeated_runs._step_seconds', lambda arms, *a: [0.01, 0.025])
    c = compare(TINY, FlipShift(), data, (0,), budget=budget, equal='seconds', **QUIET)
    assert c.base.steps == (12 if 'steps' in budget else 20) and c.trick.steps == round(c.base.steps/2.5)
    assert (c.base.step_seconds, c.trick.step_seconds) == (0.01, 0.025)


def test_seconds_a_step_are_measured(data, toys):
    "A step that sleeps takes at least as long as it sleeps; how long one takes that does not, the machine decides."
    class Slow(Callback):
        def after_step(self): time.sleep(0.3)
    slow = toys('_slow', callbacks=lambda self: [Slow()])
    c = compare(TINY.replace(steps=20), slow(), data, (0,), equal='seconds', **QUIET)
    planned = [a.steps*a.step_seconds for a in (c.base, c.trick)]
    assert c.trick.step_seconds >= 0.3 and c.trick.step_seconds > c.base.step_seconds > 0
    assert c.trick.steps < c.base.steps == 20
    assert c.trick.steps == 1 or abs(planned[0] - planned[1]) <= c.trick.step_seconds


def test_learning_rates_are_chosen_on_another_seed(data, monkeypatch):
    tried = []
    def note(recipe, data, seed, **kw):
        tried.append((recipe.lr, seed))
        return train(recipe, data, seed, **kw)
    monkeypatch.setattr('cnn_tricks.measure.repeated_runs.train', note)
    c = compare(TINY, FlipShift(), data, (5, 7), lrs=(1e-6, 0.01, 0.02), part='test', **QUIET)
    assert {s for _, s in tried[:6]} == {8} and {s for _, s in tried[6:]} == {5, 7}
    for a in (c.base, c.trick):
        assert [lr for lr, _ in a.lrs] == [1e-6, 0.01, 0.02] and a.recipe['lr'] == max(a.lrs, key=lambda t: t[1])[0]
        assert f"lr {a.recipe['lr']:g} of" in a.notes()[0] and ('edge' in a.notes()[0]) == (a.recipe['lr'] != 0.01)


def test_a_rate_that_diverges_is_not_the_best(data):
    "It counts as guessing and ends nothing, neither here nor in the scripts, which have no tuning of their own."
    sgd = TINY.replace(optimizer='sgd', schedule='fixed')
    recipe, tried = best_lr(sgd, data, (1e30, 0.01), 3, 'cpu')
    assert recipe == sgd.replace(lr=0.01) and tried[0][1] == pytest.approx(0.1, abs=0.06) and len(tried) == 2
    assert best_lr(sgd, data, (), 3) == (sgd, [])
    for name in ('stopping', 'penalties'): assert 'best_lr(' in (ROOT/f'scripts/record/{name}.py').read_text('utf-8')


def test_parts(data):
    with pytest.raises(ValueError, match="part='train'"): compare(TINY, FlipShift(), data, part='train', **QUIET)
    a = repeat(TINY, data, (0, 1), part='test', **QUIET)
    res = train(TINY, data, 1, **QUIET)
    assert a.runs[1].accuracy == res.test() and a.runs[1].valid == res.accuracy and a.part == 'test'
    assert a.data == {'name': data.name, 'fingerprint': data.fingerprint, 'train': 160, 'valid': 160, 'test': 160}
    with pytest.raises(ValueError, match='has no valid images'):
        repeat(TINY, replace(data, valid=data.valid[:0]), **QUIET)


@pytest.mark.parametrize('seeds', [(), (0, 0)])
def test_seeds_are_checked(data, seeds):
    with pytest.raises(ValueError, match='seeds='): compare(TINY, FlipShift(), data, seeds, **QUIET)


def test_delta_is_checked_before_the_runs(data, monkeypatch):
    monkeypatch.setattr('cnn_tricks.measure.repeated_runs.train', None)
    for delta in (0, -1, 1, math.nan):
        with pytest.raises(ValueError, match='delta='): compare(TINY, FlipShift(), data, delta=delta, **QUIET)
        with pytest.raises(ValueError, match='delta='): ledger(TINY, [FlipShift()], data, delta=delta, **QUIET)


def test_diverged_run_counts_as_guessing(data):
    common = (data.train.y == 3) | (torch.arange(160) < 80)  # class 3 is the commonest to train on
    data = replace(data, train=data.train[common], valid=data.valid[data.valid.y != 0])
    wild = TINY.replace(optimizer='sgd', lr=1e30, schedule='fixed')
    c = compare(TINY, wild, data, (0, 1), **QUIET)
    bad = c.trick.runs[0]
    assert 'loss became' in bad.diverged and bad.seconds is None and not c.base.runs[0].diverged
    assert bad.accuracy == pytest.approx((data.valid.y == 3).float().mean().item())
    text = c._repr_markdown_()
    assert '2 of 2 runs diverged' in text and '| diverged |' in text and math.isnan(c.seconds[1])
    assert Comparison.from_dict(json.loads(c.to_json())).trick == c.trick


def test_stopping_passes_through(data, toys):
    class Stop(Callback):
        def after_step(self): os.kill(os.getpid(), 2)
    halted = toys('_halted', callbacks=lambda self: [Stop()])
    with pytest.raises(Interrupted): compare(TINY, halted(), data, (0, 1), **QUIET)
    with pytest.raises(Interrupted): ledger(TINY, [halted()], data, (0, 1), **QUIET)


def test_long_runs_leave_nothing_behind(data, monkeypatch):
    "What a run leaves in cycles, as a Learner does, is gone before the next one"
    class Node: pass
    left = []
    def long_run(recipe, data, seed, *_):
        node = Node()
        node.me = node
        left.append(weakref.ref(node))
        time.sleep(1.05)
        return Run(seed, 0.5, 0.5, steps=6, seconds=1.)
    monkeypatch.setattr(cnn_tricks.measure.repeated_runs, '_trained_run', long_run)
    repeat(TINY, data, (0,), **QUIET)
    assert len(left) == 1 and left[0]() is None


def test_global_random_state_is_left_alone(data):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    compare(TINY, FlipShift(), data, (0,), equal='seconds', **QUIET)
    assert torch.equal(before, torch.get_rng_state())


# ledger

def test_ledger_shares_the_base_and_lists_refusals(data, toys, monkeypatch):
    runs = []
    def note(recipe, data, seed, **kw):
        runs.append(seed)
        return train(recipe, data, seed, **kw)
    monkeypatch.setattr('cnn_tricks.measure.repeated_runs.train', note)
    refuses = toys('_refuses', applies=lambda self, recipe, data, machine: 'not on a Sunday')
    clashes = toys('_clashes', recipe=lambda self, r: r.replace(lr=1.))
    both = TINY + clashes() + toys('_clashes_too', recipe=lambda self, r: r.replace(lr=2.))()
    wide = TINY.replace(network_args={'width': 6})
    book = ledger(TINY, {'flips': FlipShift(), 'no': refuses(), 'both': both, 'wide': wide}, data, (0, 1), **QUIET)
    assert len(runs) == 3*2 and [c.trick.name for c in book.comparisons] == ['flips', 'wide']
    assert book.refused['no'] == 'not on a Sunday' and 'both set lr' in book.refused['both']
    assert 'not on a Sunday' in book._repr_markdown_() and book['wide'].base is book['flips'].base
    assert book['flips'].differences.tolist() == compare(TINY, FlipShift(), data, (0, 1), **QUIET).differences.tolist()
    assert Ledger.from_dict(json.loads(book.to_json())).to_dict() == book.to_dict()
    with pytest.raises(ValueError, match='not on a Sunday'): compare(TINY, refuses(), data, **QUIET)


def test_ledger_names(data):
    with pytest.raises(ValueError, match='one twice'): ledger(TINY, [FlipShift(), FlipShift()], data, **QUIET)
    with pytest.raises(ValueError, match="'base' is the base"): ledger(TINY, {'base': FlipShift()}, data, **QUIET)


def test_ledger_of_refusals_alone(data, toys, monkeypatch):
    monkeypatch.setattr('cnn_tricks.measure.repeated_runs.train', None)
    book = ledger(TINY, [toys('_refuses', applies=lambda *a: 'never')()], data, **QUIET)
    assert not book.comparisons and 'never' in book._repr_markdown_() and Ledger.from_dict(book.to_dict()) == book
    assert book.plot().figure


def test_holm():
    "By hand: 4 x 0.01, 3 x 0.011 (not below the first), 2 x 0.02, 1 x 0.9."
    def book(**p): return Ledger([SimpleNamespace(p=v, trick=SimpleNamespace(name=name)) for name, v in p.items()])
    assert book(c=.02, a=.01, d=.9, b=.011).holm() == pytest.approx(dict(a=.04, b=.04, c=.04, d=.9))
    assert book(a=.6, b=.6).holm() == {'a': 1., 'b': 1.}


# how it shows itself

def test_plot_shows_the_numbers(flips):
    ax = flips.plot()
    points = [line.get_xdata() for line in ax.lines]
    assert any(np.allclose(p, 100*flips.differences) for p in points if len(p) == 2)
    assert any(np.allclose(p, 100*np.array(flips.interval)) for p in points if len(p) == 2)
    assert 'points' in ax.get_xlabel()
    assert {t.get_text() for t in ax.get_legend().get_texts()} >= {'within ±δ', 'one seed'}


def test_display(flips, monkeypatch):
    shown = []
    monkeypatch.setattr('IPython.display.display', shown.append)
    flips._ipython_display_()
    assert 'flip_shift minus base' in shown[0].data and shown[1].axes
    import matplotlib.pyplot as plt
    assert not plt.fignum_exists(shown[1].number)


def test_save_and_load(flips, tmp_path):
    flips.save(tmp_path/'c.json')
    assert Comparison.load(tmp_path/'c.json') == flips and os.listdir(tmp_path) == ['c.json']
    assert Recipe.from_dict(flips.trick.recipe).tricks == (FlipShift(),)
    with pytest.raises(ValueError, match='must be a ledger'): Ledger.load(tmp_path/'c.json')


def test_a_comparison_and_a_ledger_survive_json(flips):
    assert Comparison.from_dict(json.loads(flips.to_json())) == flips
    with pytest.raises(ValueError, match='must be a comparison'): Comparison.from_dict({'kind': 'arm'})
    book = Ledger([flips, replace(flips, trick=replace(flips.trick, name='worse'))], {'other': 'not here'})
    again = Ledger.from_dict(json.loads(book.to_json()))
    assert again.to_dict() == book.to_dict() and again['worse'].base == flips.base and again.refused == book.refused


def test_a_ledger_is_sorted_by_the_difference():
    book = Ledger([against([.01, .02]), against([.03, .05]), against([-.01, 0.])])
    assert [c.difference for c in book.sorted()] == sorted((c.difference for c in book.comparisons), reverse=True)


def test_one_seed_and_equal_seeds_say_nothing():
    one, equal = against([.05]), against([.01, .01])
    for c in (one, equal): assert c.interval == (-math.inf, math.inf) and c.verdict == 'undecided' and c.p == 1
    with pytest.raises(ValueError, match='delta=0: must lie between 0 and 1'): against([.01], delta=0)


def test_plan_of_steps(data):
    half = TINY.replace(batch_size=32)
    assert plan_steps([TINY, half], data)[0] == [6, 6]
    assert plan_steps([TINY.replace(epochs=3), half], data, 'epochs')[0] == [3*(160//16), 3*(160//32)]
    with pytest.raises(ValueError, match="equal='hours': must be"): plan_steps([TINY, half], data, 'hours')


def test_a_kind_nobody_knows(tmp_path):
    with pytest.raises(ValueError, match="kind='nonsense': must be one of arm, "): read_plain({'kind': 'nonsense'})
    with pytest.raises(ValueError, match='kind=None'): read_plain({})


def test_fields_of_a_subclass_are_kept():
    @dataclass
    class Scaled(Comparison):
        factor:float = 1.
    try:
        c = Scaled(arm([.5, .6]), arm([.6, .8], 't'), 0.02, 'seconds', factor=2.5)
        back = read_plain(json.loads(c.to_json()))
        assert type(back) is Scaled and back == c and back.factor == 2.5 and back.equal == 'seconds'
    finally: del Plain.kinds['scaled']


def test_time_to():
    r = Run(0, .8, .8, 6, 3., [dict(step=3, seconds=1.5, accuracy=.5), dict(step=6, seconds=3., accuracy=.8)])
    assert (r.time_to(.4), r.time_to(.5), r.time_to(.6), r.time_to(.9)) == (1.5, 1.5, 3., None)


# records

@pytest.fixture
def package(tmp_path):
    "A copy of the package's modules that a test may edit."
    keep = lambda folder, names: [n for n in names if (Path(folder)/n).is_file() and not n.endswith('.py')]
    return Path(shutil.copytree(Path(cnn_tricks.__file__).parent, tmp_path/'cnn_tricks', ignore=keep))


def home(thing):
    "The module, as records name it, that a class or a function comes from."
    return thing.__module__.removeprefix('cnn_tricks.')


TRAINING = {home(train), home(sgd), home(step)}


def edit(package, thing, old, new):
    path = package/f'{home(thing).replace(".", "/")}.py'
    text = path.read_text(encoding='utf-8')
    assert old in text
    path.write_text(text.replace(old, new), encoding='utf-8')


def test_documentation_does_not_make_a_record_stale(package):
    before = code_hashes(TRAINING, package)
    for path in package.rglob('*.py'):
        text = path.read_text(encoding='utf-8').replace('"""', "'''", 2)
        path.write_text(f'"""Another docstring"""\n# a comment\n\n{text}\n\n# the end\n', encoding='utf-8')
    edit(package, sgd, '`torch.optim.SGD`, with Nesterov momentum (Sutskever et al. 2013, section 2) unless told otherwise', 'Steps downhill')
    edit(package, sgd, 'lr:float, # learning rate', 'lr, # how far')
    edit(package, train, '__all__ = [', "__all__ = ['more', ")
    edit(package, step, "tldr='", "tldr='In short: ")
    assert code_hashes(TRAINING, package) == before


@pytest.mark.parametrize('thing,old,new', [
    (sgd, 'momentum:float=0.9', 'momentum:float=0.8'), (RunControl, 's.step += 1', 's.step += 2'),
    (ImageLoader, 'div_(255)', 'div_(256)'), (Registry, 'class Registry', 'class Register')],
    ids=['sgd', 'RunControl', 'ImageLoader', 'Registry'])
def test_code_does(package, thing, old, new):
    before = code_hashes({home(train), home(sgd)}, package)
    edit(package, thing, old, new)
    after = code_hashes({home(train), home(sgd)}, package)
    assert [m for m in before if after[m] != before[m]] == [home(thing)]


@pytest.mark.parametrize('thing,old,new', [
    (plan_steps, 'min(max(steps // 5, 10), 60)', 'min(max(steps // 5, 10), 90)'),
    (plan_steps, 'max(seeds) + 1', 'max(seeds) + 2'),
    (paired_t, 'max(sample_sd(d), resolution)', 'sample_sd(d)'),
    (Comparison, "x != y and what not in differ", 'False')])
def test_planning_pairing_and_judging_make_a_record_stale(package, flips, thing, old, new):
    before = code_hashes(modules_used(flips), package)
    edit(package, thing, old, new)
    after = code_hashes(modules_used(flips), package)
    assert [m for m in before if after[m] != before[m]] == [home(thing)]


def test_hash_is_the_same_in_every_python():
    "A value worked out once: syntax trees gain fields with new versions of Python, which must not count."
    source = 'import os\n@f\nclass A(B, c=1):\n    x: int = 3\n    def g(self, a, *, b: str = "é", **k) -> int:\n' \
             '        "Doc"\n        return [f"{a:>{b}}" for _ in () if not a] or (lambda: None)\n'
    assert code_hash(source) == 'cb014409a6be'


def test_where_a_name_comes_from_does_not_count():
    "A module of the package may move; what is taken from it, and what is taken from other packages, counts."
    one = 'import os\nfrom .recipe import Recipe, plan\nfrom .train import train\ndef f():\n    import cnn_tricks.cli.train\n' \
          '    return import_module("cnn_tricks.cli.train")\n'
    other = 'from cnn_tricks.core.train import train\nimport os\nfrom ..core.recipe import plan\n' \
            'from ..core.steps import Recipe\ndef f():\n    import cnn_tricks.cli.train\n' \
            '    return import_module("cnn_tricks.cli.train")\n'
    assert code_hash(one) == code_hash(other)
    changes = ('Recipe, plan', 'Recipe'), ('plan\n', 'plan as p\n'), ('import os', 'import sys'), ('train\n', 'learner\n')
    for old, new in changes: assert old in one and code_hash(one.replace(old, new, 1)) != code_hash(one)
    assert code_hash('from torch import nn') != code_hash('from fastai import nn')


def test_hashes_follow_imports_into_folders(tmp_path):
    "Relative ones of any depth, absolute ones, a module taken from its package, an import within a function."
    files = {'core/train.py': 'from .plan import p\nfrom ..base import paths\ndef f():\n    import cnn_tricks.nets.cnn\n',
             'core/plan.py': 'from .. import __version__\nfrom cnn_tricks.data.images import x', 'base/paths.py': 'import os',
             'nets/cnn.py': '', 'data/images.py': '', 'core/other.py': '', '__init__.py': ''}
    for name, text in files.items():
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text(text)
    wanted = ['base.paths', 'core.plan', 'core.train', 'data.images', 'nets.cnn']
    assert list(code_hashes({'core.train'}, tmp_path)) == wanted
    assert code_hashes({'core.nowhere'}, tmp_path) == {}


def test_modules_used(flips, data, toys):
    used, common = modules_used(flips), {home(f) for f in (train, resnet, sgd, plan_steps, Arm, Comparison)}
    assert used == common | {home(FlipShift)}
    assert modules_used(flips.base) == common # no trick
    hashed = set(code_hashes(used))
    assert {home(f) for f in (ImageLoader, Registry, RunControl)} <= hashed
    assert not {home(f) for f in (compare, Table, Shown)} & hashed
    planned = toys('_planned', recipe=lambda self, r: r.replace(optimizer='_toy_sgd'), __module__='cnn_tricks.toy')
    def toy_sgd(params, lr): return sgd(params, lr)
    toy_sgd.__module__ = 'cnn_tricks.elsewhere'
    optimizers.register('_toy_sgd', toy_sgd)
    try: assert modules_used(compare(TINY, planned(), data, (0,), **QUIET)) == common | {'toy', 'elsewhere'}
    finally: optimizers.remove('_toy_sgd')


def test_record(flips, data, tmp_path):
    path = record('flips', flips, tmp_path, made_by='python make.py')
    kept = recorded('flips', tmp_path)
    assert path.name == 'flips.json' and os.listdir(tmp_path) == ['flips.json']
    assert kept.result == flips and kept.stale == []
    assert kept.verdict == flips.verdict and kept.difference == flips.difference
    text = str(kept.line())
    assert re.search(r'Recorded on \d{4}-\d\d-\d\d: 2 seeds', text) and data.name in text and 'Stale' not in text
    d = json.loads(path.read_text(encoding='utf-8'))
    assert d['result']['base']['data']['fingerprint'] == data.fingerprint
    assert d['versions']['torch'] in torch.__version__
    with pytest.raises(AttributeError): kept.nonsense


def test_stale_record_says_so(flips, tmp_path):
    path = record('flips', flips, tmp_path, made_by='python make.py')
    d = json.loads(path.read_text(encoding='utf-8'))
    d['code'] |= {home(train): 'x', 'gone_module': 'y'}
    path.write_text(json.dumps(d), encoding='utf-8')
    kept = recorded('flips', tmp_path)
    assert kept.stale == [home(train), 'gone_module']
    assert '**Stale:**' in kept.line().markdown
    assert f'`{home(train)}`, `gone_module`' in str(kept) and 'python make.py' in str(kept)


def test_record_shows_itself(flips, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr('IPython.display.display', shown.append)
    record('both', {'a': flips, 'b': flips.base}, tmp_path)
    kept = recorded('both', tmp_path)
    kept._ipython_display_()
    assert 'Recorded on' in str(shown[0]) and shown[1:] == [flips, flips.base] and kept['a'] == flips


def test_record_refuses(flips, tmp_path):
    with pytest.raises(FileNotFoundError, match="no recorded run 'other'.*there are: mine"):
        record('mine', flips, tmp_path)
        recorded('other', tmp_path)
    for name in ('', 'A', '../x', 'a.json'):
        with pytest.raises(ValueError, match='name='): record(name, flips, tmp_path)
    with pytest.raises(ValueError, match='no runs'): record('x', flips.base[:0], tmp_path)
    (tmp_path/'times.json').write_text('{"00_data": {}}')
    with pytest.raises(ValueError, match='is no recorded run'): recorded('times', tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['mine.json', 'times.json']


def test_a_new_trick_reaches_compare_json_and_table(data, tmp_path, toys):
    def slower(self, r): return r.replace(lr=r.lr*self.p)
    toy = toys('_toy', __annotations__={'p': float}, p=bounded(0.5, ge=0, le=1), recipe=slower)
    c = compare(TINY, toy(p=0.25), data, (0, 1), **QUIET)
    assert c.trick.name == '_toy(p=0.25)' and '_toy(p=0.25)' in c.table().markdown
    record('toy', c, tmp_path)
    assert Recipe.from_dict(recorded('toy', tmp_path).trick.recipe).tricks == (toy(p=0.25),)


# costs

def test_energy_counter_is_read_where_there_is_one(tmp_path):
    for zone, name, uj in (('intel-rapl:0', 'package-0', 5_000_000), ('intel-rapl:1', 'package-1', 1_000_000),
                           ('intel-rapl:0:0', 'core', 1), ('intel-rapl:2', 'psys', 9)):
        (tmp_path/zone).mkdir()
        for file, value in (('name', name), ('energy_uj', uj), ('max_energy_range_uj', 10_000_000)):
            (tmp_path/zone/file).write_text(f'{value}\n')
    assert _rapl(tmp_path) == ({'intel-rapl:0': (5., 10.), 'intel-rapl:1': (1., 10.)}, '')
    (tmp_path/'intel-rapl:1'/'energy_uj').unlink()
    found, why = _rapl(tmp_path)
    assert not found and 'cannot be read' in why and 'no energy counter' in _rapl(tmp_path/'none')[1]


def test_energy_between_two_readings():
    assert joules_between({'a': (5., 10.), 'b': (9., 10.)}, {'a': (7., 10.), 'b': (2., 10.)}) == 2 + 3  # b has started anew
    assert joules_between({'a': (5., 10.)}, {}) == 0


def test_measured_energy(monkeypatch):
    readings = iter([({'p': (1., 9.)}, ''), ({'p': (3.5, 9.)}, '')])
    monkeypatch.setattr('cnn_tricks.measure.cost.energy_counters', lambda: next(readings))
    spent = measure_costs(lambda: 42)
    assert spent.energy_joules == 2.5 and spent.result == 42 and 'all else that ran' in spent.notes[0]


def test_measured_costs():
    with measure_costs() as spent: total = sum(i*i for i in range(200_000))
    assert total and spent.seconds > 0 and spent.cpu_seconds > 0 and spent.peak_bytes > 10_000_000
    assert (spent.energy_joules is None) == (not energy_counters()[0]) and 'CPU seconds' in spent._repr_markdown_()
    with pytest.raises(ZeroDivisionError), measure_costs() as failed: 1/0
    assert failed.seconds >= 0


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='only Linux forgets the peak of a process')
def test_peak_is_that_of_the_block():
    np.ones(60_000_000)  # larger than what follows, and to be forgotten
    a, b = measure_costs(lambda: 1).peak_bytes, measure_costs(lambda: np.ones(40_000_000).sum()).peak_bytes
    assert 250e6 < b - a < 400e6  # 320 MB


@pytest.mark.parametrize('there', [True, False])
def test_any_accelerator_is_waited_for(monkeypatch, there):
    "Not CUDA alone: before and after each function that is timed."
    done = []
    monkeypatch.setattr(torch.accelerator, 'is_available', lambda: there)
    monkeypatch.setattr(torch.accelerator, 'synchronize', lambda *a: done.append('wait'))
    time_in_turns({'f': lambda: done.append('f')}, rounds=2)
    assert done == ['f'] + ['wait', 'f', 'wait']*2 if there else ['f']*3


def test_training_costs_count_the_optimiser(data):
    n = training_costs(TINY, data).params
    tensors = len(list(train(TINY.replace(steps=1), data, **QUIET).trained.model.parameters()))
    for name, args, numbers in (('sgd', {}, n), ('sgd', {'momentum': 0.}, 0), ('adam', {}, 2*n), ('adamw', {}, 2*n)):
        spent = training_costs(TINY.replace(optimizer=name, optimizer_args=args), data)
        assert spent.bytes['optimiser state'] == 4*numbers + 4*tensors*name.startswith('adam')
    big = training_costs(TINY.replace(size=16, batch_size=1000, epochs=3), data)
    assert big.bytes['one batch'] == 160*(4*16*16 + 8) and big.train_macs == 3*big.macs*160*3
    assert training_costs(TINY.replace(seconds=1), data).train_macs is None
    torch.manual_seed(0)
    before = torch.get_rng_state()
    training_costs(TINY, data)
    assert torch.equal(before, torch.get_rng_state())


# the script

def test_recording_script(tmp_path, monkeypatch, capsys):
    path = ROOT/'scripts'/'record'/'foundation.py'
    for name in 'OMP_NUM_THREADS', 'OMP_WAIT_POLICY': monkeypatch.setenv(name, '1' if 'NUM' in name else 'PASSIVE')
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script
    monkeypatch.setattr(sys, 'argv', [str(path), '--quick', '--folder', str(tmp_path), 'aa_baseline'])
    with warnings.catch_warnings(): runpy.run_path(str(path), run_name='__main__')
    assert 'spread' in capsys.readouterr().out
    kept = recorded('aa_baseline', tmp_path)
    assert len(kept.runs) == 4 and kept.sd > 0 and not kept.stale and 'record/foundation.py aa_baseline' in kept.made_by


KEPT = [p.stem for p in sorted((ROOT/'results'/'records').glob('*.json')) if 'result' in json.loads(p.read_text('utf-8'))]


@pytest.mark.parametrize('name', KEPT)
def test_records_load(name):
    kept = recorded(name)
    script = re.fullmatch(r'python (scripts/record/\w+\.py).*', kept.made_by)
    assert str(kept.line()) and (ROOT/script[1]).exists() and re.fullmatch(r'\d{4}-\d\d-\d\d', kept.date)


def test_records_module_alone_knows_every_kind():
    code = 'from cnn_tricks.measure.records import recorded; print(type(recorded("flip_shift").result).__name__)'
    assert run(sys.executable, '-W', 'ignore', '-c', code).strip() == 'dict'


def test_records_of_the_lesson_are_there():
    assert {'aa_baseline', 'flip_shift', 'fast_vs_baseline'} <= set(KEPT)


@pytest.fixture
def check_records(monkeypatch):
    "The script's `main`, called with a command line."
    monkeypatch.syspath_prepend(ROOT/'scripts'/'record')
    for name in 'OMP_NUM_THREADS', 'OMP_WAIT_POLICY': monkeypatch.setenv(name, '1' if 'NUM' in name else 'PASSIVE')
    def call(*argv):
        monkeypatch.setattr(sys, 'argv', ['check_records.py', *map(str, argv)])
        with warnings.catch_warnings(): return __import__('check_records').main()
    return call


def test_stale_records_are_checked(tmp_path, check_records, capsys):
    "One run is made again: a record that holds is stamped, one that does not, or cannot be tried, stays as it is."
    data = embedded().resize(14).subset(160).subset(150, parts=('valid',)).subset(140, parts=('test',))
    held = compare(TINY, FlipShift(), data, (3, 4), part='test', **QUIET)
    held.base.runs[0].seconds, held.trick.runs[0].seconds = 2., 1. # both arms use the module that changes: the quicker is run
    lost, wrong = (Comparison.from_dict(json.loads(held.to_json())) for _ in range(2))
    for a in (lost.base, lost.trick): a.data['fingerprint'] = 'gone'
    for r in (*wrong.base.runs, *wrong.trick.runs): r.accuracy = .99
    odd = Comparison.from_dict(json.loads(held.to_json()))
    odd.trick.runs[0].accuracy += .2  # far off by chance: its spread says that runs differ so
    for name, c in dict(held=held, lost=lost, odd=odd, wrong=wrong, fresh=held).items():
        path = record(name, c, tmp_path, made_by='python scripts/record/foundation.py flip_shift')
        d = json.loads(path.read_text('utf-8'))
        if name != 'fresh': path.write_text(json.dumps(d | {'code': d['code'] | {home(FlipShift): 'before'}}), encoding='utf-8')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert check_records('--folder', tmp_path, '--dry-run') == 1  # one has no data
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    capsys.readouterr()
    assert check_records('--folder', tmp_path) == 1
    said = capsys.readouterr().out
    assert '4 looked at, 2 hold; stale: lost, wrong' in said and 'lost: stays stale' in said
    assert {n for n, b in before.items() if (tmp_path/n).read_bytes() != b} == {'held.json', 'odd.json'}
    kept = recorded('held', tmp_path)
    assert not kept.stale and kept.result == held and kept.checked['arm'] == 'flip_shift'  # the one with a trick
    assert kept.checked['seeds'] == 1 and kept.checked['now'] == kept.checked['recorded'] == held.trick.accuracies[0]
    assert check_records('--folder', tmp_path, 'held') == 0


def test_tolerance_of_a_check(check_records):
    with pytest.raises(SystemExit): check_records('--help')
    tolerance = sys.modules['check_records'].tolerance
    wide, alike = (arm(v, data={'valid': 10_000}) for v in ([.7, .8, .9], [.8, .8, .8]))
    assert tolerance(wide, 1) == pytest.approx(.3) and tolerance(alike, 1) == pytest.approx(2*.004)
    assert tolerance(wide, 3) == pytest.approx(.3/3**.5) and tolerance(alike, 3) == tolerance(alike, 1)
    assert tolerance(arm([1.], data={'valid': 50}), 1) == pytest.approx(1/50)


# time in turns, and the step that is timed

def test_timings_by_hand():
    made = Timings({'a': [1., 2., 4.], 'b': [2., 2., 2.]})
    assert made.ratios('a', 'b') == [2, 1, .5] and made.ratio('a', 'b') == 1 and made.spread('a', 'b') == (.5, 2)
    assert made.median('a') == 2 and 'times as fast as a' in made._repr_markdown_()


def test_turns_are_interleaved():
    order = []
    time_in_turns({n: lambda n=n: order.append(n) for n in 'ab'}, rounds=2, calls=2)
    assert ''.join(order) == 'ab' + 'aabb' + 'bbaa'
    for name in 'rounds', 'calls':
        with pytest.raises(ValueError, match=f'{name}=0: must be at least 1'): time_in_turns({}, **{name: 0})


def test_energy_of_a_counter_that_started_anew():
    assert joules_between({'a': (5., 9.)}, {'a': (7., 9.)}) == 2 and joules_between({'a': (8., 9.)}, {'a': (1., 9.)}) == 2


def test_a_step_hardly_moves_its_copy(data):
    step = recipe_step(TINY, data, device='cpu')
    kept = [p.detach().clone() for p in step.model.parameters()]
    step()
    assert not all(map(torch.equal, kept, step.model.parameters()))
    assert all((p - q).abs().max() < 1e-4 for p, q in zip(kept, step.model.parameters()))
    with pytest.raises(ValueError, match='batch_size=100000'): recipe_step(TINY.replace(batch_size=100_000), data)


def test_a_loader_goes_on_as_if_nobody_had_looked():
    dl = torch.utils.data.DataLoader(range(100), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    looked, chance = first_batch(dl).tolist(), torch.get_rng_state()
    assert first_batch(dl).tolist() == looked == next(iter(dl)).tolist() != next(iter(dl)).tolist()
    assert torch.equal(torch.get_rng_state(), chance)


def test_bad_records(tmp_path, flips):
    with pytest.raises(ValueError, match='small letters'): record('No!', flips, tmp_path)
    with pytest.raises(ValueError, match='holds no runs'): record('empty', flips.base[:0], tmp_path)
    record('group', {'a': flips.base, 'b': flips}, tmp_path)
    assert recorded('group', tmp_path)['a'] == flips.base
