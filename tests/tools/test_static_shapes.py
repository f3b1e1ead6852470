"Reads and shapes are counted where they happen, whatever trains; what is not watched does not count."
from functools import partial

import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cnn_tricks.core.lazy_device import LazySteps
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.train import train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tools.static_shapes import DeviceReads, StaticShapes, check_static_shapes

DATA = embedded().subset(70, seed=0).subset(20, seed=0, parts=('valid',))
TINY = Recipe(network='resnet', network_args=dict(width=2), batch_size=32, epochs=1)


@pytest.mark.parametrize('read', [
    lambda t: t.sum().item(), lambda t: float(t.sum()), lambda t: bool(t[0] > 0), lambda t: t.tolist(),
    lambda t: t.cpu(), lambda t: t.numpy(), lambda t: t[t > 0], lambda t: t.nonzero(), lambda t: [t + 1][0].unique(),
    lambda t: torch.stack([t, t]).tolist(), lambda t: torch.add(input=t, other=1).tolist()])
def test_a_read_counts_once(read):
    with DeviceReads() as reads:
        reads.watch(t := torch.tensor([0., 1., 2.]))
        read(t)
        read(torch.ones(3))  # nobody watches this one
    assert reads.count.total() == 1


@pytest.mark.parametrize('work', [
    lambda t: torch.where(t > 0, t, -t), lambda t: t[1:], lambda t: t[torch.tensor([0, 2])], lambda t: t.shape[0],
    lambda t: t.clamp(min=1).add_(1), lambda t: t.cpu and t.device, lambda t: t.to(torch.float64)])
def test_work_without_a_read_counts_nothing(work):
    with DeviceReads() as reads:
        reads.watch([t := torch.tensor([0., 1., 2.])])
        work(t)
    assert not reads.count.total()


def test_what_was_read_is_free_and_values_stay():
    with DeviceReads() as reads:
        reads.watch(t := torch.tensor([3.]))
        here = (2*t).cpu()
        assert here.item() == float(here) == 6
    assert reads.count.total() == 1


def test_gradients_are_followed_through_a_subclass():
    from fastai.torch_core import TensorBase
    with DeviceReads() as reads:
        reads.watch(w := nn.Parameter(torch.ones(2)))
        loss = TensorBase((w*2).sum())
        loss.backward()
        loss.item()
    assert reads.count.total() == 1 and w.grad.tolist() == [2, 2]


def test_a_plain_learner_and_ours():
    def plain(cbs):
        dls = DataLoaders(*[DataLoader(TensorDataset(p.x.float(), p.y), 32) for p in (DATA.train, DATA.valid)])
        learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), CrossEntropyLossFlat(), cbs=cbs)
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    ours = partial(train, TINY, DATA, progress=False, device='cpu')
    found = [check_static_shapes(f) for f in (plain, ours, lambda cbs: ours(cbs=[*cbs, LazySteps()]))]
    told = [[(r['batches'], r['shapes'], r['ragged']) for r in f.rows()] for f in found]
    assert told == [[(3, 2, 1), (1, 1, 0)], [(2, 1, 0), (1, 1, 0)], [(2, 1, 0), (1, 1, 0)]]
    assert found[0].reads['train'] == 3 and found[1].reads['train'] >= 2 and found[2].reads['train'] == 1
    assert list(found[0].of('train')) == [((32, 1, 28, 28), (32,)), ((6, 1, 28, 28), (6,))]
    assert '| train | 3 | 2 | 1 | 3 |' in repr(found[0].table()).replace('  ', ' ')


def test_watching_changes_no_bit():
    plain = train(TINY, DATA, 1, progress=False, device='cpu')
    seen = []
    check_static_shapes(lambda cbs: seen.append(train(TINY, DATA, 1, progress=False, device='cpu', cbs=cbs)))
    assert seen[0].losses == plain.losses


def test_a_function_that_forgets_the_callbacks():
    with pytest.raises(ValueError, match='no step with the callbacks'): check_static_shapes(lambda cbs: None)
    assert StaticShapes().rows() == []
