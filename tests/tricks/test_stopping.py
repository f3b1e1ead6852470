"""Early stopping against fastai's callback and by what a run leaves behind; calibration against loops and closed forms."""
import io
import math
import threading
from contextlib import redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import EarlyStoppingCallback
from scipy.optimize import minimize_scalar
from training import StopAt, same

from cnn_tricks.tools.calibration import expected_calibration_error, fit_temperature, reliability, temper
from cnn_tricks.core.run_control import Interrupted
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.core.components import losses
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.tricks.stopping import EarlyStopping, KeepBest, LabelSmoothing
from cnn_tricks.core.train import fit_steps, learner, train


@pytest.fixture(scope='module')
def data(): return embedded().subset(96).subset(100, parts=('valid',))


def tiny(**kw):
    "Two steps an epoch, at a rate so large that validation goes up and down."
    return Recipe(**{'network': 'plain', 'network_args': {'widths': [4]}, 'batch_size': 48, 'lr': 0.3, 'steps': 24,
                     'optimizer': 'sgd', **kw})


class Weights(Callback):
    "Keeps the weights and buffers after every epoch."
    order = 40
    def before_fit(self): self.seen = []
    def after_epoch(self): self.seen.append({k: v.clone() for k, v in self.model.state_dict().items()})


def without_clock(history): return [{k: v for k, v in h.items() if k != 'seconds'} for h in history]


def oracle(values, patience, min_delta=0., lower=True):
    "Index of the best look and how many were made, straight from the definition."
    best = None
    for n in range(len(values)):
        v, b = values[n], None if best is None else values[best]
        if b is None and v == v or b is not None and ((b - v) if lower else (v - b)) > min_delta: best = n
        if n - (-1 if best is None else best) >= patience: return best, n + 1
    return best, len(values)


def drive(cb, monitor, values):
    "The best value that a tracker kept, and the looks that it made."
    cb.learn = SimpleNamespace(epoch=0, model=torch.nn.Linear(1, 1), lock=threading.Lock(), recorder=SimpleNamespace(
        metric_names=['epoch', monitor], values=[], cancel_valid=False))
    for event in ('before_fit', 'before_train'): getattr(cb, event, lambda: None)()
    for i, v in enumerate(values):
        cb.learn.recorder.values.append([v])
        try:
            with redirect_stdout(io.StringIO()): cb.after_epoch()
        except CancelFitException: return cb.best, i + 1
    return cb.best, len(values)


@pytest.mark.parametrize('monitor', ['valid_loss', 'accuracy'])
def test_stops_where_fastai_stops(monitor):
    rng = np.random.default_rng(0)
    for patience in (1, 2, 5):
        for min_delta in (0., 0.2):
            for _ in range(20):
                values = rng.normal(size=12).tolist()
                at, looks = oracle(values, patience, min_delta, monitor == 'valid_loss')
                settings = dict(patience=patience, min_delta=min_delta)
                ours, theirs = (drive(c(monitor, **settings), monitor, values) for c in (KeepBest, EarlyStoppingCallback))
                assert ours == theirs == (values[at], looks)


def test_not_a_number():
    "A loss that is none never counts as an improvement; an equal one does not either."
    for values, want in (([math.nan]*5, 3), ([2., math.nan, 1., math.nan, 1., 1.], 6), ([1.]*9, 4)):
        assert drive(KeepBest(patience=3), 'valid_loss', values)[1] == want
    cb = KeepBest(patience=3)
    drive(cb, 'valid_loss', [math.nan]*5)
    assert cb.kept is None and cb.after_fit() is None  # nothing was kept, nothing is put back


@pytest.mark.parametrize('make, match', [
    (lambda: EarlyStopping(patience=0), 'patience'), (lambda: EarlyStopping(min_delta=-0.1), 'min_delta'),
    (lambda: EarlyStopping(monitor='loss'), 'monitor'), (lambda: LabelSmoothing(eps=1.), 'eps'),
    (lambda: LabelSmoothing(eps=-0.1), 'eps')])
def test_bad_settings(make, match):
    with pytest.raises(ValueError, match=match): make()


@pytest.mark.parametrize('monitor', ['valid_loss', 'accuracy'])
def test_stops_and_restores(data, monitor):
    "It stops where the definition says, with the weights and buffers of the best epoch, and until then changes nothing."
    weights, recipe = Weights(), tiny(steps=60)
    plain = train(recipe, data, progress=False, cbs=[weights])
    values = [h[monitor] for h in plain.history]
    at, looks = oracle(values, 2, lower=monitor == 'valid_loss')
    assert looks == at + 3 < len(values)
    run = train(recipe + EarlyStopping(monitor, patience=2), data, progress=False)
    assert run.steps == 2*looks and run.losses == plain.losses[:run.steps]
    assert same(run.trained.model.state_dict(), weights.seen[at])
    assert without_clock(run.history[:-1]) == without_clock(plain.history[:looks])
    last = run.history[-1]
    assert (last['accuracy'], last['valid_loss']) == tuple(plain.history[at][k] for k in ('accuracy', 'valid_loss'))
    assert (last['step'], last['restored_step']) == (run.steps, plain.history[at]['step']) and run.finished
    right = (run.trained.predict(data.valid.x).argmax(1) == data.valid.y).float().mean().item()
    assert right == pytest.approx(run.accuracy)


def test_best_is_last(data):
    "Where every look improves nothing is put back, and no row is added."
    run = train(tiny(lr=1e-3, steps=8) + EarlyStopping(patience=1), data, progress=False)
    plain = train(tiny(lr=1e-3, steps=8), data, progress=False)
    assert without_clock(run.history) == without_clock(plain.history) and len(run.history) == 4
    assert same(run.trained.model.state_dict(), plain.trained.model.state_dict())


def test_resumed_before_it_stops(data, tmp_path):
    "Interrupted while it is waiting, with the best weights behind it: the resumed run stops at the same place."
    recipe = tiny(steps=60) + EarlyStopping(patience=3)
    straight = train(recipe, data, progress=False)
    best = straight.history[-1]['restored_step']
    with pytest.raises(Interrupted):
        train(recipe, data, progress=False, out=tmp_path, checkpoint_every=0, cbs=[StopAt(best + 3)])
    kept = torch.load(tmp_path/'checkpoint.pt', weights_only=True)
    assert kept['callbacks']['keep_best']['wait'] == 1 and kept['run']['step'] == best + 3
    resumed = train(recipe, data, progress=False, out=tmp_path, resume=True)
    assert same(resumed.trained.model.state_dict(), straight.trained.model.state_dict())
    assert without_clock(resumed.history) == without_clock(straight.history) and resumed.losses == straight.losses


def test_phases(data):
    "In a run of two fits, each stops by its own best, and the rest of the budget is left."
    recipe, keep = tiny(steps=40), KeepBest(patience=1)
    learn = learner(recipe, data, cbs=[keep, weights := Weights()])
    with learn.no_bar(), learn.no_logging():
        for _ in range(2):
            fit_steps(learn, recipe)
            values = [v[1] for v in learn.recorder.values]
            at, looks = oracle(values, 1)
            assert len(values) == looks and same(learn.model.state_dict(), weights.seen[at])


def test_needs_validation(data):
    empty = ImageData(data.train, data.valid[torch.zeros(0, dtype=torch.long)], data.test, data.classes)
    assert 'validation' in EarlyStopping().applies(Recipe(), empty, None) and EarlyStopping().applies(Recipe(), data, None) == ''


def test_colour_not_square_and_seconds():
    x, y = torch.randint(0, 256, (64, 3, 12, 20), dtype=torch.uint8), torch.arange(64) % 4
    part = Part(x, y)
    data = ImageData(part, part, part, ('a', 'b', 'c', 'd'))
    recipe = Recipe(network='plain', network_args={'widths': [4]}, batch_size=16, seconds=0.1)
    for t in (EarlyStopping(patience=1), LabelSmoothing()): assert train(recipe + t, data, progress=False).steps >= 1


# label smoothing

@pytest.mark.parametrize('classes', [2, 3, 10])
def test_label_smoothing_loss(classes):
    "The registered loss is cross entropy against the softened labels, built here one image at a time."
    torch.manual_seed(0)
    z, y = torch.randn(7, classes, dtype=torch.float64), torch.randint(0, classes, (7,))
    r = plan(Recipe() + LabelSmoothing(0.3)).recipe
    want = 0.
    for row, label in zip(z.tolist(), y.tolist()):
        total = sum(map(math.exp, row))
        for k, v in enumerate(row): want -= (0.3/classes + 0.7*(k == label))*math.log(math.exp(v)/total)/7
    assert losses[r.loss](**r.loss_args)(z, y).item() == pytest.approx(want)


def test_label_smoothing_recipe():
    assert plan(Recipe() + LabelSmoothing()).recipe.loss_args == {'label_smoothing': 0.1}
    r = Recipe() + LabelSmoothing(0.2) + EarlyStopping('accuracy', 4)
    assert Recipe.from_json(r.to_json()) == r

    losses.register('test_hinge', lambda margin=1.: torch.nn.MultiMarginLoss(margin=margin))
    try:
        with pytest.raises(ValueError, match='label_smoothing'): plan(Recipe(loss='test_hinge') + LabelSmoothing())
    finally: losses.remove('test_hinge')


def test_registered(): assert {'early_stopping', 'label_smoothing'} <= set(tricks.names())


# calibration

def ece_by_loop(probs, y, bins):
    "A bin at a time, an image at a time."
    total = 0.
    for b in range(bins):
        inside = [i for i in range(len(y)) if b/bins < probs[i].max().item() <= (b + 1)/bins]
        if not inside: continue
        confidence = sum(probs[i].max().item() for i in inside)/len(inside)
        right = sum(int(probs[i].argmax()) == int(y[i]) for i in inside)/len(inside)
        total += len(inside)/len(y)*abs(confidence - right)
    return total


@pytest.mark.parametrize('classes, bins', [(2, 10), (4, 15), (10, 7), (3, 1)])
def test_ece_by_loop(classes, bins):
    torch.manual_seed(classes)
    probs, y = torch.randn(61, classes, dtype=torch.float64).mul(2).softmax(1), torch.randint(0, classes, (61,))
    assert expected_calibration_error(probs, y, bins) == pytest.approx(ece_by_loop(probs, y, bins), abs=1e-12)
    order = torch.randperm(61)
    assert expected_calibration_error(probs[order], y[order], bins) == pytest.approx(ece_by_loop(probs, y, bins))


def test_ece_closed_forms():
    sure = torch.eye(4)[torch.arange(8) % 4]
    assert expected_calibration_error(sure, torch.arange(8) % 4) == 0
    assert expected_calibration_error(sure, (torch.arange(8) + 1) % 4) == 1
    p = torch.tensor([[0.8, 0.2]]*10, dtype=torch.float64)
    assert expected_calibration_error(p, torch.tensor([0]*8 + [1]*2)) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(p, torch.tensor([0]*5 + [1]*5)) == pytest.approx(0.3)


def test_bins():
    "Closed on the right: 0.75 of four bins belongs to the third; float32 that rounds beyond 1 stays in the last."
    r = reliability(torch.tensor([[0.75, 0.25], [0.5, 0.5], [1., 0.]]), torch.tensor([0, 1, 0]), bins=4)
    assert r.count.tolist() == [0, 1, 1, 1] and r.accuracy[1:].tolist() == [0, 1, 1] and r.confidence[0].isnan()
    over = torch.tensor([[1.00001, 0.]])
    assert reliability(over, torch.tensor([0]), bins=4).count.tolist() == [0, 0, 0, 1]
    ax = r.plot()
    assert ax.get_xlabel() == 'confidence' and repr(r).startswith('Reliability(ece=')


@pytest.mark.parametrize('call, match', [
    (lambda p, y: expected_calibration_error(p, y[:2]), 'N, classes'), (lambda p, y: reliability(p[0], y), 'N, classes'),
    (lambda p, y: reliability(p*3, y), 'sum to 1'), (lambda p, y: reliability(p[:0], y[:0]), 'no rows'),
    (lambda p, y: reliability(p*math.nan, y), 'sum to 1'), (lambda p, y: reliability(p, y, bins=0), 'bins=0'),
    (lambda p, y: fit_temperature(p.log(), y), 'sum to 1'), (lambda p, y: temper(p, 0), 'temperature=0')])
def test_bad_calibration_input(call, match):
    with pytest.raises(ValueError, match=match): call(torch.tensor([[0.7, 0.3]]*3), torch.tensor([0, 1, 0]))


def test_temperature_is_found():
    "Labels are drawn from softmax(z); told softmax(3 z), the fit finds about 3, and exactly what scipy finds."
    torch.manual_seed(0)
    z = torch.randn(20_000, 5, dtype=torch.float64)*2
    y = torch.multinomial(z.softmax(1), 1)[:, 0]
    found = fit_temperature((3*z).softmax(1), y)
    assert found == pytest.approx(3, abs=0.1)
    loss = lambda t: torch.nn.functional.cross_entropy(3*z/t, y).item()
    assert found == pytest.approx(minimize_scalar(loss, bounds=(0.5, 10), method='bounded').x, rel=1e-3)
    assert expected_calibration_error(temper((3*z).softmax(1), found), y) < 0.01 < \
        expected_calibration_error((3*z).softmax(1), y)


def test_temper():
    torch.manual_seed(0)
    p = torch.randn(9, 4).softmax(1)
    torch.testing.assert_close(temper(p, 1.).float(), p)
    for t in (0.2, 5.): assert bool(torch.equal(temper(p, t).argsort(1), p.argsort(1)))
    assert temper(p, 1e3).std() < 1e-3 and bool(temper(torch.tensor([[1., 0.]]), 2.).isfinite().all())
    everything_right = fit_temperature(torch.tensor([[0.9, 0.1]]*4), torch.zeros(4, dtype=torch.long))
    assert 0.01 <= everything_right < 0.011  # it would go on sharpening for ever
