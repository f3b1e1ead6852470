"""Schedules: against other people's formulas and loops, at their ends, with bad input; and the rate that was used."""
import math

import numpy as np
import pytest
import torch
from fastai.callback.schedule import SchedCos, SchedExp
from fastai.callback.training import GradientAccumulation

from cnn_tricks.data.datasets import embedded
from cnn_tricks.tools.lr_finder import find_lr
from cnn_tricks.core.components import schedules
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.tricks.schedule import OneCycle, UsedHypers, cosine, curve, exponential, step, wsd
from cnn_tricks.core.train import fit_steps, learner, train

FRACTIONS = np.linspace(0, 1, 41)
OURS = 'step', 'exponential', 'cosine', 'wsd', 'one_cycle'


@pytest.fixture(scope='module')
def data(): return embedded().subset(200).subset(100, parts=('valid',))


def tiny(**kw): return Recipe(network='plain', network_args={'widths': [4]}, batch_size=20, lr=0.1, **{'steps': 12, **kw})


@pytest.mark.parametrize('name', OURS)
def test_multipliers(name):
    "Between 0 and 1, the peak is reached, JSON arguments survive, and asking twice gives the same."
    f = schedules[name]()['lr']
    values = [f(t) for t in FRACTIONS]
    assert all(0 <= v <= 1 + 1e-12 for v in values) and max(values) == 1 and values == [f(t) for t in FRACTIONS]
    again = Recipe.from_json(Recipe(schedule=name).to_json())
    assert curve(again, 10) == curve(Recipe(schedule=name), 10) and len(curve(again, 10)['lr']) == 10


def test_fastai_curves():
    for ours, theirs in ((cosine(final=0.1), SchedCos(1, 0.1)), (exponential(final=0.02), SchedExp(1, 0.02))):
        np.testing.assert_allclose([ours['lr'](t) for t in FRACTIONS], [theirs(t) for t in FRACTIONS], atol=1e-12)


def test_step_counts_drops():
    "The rate of step i of n, in whole numbers: no drop comes a step late by rounding."
    for n in (3, 7, 10, 30, 100, 469):
        f = step(at=(0.3, 0.6, 0.9), gamma=0.5)['lr']
        want = [0.5**sum(10*i >= k*n for k in (3, 6, 9)) for i in range(n)]
        assert [f(i/n) for i in range(n)] == want


def test_wsd():
    f = wsd(warmup=0.2, cooldown=0.4, start=0.5, final=0.1)['lr']
    assert [round(f(t), 9) for t in (0, 0.1, 0.2, 0.6, 0.8, 1)] == [0.5, 0.75, 1, 1, 0.55, 0.1]
    g = wsd(warmup=0, cooldown=0.5, sqrt=True)['lr']
    assert [round(g(t), 9) for t in (0, 0.5, 0.625, 1)] == [1, 1, 0.5, 0]  # 1 - sqrt(1/4)
    assert all(wsd(warmup=0, cooldown=0)['lr'](t) == 1 for t in FRACTIONS)
    values = [wsd()['lr'](t) for t in np.linspace(0, 1, 2001)]
    assert np.abs(np.diff(values)).max() < 0.011  # no jump anywhere


@pytest.mark.parametrize('make, error, match', [
    (lambda: step(at=(1.5,)), ValueError, 'at=1.5'), (lambda: step(gamma=0), ValueError, 'gamma=0'),
    (lambda: exponential(final=0), ValueError, 'final=0'), (lambda: cosine(final=-1), ValueError, 'final=-1'),
    (lambda: cosine(final=True), TypeError, 'final=True'), (lambda: wsd(warmup=0.9), ValueError, 'together at most 1'),
    (lambda: wsd(start=0), ValueError, 'start=0'), (lambda: OneCycle(pct_start=1.), ValueError, 'pct_start'),
    (lambda: OneCycle(lr=0.), ValueError, 'lr'), (lambda: curve(Recipe(epochs=1)), ValueError, 'steps=None'),
    (lambda: find_lr(Recipe(), None, start=1., end=0.1), ValueError, 'start=1.0'),
    (lambda: find_lr(Recipe(), None, steps=5), ValueError, 'steps=5')])
def test_bad_input(make, error, match):
    with pytest.raises(error, match=match): make()


def test_one_cycle_trick():
    r = plan(Recipe(steps=8, lr=0.2) + OneCycle()).recipe
    assert (r.schedule, r.lr) == ('one_cycle', 0.2) and plan(Recipe(lr=0.2) + OneCycle(lr=0.5)).recipe.lr == 0.5
    assert plan(r + OneCycle(div=10.)).recipe.schedule_args['div'] == 10
    rates = curve(Recipe(steps=8, lr=0.2) + OneCycle(div=10., div_final=20.))['lr']
    want = [0.02, 0.11] + [0.01 + (0.2 - 0.01)*(1 + math.cos(math.pi*k/6))/2 for k in range(6)]
    np.testing.assert_allclose(rates, want, rtol=1e-5)
    assert Recipe.from_json((Recipe() + OneCycle(lr=0.5)).to_json()) == Recipe() + OneCycle(lr=0.5)


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
@pytest.mark.parametrize('name', OURS)
def test_used_is_planned(data, name, optimizer):
    used, r = UsedHypers(), tiny(schedule=name, optimizer=optimizer)
    run = train(r, data, progress=False, cbs=[used])
    assert used.lrs == run.lrs == pytest.approx(curve(r)['lr'], rel=1e-6)
    assert used.moms == pytest.approx(curve(r).get('mom', [0.9]*12), rel=1e-6)


def test_asking_changes_nothing(data):
    r = tiny(schedule='one_cycle')
    first = train(r, data, progress=False).lrs
    for _ in range(3): curve(r)
    assert train(r, data, progress=False).lrs == first


def test_used_under_accumulation(data):
    used = UsedHypers()
    train(tiny(schedule='cosine'), data, progress=False, cbs=[GradientAccumulation(60), used])
    assert used.lrs == pytest.approx(curve(tiny(schedule='cosine'))['lr'][2::3])


def test_each_phase_has_its_curve(data):
    "A fit of two phases runs through the schedule twice."
    used, r = UsedHypers(), tiny(schedule='cosine', steps=10)
    learn = learner(r, data, cbs=[used])
    with learn.no_bar(), learn.no_logging():
        for _ in range(2): fit_steps(learn, r)
    assert used.lrs == pytest.approx(2*curve(r)['lr'])


def test_used_hypers_state():
    a, b = UsedHypers(), UsedHypers()
    a.lrs, a.moms = [0.1], [0.9]
    b.load_state_dict(a.state_dict())
    assert (b.lrs, b.moms) == ([0.1], [0.9]) and b.lrs is not a.lrs


def test_find_lr(data):
    before = torch.get_rng_state()
    found = find_lr(tiny(optimizer='sgd'), data, seed=1, start=1e-4, steps=40)
    assert torch.equal(before, torch.get_rng_state())
    assert set(found.suggestions) == {'valley', 'steep', 'minimum', 'slide'} and len(found.lrs) == len(found.losses)
    np.testing.assert_allclose(found.lrs[:40], [1e-4*(10/1e-4)**(i/40) for i in range(len(found.lrs[:40]))], rtol=1e-4)
    assert all(1e-5 <= v <= 10 for v in found.suggestions.values())
    again = find_lr(tiny(optimizer='sgd'), data, seed=1, start=1e-4, steps=40)
    assert again.suggestions == found.suggestions and 'valley' in found._repr_markdown_()
    assert found.plot().get_xlabel() == 'learning rate'
