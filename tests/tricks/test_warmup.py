"""Warm-up: the factor against torch's, the rate that was used, what is left behind, and the probe against hand-made steps."""
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException, CancelFitException
from fastai.callback.training import GradientAccumulation
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import nn

from cnn_tricks.data.datasets import embedded
from cnn_tricks.tools.step_probe import StepProbe
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.tricks.schedule import OneCycle, UsedHypers, curve
from cnn_tricks.core.train import fit_steps, learner, train
from cnn_tricks.tricks.warmup import LinearWarmup, Warmup, warmup_factor


@pytest.fixture(scope='module')
def data(): return embedded().subset(200).subset(100, parts=('valid',))


def tiny(**kw): return Recipe(**dict(network='plain', network_args={'widths': [4]}, batch_size=20, lr=0.1, optimizer='sgd', steps=12) | kw)


@pytest.mark.parametrize('n, warm, start', [(100, 10, 0.1), (7, 7, 0.5), (12, 3, 0.01)])
def test_factor_is_torchs(n, warm, start):
    opt = torch.optim.SGD([torch.zeros(1)], 1.)
    scheduler, rates = torch.optim.lr_scheduler.LinearLR(opt, start, total_iters=warm), []
    for _ in range(n):
        rates.append(opt.param_groups[0]['lr'])
        opt.step()
        scheduler.step()
    np.testing.assert_allclose([warmup_factor(i/n, warm/n, start) for i in range(n)], rates, rtol=1e-6)


def test_factor_never_leaves_its_range():
    for pct in (0, 0.3, 1):
        values = [warmup_factor(t, pct, 0.2) for t in np.linspace(0, 1, 50)]
        assert all(0.2 <= v <= 1 for v in values) and values == sorted(values) and values[-1] == 1
    assert warmup_factor(0., 0) == 1


@pytest.mark.parametrize('make, match', [
    (lambda: warmup_factor(0.5, pct=1.1), 'pct=1.1'), (lambda: warmup_factor(0.5, start=0), 'start=0'),
    (lambda: warmup_factor(0.5, start=1.5), 'start=1.5'), (lambda: LinearWarmup(pct=-1), 'pct=-1'),
    (lambda: Warmup(pct=0.), 'pct'), (lambda: Warmup(start=0.), 'start'), (lambda: Warmup(start=2.), 'start')])
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match): make()


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
@pytest.mark.parametrize('schedule', ['fixed', 'step', 'wsd', 'one_cycle'])
def test_used_rate(data, schedule, optimizer):
    used, r = UsedHypers(), tiny(schedule=schedule, optimizer=optimizer)
    run = train(r + Warmup(pct=0.5, start=0.2), data, progress=False, cbs=[used])
    factors = [warmup_factor(i/12, 0.5, 0.2) for i in range(12)]
    assert used.lrs == run.lrs == pytest.approx([f*lr for f, lr in zip(factors, curve(r)['lr'])], rel=1e-6)


def test_order_of_tricks_is_free(data):
    a = train(tiny() + Warmup() + OneCycle(), data, progress=False).lrs
    assert a == train(tiny() + OneCycle() + Warmup(), data, progress=False).lrs


def test_three_steps_do_warm_up(data):
    assert train(tiny(steps=3) + Warmup(), data, progress=False).lrs == pytest.approx([0.01, 0.1, 0.1])


def test_each_fit_warms_up_anew(data):
    used, r = UsedHypers(), tiny(steps=10)
    learn = learner(r + Warmup(pct=0.2, start=0.5), data, cbs=[used])
    with learn.no_bar(), learn.no_logging():
        for _ in range(2): fit_steps(learn, r)
    assert used.lrs == pytest.approx(2*([0.05, 0.075] + [0.1]*8))


class Breaks(Callback):
    "Raises after the loss of one step"
    def __init__(self, what): self.what = what
    def after_loss(self):
        if self.training and self.train_iter == 3: raise self.what


@pytest.mark.parametrize('what', [None, CancelFitException, CancelBatchException])
def test_rates_of_all_groups_come_back(data, what):
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Linear(10, 10))
    learn = Learner(data.loaders(20), net, CrossEntropyLossFlat(), lr=0.1, cbs=[LinearWarmup(pct=0.5), *([Breaks(what)] if what else [])],
                    splitter=lambda m: [list(m[1].parameters()), list(m[2].parameters())])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, slice(0.01, 0.1))
    assert [h['lr'] for h in learn.opt.hypers] == pytest.approx([0.01, 0.1])


def test_accumulation(data):
    used = UsedHypers()
    train(tiny() + Warmup(pct=0.5), data, progress=False, cbs=[GradientAccumulation(40), used])
    assert used.lrs == pytest.approx([0.1*warmup_factor(i/12, 0.5) for i in range(1, 12, 2)])


def test_probe(data):
    "With plain SGD an update is the rate times the gradient; the norms are those of one long vector."
    class ByHand(Callback):
        def __init__(self): self.weights, self.grads = [], []
        def before_step(self):
            vector = lambda ts: torch.cat([t.detach().flatten() for t in ts])
            self.weights.append(vector(self.model.parameters()).norm().item())
            self.grads.append(vector(p.grad for p in self.model.parameters()).norm().item())
    probe, hand = StepProbe(), ByHand()
    train(tiny(optimizer_args={'momentum': 0.}), data, progress=False, cbs=[probe, hand])
    assert len(probe.grads) == len(probe.updates) == 12 and probe.grads == pytest.approx(hand.grads, rel=1e-4)
    assert probe.updates == pytest.approx([0.1*g/w for g, w in zip(hand.grads, hand.weights)], rel=1e-3)
    other = StepProbe()
    other.load_state_dict(probe.state_dict())
    assert other.updates == probe.updates
