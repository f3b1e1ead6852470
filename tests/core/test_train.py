"Training, as far as the lesson does not show it: phases, budgets, Ctrl-C, and what a full disk costs."
import math, os, random, signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch.utils.data import DataLoader, TensorDataset

from cnn_tricks.core import run_control as control
from cnn_tricks.data import loaders
from cnn_tricks.core.run_control import Interrupted, RunControl, TrainingDiverged
from cnn_tricks.data.images import ImageData
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.averaging import EMA
from cnn_tricks.data.loaders import stream_seed
from cnn_tricks.nets.networks import networks
from cnn_tricks.core.recipe import Card, Recipe, Trick, trick, tricks
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.tricks.schedule import UsedHypers, curve
from cnn_tricks.tricks.stopping import EarlyStopping
from cnn_tricks.core.train import fit_steps, learner, steps_for, train

CARD = Card('A toy.', 'In tests.', 'Elsewhere.', 'None.', 'None.')
SMALL = Recipe(network='resnet', network_args={'width': 4}, steps=24, batch_size=16, schedule='one_cycle')


@pytest.fixture(scope='module')
def data(): return embedded().subset(160, parts=('train', 'valid', 'test'))


@pytest.fixture
def two_phase():
    "A trick that replaces the fit: a third of the steps with a frozen body, then all of it."
    @trick('_two_phase', CARD)
    class TwoPhase(Trick):
        def fit(self, learn, recipe):
            body, first = list(learn.model[:-1].parameters()), recipe.steps // 3
            for p in body: p.requires_grad_(False)
            fit_steps(learn, recipe, first)
            for p in body: p.requires_grad_(True)
            fit_steps(learn, recipe, recipe.steps - first)
    yield TwoPhase()
    tricks.remove('_two_phase')


class At(Callback):
    "Call `do` after the given optimiser step of this process."
    def __init__(self, step, do): self.step, self.do, self.count = step, do, 0
    def after_step(self):
        self.count += 1
        if self.count == self.step: self.do()


def power_cut(): raise OSError('power cut')


def weights(res): return res.trained.model.state_dict()
def same(a, b): return all(torch.equal(weights(a)[k], weights(b)[k]) for k in weights(a))


@pytest.mark.parametrize('step', [1, 8, 9, 11, 24])
def test_resume_in_any_phase(data, two_phase, tmp_path, step):
    recipe = SMALL + two_phase + FlipShift()
    kept = dict(out=tmp_path, checkpoint_every=0, progress=False)
    with pytest.raises(OSError, match='power cut'): train(recipe, data, cbs=[At(step, power_cut)], **kept)
    assert torch.load(tmp_path/'checkpoint.pt', weights_only=True)['run']['step'] == step - 1
    resumed, whole = train(recipe, data, resume=True, **kept), train(recipe, data, progress=False)
    assert same(resumed, whole) and resumed.lrs == whole.lrs and resumed.losses == whole.losses
    assert [h['accuracy'] for h in resumed.history] == [h['accuracy'] for h in whole.history]


def test_each_phase_has_its_own_schedule(data, two_phase):
    res = train(SMALL + two_phase, data, progress=False)
    assert res.steps == len(res.lrs) == 24
    assert res.lrs.index(max(res.lrs[:8])) == 2 and res.lrs[8] == pytest.approx(SMALL.lr / 25)


def test_a_frozen_body_does_not_move(data, two_phase):
    seen = []
    def look(learn): return {k: v.clone() for k, v in learn.model[0].named_parameters()}
    class Look(Callback):
        def before_fit(self): seen.append(look(self.learn))
    train(SMALL + two_phase, data, progress=False, cbs=[Look()])
    assert len(seen) == 2 and all(torch.equal(seen[0][k], seen[1][k]) for k in seen[0])


@pytest.mark.parametrize('budget, steps', [(dict(epochs=2), 20), (dict(epochs=0.5), 5), (dict(steps=7), 7), (dict(epochs=0.001), 1)])
def test_budget_in_steps(data, budget, steps):
    recipe = SMALL.replace(**budget)
    assert steps_for(recipe, data) == steps == train(recipe, data, progress=False).steps


class Clock:
    "Stands in for the module `time` in a run: a step takes a second, whatever the machine does."
    def __init__(self): self.now = 0.
    def perf_counter(self): return self.now
    def monotonic(self): return self.now
    def tick(self): self.now += 1


@pytest.fixture
def clock(monkeypatch):
    "A clock that each step of every run moves on by a second."
    clock, after_batch = Clock(), RunControl.after_batch
    def ticking(self):
        if self.training: clock.tick()
        after_batch(self)
    monkeypatch.setattr(control, 'time', clock)
    monkeypatch.setattr(RunControl, 'after_batch', ticking)
    return clock


def test_budget_in_seconds_is_decided_once(data, tmp_path, clock):
    "At a second a step 24 seconds are 24 steps; a resumed run keeps them, though a step now takes two."
    recipe = SMALL.replace(seconds=24.)
    with pytest.raises(OSError): train(recipe, data, out=tmp_path, checkpoint_every=0, progress=False, cbs=[At(3, power_cut)])
    assert torch.load(tmp_path/'checkpoint.pt', weights_only=True)['meta']['total'] == 24
    slower = At(0, lambda: None)
    slower.after_step = clock.tick
    assert train(recipe, data, out=tmp_path, resume=True, progress=False, cbs=[slower]).steps == 24


@pytest.mark.parametrize('step', [4, 14])
def test_seconds_of_a_resumed_run_add_up(data, tmp_path, clock, step):
    "10 steps an epoch: the steps of the epoch that was cut short are in the checkpoint too."
    with pytest.raises(OSError): train(SMALL, data, out=tmp_path, checkpoint_every=0, progress=False, cbs=[At(step, power_cut)])
    assert torch.load(tmp_path/'checkpoint.pt', weights_only=True)['run']['seconds'] == step - 1
    resumed, whole = train(SMALL, data, out=tmp_path, resume=True, progress=False), train(SMALL, data, progress=False)
    assert resumed.seconds == whole.seconds == 24 and resumed.history == whole.history


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=['heard', 'ignored'])
def interrupt(request):
    "What SIGINT does before the run: a test may itself run where it is ignored."
    old = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, old)


def test_ctrl_c_leaves_a_run_that_can_go_on(data, tmp_path, interrupt):
    with pytest.raises(Interrupted, match='stopped at step 6 of 24.*resume=True') as e:
        train(SMALL, data, out=tmp_path, progress=False, cbs=[At(6, lambda: signal.raise_signal(signal.SIGINT))])
    assert e.value.result.steps == 6 and not e.value.result.finished
    resumed = train(SMALL, data, out=tmp_path, resume=True, progress=False)
    assert resumed.finished and same(resumed, train(SMALL, data, progress=False))
    assert signal.getsignal(signal.SIGINT) is interrupt


def test_a_full_disk_costs_the_checkpoint_not_the_run(data, tmp_path, monkeypatch):
    def full(fd): raise OSError(28, 'No space left on device')
    def later(): monkeypatch.setattr(os, 'fsync', full)
    with pytest.warns(UserWarning, match='No space left'):
        res = train(SMALL, data, out=tmp_path, checkpoint_every=0, progress=False, cbs=[At(4, later)])
    assert res.finished
    assert torch.load(tmp_path/'checkpoint.pt', weights_only=True)['run']['step'] == 3   # the last whole one
    assert [p.name for p in tmp_path.iterdir()] == ['checkpoint.pt']


class Spoil(Callback):
    "The loss of one step becomes nan after it was looked at, as on a GPU, where nobody looks at once."
    order = 0
    def __init__(self, step): self.step = step
    def after_loss(self):
        if self.training and self.run_control.state.step + 1 == self.step: self.learn.loss = self.loss*float('nan')


@pytest.mark.parametrize('step', [3, 10, 23, 24])
def test_a_late_nan_is_never_a_finished_run(data, tmp_path, step):
    "In the middle of an epoch, at its end, and in the last steps of the run; no checkpoint or validation comes after it."
    with pytest.raises(TrainingDiverged, match=f'the loss became nan at step {step} of 24, with lr'):
        train(SMALL, data, out=tmp_path, checkpoint_every=0, progress=False, cbs=[Spoil(step)])
    kept = torch.load(tmp_path/'checkpoint.pt', weights_only=True)
    assert kept['run']['step'] < step and all(map(math.isfinite, kept['run']['losses']))
    assert all(h['step'] < step for h in kept['run']['history'])


def test_without_validation_images(data):
    empty = ImageData(data.train, data.valid[torch.zeros(0, dtype=torch.long)], data.test, data.classes)
    res = train(SMALL, empty, progress=False)
    assert math.isnan(res.accuracy) and res.history == [] and res.steps == 24 and res.time_to(0.) is None
    assert res.confusion().sum() == 0 and 0 <= res.test() <= 1 and same(res, train(SMALL, data, progress=False))


def test_random_state_is_put_back(data):
    "Python's, numpy's and torch's, after a run, a broken run and the trial of a budget in seconds."
    def states(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    random.seed(3)
    before = states()
    train(SMALL, data, progress=False)
    with pytest.raises(OSError): train(SMALL, data, progress=False, cbs=[At(3, power_cut)])
    steps_for(SMALL.replace(seconds=0.01), data)
    assert states() == before


def test_each_stream_has_its_purpose(data, monkeypatch):
    "What seeds a step and what seeds the augmentation of a batch never ask for the same stream."
    asked = {}
    def note(module):
        def seed(*numbers):
            asked.setdefault(module.__name__, set()).add(numbers)
            return stream_seed(*numbers)
        monkeypatch.setattr(module, 'stream_seed', seed)
    note(control), note(loaders)
    train(SMALL + FlipShift(), data, seed=7, progress=False)
    steps, batches = asked[control.__name__], asked[loaders.__name__]
    assert steps == {(7, 1, i, 0, 1) for i in range(24)} and not steps & batches


@pytest.mark.parametrize('steps', [1, 7, 10, 24])
def test_fit_steps_of_a_plain_learner(data, steps):
    "Exactly the steps asked for, the schedule over just these, each epoch validated, and `fit` as before afterwards."
    learn, used = learner(SMALL, data), UsedHypers()
    with learn.no_bar(), learn.no_logging():
        learn.add_cb(used)
        fit_steps(learn, SMALL, steps)
        assert used.lrs == pytest.approx(curve(SMALL, steps)['lr']) and len(learn.recorder.values) == -(-steps//10)
        assert all(len(v) == 3 for v in learn.recorder.values)
        learn.fit(1)
    assert len(used.lrs) == steps + 10


def test_fit_steps_of_any_loader(data):
    x, y = data.train.x.float()/255, data.train.y
    dls = DataLoaders(*(DataLoader(TensorDataset(x, y), batch_size=16) for _ in range(2)))
    learn, used = Learner(dls, networks['resnet'](1, 10, 28, width=4), CrossEntropyLossFlat()), UsedHypers()
    with learn.no_bar(), learn.no_logging(): fit_steps(learn, SMALL, 13), learn.fit(1, cbs=used)
    assert len(used.lrs) == 10


@pytest.mark.parametrize('steps', [0, -3, 1.5, True, 'a'])
def test_fit_steps_refuses(data, steps):
    with pytest.raises((TypeError, ValueError), match=f'steps={steps!r}: must'): fit_steps(learner(SMALL, data), SMALL, steps)


def test_another_versions_checkpoint_is_named(data, tmp_path):
    with pytest.raises(OSError): train(SMALL, data, out=tmp_path, checkpoint_every=0, progress=False, cbs=[At(3, power_cut)])
    old = torch.load(tmp_path/'checkpoint.pt', weights_only=True)
    del old['format']
    torch.save(old, tmp_path/'checkpoint.pt')
    with pytest.raises(ValueError, match='was written by another version of cnn_tricks; remove it to start anew$'):
        train(SMALL, data, out=tmp_path, resume=True, progress=False)


def test_callbacks_that_only_watch_a_validation(data):
    "`get_preds` and `validate` in the middle of a run send its events too, and change nothing."
    class Curious(Callback):
        order = 70
        def after_epoch(self):
            with self.learn.no_bar():
                if self.epoch < 2 and not self.learn.lock.locked(): self.learn.get_preds()
    recipe = SMALL + EMA(share=0.5) + EarlyStopping(patience=1)
    asked, plain = (train(recipe, data, progress=False, cbs=cbs) for cbs in ([Curious()], []))
    assert same(asked, plain) and asked.lrs == plain.lrs and asked.losses == plain.losses


def test_a_damaged_checkpoint_is_named(data, tmp_path):
    (tmp_path/'checkpoint.pt').write_bytes(b'not a checkpoint')
    with pytest.raises(ValueError, match='cannot be read as a checkpoint'): train(SMALL, data, out=tmp_path, resume=True)


def test_a_trick_that_does_not_apply_says_why(data):
    @trick('_colour', CARD)
    class Colour(Trick):
        def applies(self, recipe, data, machine): return '' if data.channels == 3 else 'the images are grey'
    try:
        with pytest.raises(ValueError, match="'_colour' cannot be used here: the images are grey"): learner(SMALL + Colour(), data)
    finally: tricks.remove('_colour')


def test_recipe_size_resizes(data):
    res = train(SMALL.replace(size=20, steps=2), data, progress=False)
    assert res.trained.size == (20, 20) == res.data.size and data.size == (28, 28)


def test_validation_sees_every_image_and_no_augmentation(data):
    learn = learner(SMALL + FlipShift(), data)
    xs = torch.cat([x for x, _ in learn.dls.valid])
    assert len(xs) == len(data.valid) and torch.equal(xs, torch.cat([x for x, _ in learn.dls.valid]))
    assert not torch.equal(learn.dls.train.one_batch()[0], learner(SMALL, data).dls.train.one_batch()[0])


def test_a_channel_that_never_varies(data):
    "It is divided by 1 in training and in prediction alike."
    grey = replace(data, **{name: replace(part, x=torch.cat([part.x, torch.zeros_like(part.x)], 1)) for name, part in data.parts.items()})
    res = train(SMALL, grey, progress=False)
    assert res.trained.std[1] == 0 and res.trained.predict(grey.test.x).isfinite().all()
