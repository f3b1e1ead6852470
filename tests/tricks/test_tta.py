"""A network that averages over views: against the mean by hand, in validation, prediction and after loading."""
import copy

import pytest
import torch

from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.result import load_trained
from cnn_tricks.core.train import learner, train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.arm_names import refusal
from cnn_tricks.tools.gradcam import grad_cam
from cnn_tricks.tools.tta import one_view, predict_tta
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.tricks.tta import AverageViews, ViewAverage, average_views

BASE = Recipe(network='plain', network_args=dict(widths=(8, 16)), steps=30, batch_size=50, optimizer='adamw', lr=0.01,
              tricks=(FlipShift(),))


@pytest.fixture(scope='module')
def data(): return embedded().subset(500).subset(200, parts=('valid', 'test'))


def test_training_is_the_same_and_the_answers_are_means(data, tmp_path):
    one, two = (train(r, data, progress=False) for r in (BASE, BASE + ViewAverage()))
    assert one.losses == two.losses
    for (n, a), (m, b) in zip(one.trained.model.state_dict().items(), two.trained.model.state_dict().items()):
        assert n == m and torch.equal(a, b)
    want = predict_tta(one.trained, data.test.x, [one_view(), one_view(mirror=True)])
    assert torch.allclose(two.trained.predict(data.test.x), want, atol=1e-5)
    assert not torch.allclose(one.trained.predict(data.test.x), want, atol=1e-3)
    assert two.test() == (want.argmax(1) == data.test.y).float().mean().item()
    valid = predict_tta(one.trained, data.valid.x, [one_view(), one_view(mirror=True)])
    assert two.accuracy == pytest.approx((valid.argmax(1) == data.valid.y).float().mean().item())
    assert two.history[-1]['valid_loss'] == pytest.approx(-valid[torch.arange(200), data.valid.y].log().mean().item(), rel=1e-3)
    two.save(tmp_path)
    assert torch.equal(load_trained(tmp_path).predict(data.test.x), two.trained.predict(data.test.x))


def test_views_by_hand():
    x = torch.arange(12.).view(1, 1, 3, 4)
    a, b, *mirrored = AverageViews(True, 1).views(x)
    assert a[0, 0].tolist() == [[5, 6, 7, 7], [9, 10, 11, 11], [9, 10, 11, 11]]  # up and left
    assert b[0, 0].tolist() == [[0, 0, 1, 2], [0, 0, 1, 2], [4, 4, 5, 6]]  # down and right
    assert all(torch.equal(m, v.flip(-1)) for m, v in zip(mirrored, (x, a, b))) and len(mirrored) == 3
    assert AverageViews(False, 0).views(x) == [] and len(AverageViews(False, 2).views(x)) == 2


def test_modes_and_copies(data):
    net = learner(BASE, data, device='cpu').model.eval()
    x = torch.randn(3, 1, 28, 28)
    plain, mirrored = net(x), net(x.flip(-1))
    both = copy.deepcopy(average_views(copy.deepcopy(net)))  # a copy of the whole keeps its views
    want = (plain.softmax(1) + mirrored.softmax(1))/2
    assert torch.allclose(both(x).softmax(1), want, atol=1e-6) and torch.allclose(net(x), plain)
    torch.manual_seed(0)
    trained = net.train()(x)
    assert torch.allclose(both.train()(x), trained)


def test_refused_without_a_view(data):
    assert 'no further view' in refusal(BASE + ViewAverage(mirror=False), data, 'cpu')
    with pytest.raises(ValueError, match='shift'): ViewAverage(shift=-1)


def test_heat_maps_are_those_of_the_image_as_it_is(data):
    net = learner(BASE, data, device='cpu').model.eval()
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(grad_cam(average_views(copy.deepcopy(net)), x, target=1), grad_cam(net, x, target=1))
