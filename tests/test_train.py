"Training, as far as the lesson does not show it: phases, budgets, Ctrl-C, and what a full disk costs."
import os, signal, warnings
from dataclasses import replace

import pytest
import torch
from fastai.callback.core import Callback

from cnn_tricks.control import Interrupted
from cnn_tricks.datasets import embedded
from cnn_tricks.recipe import Card, FlipShift, Recipe, Trick, trick, tricks
from cnn_tricks.registry import bounded
from cnn_tricks.train import fit_steps, learner, steps_for, train

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
            body, first = [p for p in learn.model[:-1].parameters()], recipe.steps // 3
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


def test_budget_in_seconds_is_decided_once(data, tmp_path):
    recipe = SMALL.replace(seconds=1.)
    with pytest.raises(OSError): train(recipe, data, out=tmp_path, checkpoint_every=0, progress=False, cbs=[At(3, power_cut)])
    total = torch.load(tmp_path/'checkpoint.pt', weights_only=True)['meta']['total']
    assert total >= 1 and train(recipe, data, out=tmp_path, resume=True, progress=False).steps == total


def test_ctrl_c_leaves_a_run_that_can_go_on(data, tmp_path):
    with pytest.raises(Interrupted, match='stopped at step 6 of 24.*resume=True') as e:
        train(SMALL, data, out=tmp_path, progress=False, cbs=[At(6, lambda: os.kill(os.getpid(), signal.SIGINT))])
    assert e.value.result.steps == 6 and not e.value.result.finished
    resumed = train(SMALL, data, out=tmp_path, resume=True, progress=False)
    assert resumed.finished and same(resumed, train(SMALL, data, progress=False))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_full_disk_costs_the_checkpoint_not_the_run(data, tmp_path, monkeypatch):
    def full(fd): raise OSError(28, 'No space left on device')
    def later(): monkeypatch.setattr(os, 'fsync', full)
    with pytest.warns(UserWarning, match='No space left'):
        res = train(SMALL, data, out=tmp_path, checkpoint_every=0, progress=False, cbs=[At(4, later)])
    assert res.finished
    assert torch.load(tmp_path/'checkpoint.pt', weights_only=True)['run']['step'] == 3   # the last whole one
    assert [p.name for p in tmp_path.iterdir()] == ['checkpoint.pt']


def test_a_damaged_checkpoint_is_named(data, tmp_path):
    (tmp_path/'checkpoint.pt').write_bytes(b'not a checkpoint')
    with pytest.raises(ValueError, match='cannot be read as a checkpoint'): train(SMALL, data, out=tmp_path, resume=True)


def test_a_trick_that_does_not_apply_says_why(data):
    @trick('_colour', CARD)
    class Colour(Trick):
        def applies(self, data, machine): return '' if data.channels == 3 else 'the images are grey'
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
