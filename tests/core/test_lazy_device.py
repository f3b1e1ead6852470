"A device that collects work before it does it (XLA) is told where a step ends, and its losses are read seldom."
import sys
from types import SimpleNamespace

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

from cnn_tricks.base.machine import random_device
from cnn_tricks.core.lazy_device import LazySteps, even_batch, lazy_steps
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.run_control import TrainingDiverged
from cnn_tricks.core.train import learner, train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.data.loaders import flip, stream_seed

DATA = embedded().subset(330, seed=0).subset(90, seed=0, parts=('valid',))
SHORT = Recipe(network='resnet', network_args=dict(width=4), steps=27, batch_size=32, optimizer='sgd', lr=0.05,
               schedule='one_cycle')


def fit(recipe=SHORT, cbs=(), **how): return train(recipe, DATA, 3, progress=False, device='cpu', cbs=cbs, **how)


def test_losses_that_are_read_later_are_the_same():
    synced, seeds = [], []
    plain = fit()
    lazy = fit(cbs=[LazySteps(lambda: synced.append(1), seeds.append)])
    assert lazy.losses == plain.losses and lazy.lrs == plain.lrs
    strip = lambda r: [h | {'seconds': 0} for h in r.history]
    assert strip(lazy) == strip(plain) and lazy.steps == 27
    assert seeds == [stream_seed(3, 1, step, 0, 1) for step in range(27)]
    assert len(synced) == 27 + 3*1  # each step, and each batch of the three validations
    for a, b in zip(plain.trained.model.state_dict().values(), lazy.trained.model.state_dict().values()):
        assert torch.equal(a, b)


def test_the_recorder_has_every_loss_and_rate():
    kept = {}
    class Keep(Callback):
        "Looks at the recorder when the fit is over"
        order = 90
        def after_fit(self): kept[self.recorder.told] = list(map(float, self.recorder.losses)), list(self.recorder.lrs)
    fit(cbs=[Keep()])
    plain = kept.popitem()[1]
    lazy_cb = LazySteps()
    fit(cbs=[Keep(), lazy_cb])
    assert kept.popitem()[1] == plain and len(plain[0]) == len(plain[1]) == 27 and not lazy_cb.unread


class Reads(torch.overrides.TorchFunctionMode):
    "Notes (name, numbers) of what Python reads from tensors."
    def __init__(self): super().__init__(); self.found = []
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, '__name__', '') in ('item', 'cpu'): self.found.append((func.__name__, args[0].numel()))
        return func(*args, **(kwargs or {}))


def test_reads_are_few_and_of_one_size():
    with Reads() as plain: fit()
    with Reads() as lazy: fit(cbs=[LazySteps()])
    assert lazy.found.count(('cpu', 20)) == 3 and ('cpu', 20) not in plain.found  # one for each epoch of ten steps
    assert plain.found.count(('item', 1)) - lazy.found.count(('item', 1)) == 27


def test_a_run_that_diverges_still_says_so():
    with pytest.raises(TrainingDiverged, match='the loss became'):
        fit(SHORT.replace(lr=1e20, network='article', network_args={}, optimizer='sgd', schedule='fixed', steps=60),
            cbs=[LazySteps()])


def test_a_resumed_run_ends_as_the_whole_one_did(tmp_path):
    class Stop(Callback):
        "Asks for an end after 13 steps"
        order = 90
        def after_batch(self): self.run_control.state.stop |= self.run_control.state.step == 13
    whole = fit(cbs=[LazySteps()])
    with pytest.raises(KeyboardInterrupt): fit(cbs=[LazySteps(), Stop()], out=tmp_path)
    rest = fit(cbs=[LazySteps()], out=tmp_path, resume=True)
    assert rest.losses == whole.losses


def test_any_learner_may_have_it():
    learn = learner(SHORT, DATA, 3, 'cpu')
    plain = Learner(learn.dls, learn.model, CrossEntropyLossFlat(), cbs=[LazySteps()])
    with plain.no_bar(), plain.no_logging(): plain.fit(1)
    assert len(plain.recorder.losses) == 10


def test_xla_gets_steps_and_others_do_not(monkeypatch):
    calls = []
    fake = SimpleNamespace(device=lambda: 'cpu', sync=lambda: calls.append('sync'), manual_seed=calls.append)
    monkeypatch.setitem(sys.modules, 'torch_xla', fake)
    assert lazy_steps('cpu') == lazy_steps('cuda:1') == []
    cb, = lazy_steps(torch.device('xla'))
    cb.sync(), cb.seed(4)
    assert calls == ['sync', 4]
    fake.device = lambda: 1/0
    with pytest.raises(ZeroDivisionError): lazy_steps('xla')
    class Late:
        "PyTorch's engine fails so where XLA was first used after a gradient"
        def __init__(self): raise RuntimeError('INTERNAL ASSERT FAILED')
    fake.device = Late
    with pytest.raises(RuntimeError, match='call torch_xla.device.. first'): lazy_steps('xla')


def test_the_command_says_what_is_missing(monkeypatch):
    from cnn_tricks.cli.errors import UsageError
    from cnn_tricks.cli.run_options import tried_device
    monkeypatch.setitem(sys.modules, 'torch_xla', None)
    with pytest.raises(UsageError, match='--device xla: .*torch_xla'): tried_device('xla')


def test_the_network_has_moved_before_its_optimiser_is_made():
    "On XLA a move makes new weights, as it does from the processor to `meta`; an optimiser of the old ones learns nothing."
    learn = learner(SHORT, DATA, 3, 'meta')
    assert {p.device.type for p in learn.model.parameters()} == {'meta'}
    learn.create_opt()
    mine = {id(p) for p in learn.model.parameters()}
    assert {id(p) for g in learn.opt.opt.param_groups for p in g['params']} == mine


def test_batches_are_made_where_random_numbers_can_be_drawn():
    assert random_device('meta') == random_device('cpu') == torch.device('cpu')
    here, there = (DATA.loaders(32, seed=1, device=d, augment=(flip(),)).train for d in ('cpu', 'meta'))
    drawn = []
    there.add_augment(lambda x, y, generator: drawn.append((x.clone(), y.clone())) or (x, y))
    x, y = next(iter(there))
    assert x.device.type == y.device.type == 'meta' and x.shape == (32, 1, 28, 28)
    theirs, labels = next(iter(here))
    mean, std = here.per_channel('mean'), here.per_channel('std')
    assert torch.equal((drawn[0][0] - mean).div_(std), theirs) and torch.equal(drawn[0][1], labels)


@pytest.mark.parametrize('n, most, batch', [(4000, 256, 250), (90, 256, 256), (90, 64, 45), (97, 64, 64), (0, 16, 16)])
def test_even_batches(n, most, batch):
    assert even_batch(n, most) == batch
