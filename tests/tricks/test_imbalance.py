"""Class weights and balanced batches: against scikit-learn, by counting, in training and in any `Learner`."""
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.train import learner, train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.data.images import ImageData
from cnn_tricks.measure.arm_names import refusal
from cnn_tricks.tricks.augment import AlternatingFlip
from cnn_tricks.tricks.imbalance import (BalancedSampling, ClassWeights, WeightClasses, balanced_order, class_weights,
                                         train_labels)

BASE = Recipe(network='plain', network_args=dict(widths=(8, 16)), steps=40, batch_size=20, optimizer='adamw', lr=0.01)


def uneven(counts, valid=60):
    d = embedded().take_classes(embedded().classes[:len(counts)])
    keep = torch.cat([(d.train.y == c).nonzero()[:n, 0] for c, n in enumerate(counts)])
    return ImageData(d.train[keep], d.valid[:valid], d.test[:300], d.classes, name='uneven')


@pytest.fixture(scope='module')
def data(): return uneven((200, 160, 8))


@pytest.mark.parametrize('counts', [[1, 1], [50, 5, 1], [7, 200, 13, 9]])
def test_weights_are_scikit_learns(counts):
    y = np.repeat(np.arange(len(counts)), counts)
    want = compute_class_weight('balanced', classes=np.arange(len(counts)), y=y)
    assert np.allclose(class_weights(torch.tensor(counts)), want)


def test_weights_by_the_effective_number():
    "Between none and one over n; a class without an image has none; over the images their mean is 1."
    n = torch.tensor([500, 50, 5])
    for beta in (.5, .9, .999):
        w, e = class_weights(n, beta), (1 - beta**n.double())/(1 - beta)
        assert np.allclose(w/w[0], e[0]/e) and (w*n).sum()/n.sum() == pytest.approx(1)
    assert class_weights(n, 0).tolist() == [1, 1, 1]
    assert np.allclose(class_weights(n, 1 - 1e-9), class_weights(n), rtol=1e-4)
    assert class_weights(torch.tensor([4, 0, 4])).tolist() == [1, 0, 1]
    for bad in (-.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match='beta'): class_weights(n, bad)
    with pytest.raises(ValueError, match='no class'): class_weights(torch.zeros(3, dtype=torch.int64))


def test_the_loss_of_training_is_weighted_and_that_of_validation_is_not(data):
    r = train(BASE.replace(steps=1, batch_size=len(data.train)) + ClassWeights(), data, progress=False)
    net = learner(BASE, data, device='cpu').model
    x = (data.train.x.float()/255 - data.mean.view(1, -1, 1, 1))/data.std.view(1, -1, 1, 1)
    loss = nn.CrossEntropyLoss(class_weights(data.train.y.bincount()))(net.train()(x), data.train.y)
    assert r.losses[0] == pytest.approx(loss.item(), rel=1e-4)
    plain = -r.trained.predict(data.valid.x).log()[torch.arange(len(data.valid)), data.valid.y].mean().item()
    assert r.history[-1]['valid_loss'] == pytest.approx(plain, rel=1e-4)


def test_the_loss_is_put_back(data):
    learn = learner(BASE, data, device='cpu', cbs=[WeightClasses()])
    was = learn.loss_func
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert learn.loss_func is was and was.func.weight is None
    learn.loss_func = nn.MSELoss()
    with pytest.raises(TypeError, match='cross entropy'), learn.no_bar(), learn.no_logging(): learn.fit(1)


@pytest.mark.parametrize('power', [0., .5, 1.])
def test_balanced_order_by_counting(power):
    y = torch.tensor([0]*100 + [1]*40 + [3]*7)[torch.randperm(147, generator=torch.Generator().manual_seed(1))]
    orders = [balanced_order(y, 3, e, power) for e in range(200)]
    want = torch.tensor([100., 40, 0, 7])**power
    want[2] = 0
    want *= len(y)/want.sum()
    seen = torch.stack([y[o].bincount(minlength=4) for o in orders]).float()
    assert ((seen - want).abs() < 1).all() and torch.allclose(seen.mean(0), want, atol=.15)
    times = orders[0].bincount(minlength=len(y))
    for c in (0, 1, 3): assert times[y == c].max() - times[y == c].min() <= 1
    assert torch.equal(orders[0], balanced_order(y, 3, 0, power))
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], balanced_order(y, 4, 0, power))
    first = torch.stack([y[o[:10]].bincount(minlength=4) for o in orders]).float().mean(0)
    assert torch.allclose(first, want*10/len(y), atol=.6)  # mixed, not class by class


def test_balanced_batches(data):
    dls = learner(BASE + BalancedSampling(), data, device='cpu').dls
    y = torch.cat([b[1] for b in dls.train])
    assert len(y) == len(data.train)//20*20 and y.bincount().min() > len(y)/3 - 12
    assert torch.equal(torch.cat([b[1] for b in dls.valid]), data.valid.y)
    again = dls.train.new()
    assert torch.cat([b[1] for b in again]).bincount().min() > len(y)/3 - 12


@pytest.mark.parametrize('turn', [1, -1])
def test_beside_another_loader(data, turn):
    both = (BalancedSampling(), AlternatingFlip())[::turn]
    dl = learner(BASE.replace(tricks=both), data, device='cpu').dls.train
    xs, y = zip(*list(dl))
    assert torch.cat(y).bincount().min() > len(data.train)/3 - 30
    plain = learner(BASE + BalancedSampling(), data, device='cpu').dls.train
    kept, drawn = torch.cat(xs), torch.cat([b[0] for b in plain])
    flipped = (kept != drawn).flatten(1).any(1)
    assert .3 < flipped.float().mean() < .7 and torch.equal(kept[flipped], drawn[flipped].flip(-1))


@pytest.mark.parametrize('trick', [ClassWeights(), BalancedSampling()], ids=lambda t: t.name)
def test_a_rare_class_is_found_more_often(data, trick):
    found = [train(r, data, 0, progress=False).confusion(data.test)[2] for r in (BASE, BASE + trick)]
    recall = [(t[2]/t.sum()).item() for t in found]
    assert recall[1] > recall[0] + .1, recall


@pytest.mark.parametrize('trick', [ClassWeights(), BalancedSampling()], ids=lambda t: t.name)
def test_even_classes_are_left_alone(trick):
    assert 'classes are even: the largest has 1.25 times' in refusal(BASE + trick, uneven((50, 40)), 'cpu')
    assert not refusal(BASE + trick, uneven((60, 40)), 'cpu')


def test_refused_together_and_with_a_loss_without_weights(data):
    with pytest.raises(ValueError, match='both balance the classes'): BASE + ClassWeights() + BalancedSampling()
    from cnn_tricks.core.components import losses
    losses.register('mean_squares', lambda: nn.MSELoss())
    try: assert refusal(BASE.replace(loss='mean_squares') + ClassWeights(), data, 'cpu') == "loss 'mean_squares' takes no class weights"
    finally: losses.remove('mean_squares')


def test_labels_of_other_loaders(data):
    "PyTorch's own is read once, and shuffles afterwards as if nobody had read it."
    pairs = [(torch.zeros(1, 4, 4), int(y)) for y in data.train.y]
    def loader(): return torch.utils.data.DataLoader(pairs, 16, shuffle=True, generator=torch.Generator().manual_seed(0))
    a, b = loader(), loader()
    assert torch.equal(train_labels(a).bincount(), data.train.y.bincount())
    assert all(torch.equal(x[1], y[1]) for x, y in zip(a, b))
