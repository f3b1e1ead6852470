"""The package's `Learner` does what fastai's does, event by event and bit by bit, with a quarter of the Python calls"""
import cProfile, pstats
from functools import partial

import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException, CancelStepException, event
from fastai.callback.schedule import ParamScheduler
from fastai.learner import CastToTensor, Learner, Recorder, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import Adam, OptimWrapper
from fastai.torch_core import TensorImage
from torch import nn

from cnn_tricks.core.components import losses
from cnn_tricks.core.direct_learner import DirectLearner, ScalarScheduler, in_batch, last_hyper
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.train import fit_steps, learner
from cnn_tricks.data.datasets import embedded

OPTIMIZERS = {'torch': partial(OptimWrapper, opt=partial(torch.optim.AdamW)),
              'momentum': partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=0.9)), 'fastai': Adam}
SCHEDULES = {'lr': lambda p: 0.01*(1 - p), 'mom': lambda p: 0.9 - 0.1*p}


@pytest.fixture(scope='module')
def data(): return embedded().subset(160, parts=('train', 'valid'))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 5, 4), nn.Flatten(), nn.Linear(4*6*6, 10))


def halves(m): return [list(m[0].parameters()), list(m[2].parameters())]


class Tells(Callback):
    "Writes down every event, which must reach it in fastai's order"
    order, said = 3, None
    def __init__(self): self.said = []
    def __call__(self, event_name):
        self.said.append(event_name)
        return super().__call__(event_name)


class Cancels(Callback):
    "Leaves out one batch and another one's update"
    order = 4
    def before_batch(self):
        if self.learn.training and self.learn.iter == 2: raise CancelBatchException
    def before_step(self):
        if self.learn.iter == 3: raise CancelStepException


class InTraining(Callback):
    run_valid = False
    def __init__(self): self.batches = 0
    def after_batch(self): self.batches += 1


def fitted(cls, scheduler, data, opt_func, splitter=None, loss=None):
    "A `Learner` after two epochs"
    tells, counts = Tells(), InTraining()
    learn = cls(data.loaders(16, device='cpu'), net(), loss or CrossEntropyLossFlat(), opt_func, 0.01, metrics=accuracy,
                cbs=[tells, Cancels(), counts], **({'splitter': splitter} if splitter else {}))
    with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=scheduler(dict(SCHEDULES)))
    return learn, tells.said, counts.batches


@pytest.mark.parametrize('splitter', [None, halves])
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_the_same_as_fastais(data, optimizer, splitter):
    opt_func = OPTIMIZERS[optimizer]
    theirs, said, batches = fitted(Learner, ParamScheduler, data, opt_func, splitter)
    ours, ours_said, ours_batches = fitted(DirectLearner, ScalarScheduler, data, opt_func, splitter,
                                           losses['cross_entropy']())
    assert ours_said == said and ours_batches == batches > 0
    for a, b in zip(theirs.model.parameters(), ours.model.parameters()): assert torch.equal(a, b)
    a, b = theirs.recorder, ours.recorder
    assert list(map(float, a.losses)) == list(map(float, b.losses)) and len(a.losses) > 10
    assert a.lrs == b.lrs and {k: list(v) for k, v in a.hps.items()} == {k: list(v) for k, v in b.hps.items()}
    assert [list(v) for v in a.values] == [list(v) for v in b.values] and a.iters == b.iters
    assert all(last_hyper(ours.opt, n) == ours.opt.hypers[-1][n] for n in ('lr', 'mom'))


def test_what_a_callback_raises_names_it_and_its_event(data):
    class Breaks(Callback):
        def after_pred(self): raise ZeroDivisionError(*args)
    for args in (('by nothing',), ()):
        learn = learner(Recipe(steps=2), data, cbs=[Breaks()])
        with pytest.raises(ZeroDivisionError, match='`Breaks` when calling event `after_pred`'), learn.no_bar(): learn.fit(1)


def test_callbacks_come_and_go_within_an_epoch(data):
    class Late(Callback):
        seen = 0
        def before_batch(self): Late.seen += self.learn.training
    class Adds(Callback):
        def after_batch(self):
            if not self.learn.training: return
            if self.learn.iter == 1: self.learn.add_cb(Late)
            if self.learn.iter == 4: self.learn.remove_cb(Late)
    learn = learner(Recipe(steps=8, batch_size=16), data, cbs=[Adds()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert Late.seen == 3


def test_a_callback_that_is_switched_off_is_not_called(data):
    class Once(Callback):
        seen = 0
        def before_batch(self):
            Once.seen += 1
            self.run = False
    learn = learner(Recipe(steps=8, batch_size=16), data, cbs=[Once()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert Once.seen == 1


def test_fastais_own_find_theirs(data):
    learn = learner(Recipe(steps=8, batch_size=16), data)
    assert isinstance(learn, Learner) and isinstance(learn.recorder, Recorder) and len(learn._grab_cbs(Recorder)) == 1
    assert isinstance(learn.cast_to_tensor, CastToTensor)
    learn.remove_cb(Recorder)
    assert not hasattr(learn, 'recorder') and not learn._grab_cbs(Recorder)


def test_it_is_exported_and_loaded(data, tmp_path):
    learn = learner(Recipe(steps=2, batch_size=16, network='plain', network_args={'widths': [4]}), data)
    learn.path = tmp_path
    with learn.no_bar(), learn.no_logging():
        fit_steps(learn, Recipe(steps=2))
        learn.export('learner.pkl')
        back = load_learner(tmp_path/'learner.pkl')
    assert type(back) is DirectLearner and torch.equal(back.predict(data.valid.x[0])[2], learn.predict(data.valid.x[0])[2])


def test_every_event_of_a_batch_is_known():
    outside = {e for e in vars(event) if any(w in e for w in ('create', 'fit', 'epoch', 'train', 'validate'))}
    assert {e for e in vars(event) if e.startswith(('before', 'after'))} - outside == in_batch


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('smoothing', [0., 0.2])
def test_cross_entropy_is_fastais(smoothing, reduction):
    g = torch.Generator().manual_seed(0)
    ours, theirs = losses['cross_entropy'](label_smoothing=smoothing), CrossEntropyLossFlat(label_smoothing=smoothing)
    ours.reduction = theirs.reduction = reduction
    flat = torch.randn(6, 10, generator=g), torch.randint(10, (6,), generator=g)
    deep = torch.randn(2, 3, 10, generator=g), torch.randint(10, (2, 3), generator=g)
    soft = flat[0], torch.rand(6, 10, generator=g).softmax(1)
    for scores, labels in (flat, deep, (flat[0].half().float(), flat[1].int()), (TensorImage(flat[0]), flat[1])):
        assert torch.equal(torch.Tensor(ours(scores, labels)), torch.Tensor(theirs(scores, labels)))
    assert type(ours(*flat)) is torch.Tensor
    for f in (ours, theirs):
        with pytest.raises(ValueError): f(*soft) # neither takes a distribution over the classes


def test_few_calls_of_python_a_step(data):
    def calls(cls, scheduler, steps):
        learn = cls(data.loaders(16, device='cpu'), net(), losses['cross_entropy'](), OPTIMIZERS['torch'], 0.01)
        learn.dls.train.limit = steps
        with learn.no_bar(), learn.no_logging(), cProfile.Profile() as p: learn.fit(1, cbs=scheduler(dict(SCHEDULES)))
        return pstats.Stats(p).total_calls
    def a_step(*arm): return (calls(*arm, 9) - calls(*arm, 3))/6
    assert 3*a_step(DirectLearner, ScalarScheduler) < a_step(Learner, ParamScheduler)
