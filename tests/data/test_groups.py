"Groups of images (one animal, one burst) never cross the parts of a split, and classes keep their shares."
import numpy as np
import pytest
import torch

from cnn_tricks.data.grouped_split import deal_groups
from cnn_tricks.data.images import ImageData, Part


def images(sizes, classes=3, seed=0):
    "Groups of these sizes, each of one class; every image is told by its first pixel"
    y = torch.cat([torch.full((n,), g % classes) for g, n in enumerate(sizes)])
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    mixed = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    x = torch.zeros(len(y), 1, 2, 2, dtype=torch.uint8)
    x[:, 0, 0] = torch.stack([torch.arange(len(y))//256, torch.arange(len(y)) % 256], 1).byte()
    return Part(x, y[mixed], groups=groups[mixed])


def data_of(part):
    k = int(part.y.max()) + 1
    n = len(part)
    return ImageData(part[torch.arange(n//2)], part[torch.arange(n//2, n)], part[:0], [str(i) for i in range(k)])


def indices(part): return set((part.x[:, 0, 0, 0].long()*256 + part.x[:, 0, 0, 1].long()).tolist())


SIZES = np.random.default_rng(1).integers(1, 12, 150).tolist()


@pytest.mark.parametrize('seed', range(20))
def test_groups_never_cross_parts(seed):
    "By indices: nothing is lost or doubled, and no group is on both sides."
    part = images(SIZES)
    data = data_of(part).split(0.2, seed)
    train, valid = indices(data.train), indices(data.valid)
    assert not train & valid and train | valid == set(range(len(part)))
    assert not {int(part.groups[i]) for i in train} & {int(part.groups[i]) for i in valid}
    for i, at in enumerate(sorted(valid)): assert data.valid.y[i] == part.y[at] and data.valid.groups[i] == part.groups[at]
    share = data.valid.y.bincount(minlength=3)/part.y.bincount(minlength=3)
    assert (share - 0.2).abs().max() < 0.04, share  # a group is about 2% of a class here


def test_seeds_give_other_splits():
    data = data_of(images(SIZES))
    drawn = {frozenset(data.split(0.2, seed).valid.groups.tolist()) for seed in range(20)}
    assert len(drawn) == 20
    seen = torch.cat([data.split(0.2, seed).valid.groups.unique() for seed in range(20)]).bincount(minlength=len(SIZES))
    assert seen.max() <= 15 and (seen > 0).float().mean() > 0.9
    assert data.split(0.2, 3).fingerprint == data.split(0.2, 3).fingerprint


@pytest.mark.parametrize('valid', [0.1, 0.25, 0.4])
def test_groups_of_one_are_stratified_to_within_rounding(valid):
    data = data_of(images([1]*301, 4)).split(valid)
    counts = data.train.join(data.valid).y.bincount()
    assert ((data.valid.y.bincount() - counts*valid).abs() <= 1).all()


@pytest.mark.parametrize('seed', range(5))
def test_resplit_keeps_the_size(seed):
    data = data_of(images(SIZES)).split(0.2)
    again = data.resplit(seed)
    assert abs(len(again.valid) - len(data.valid)) <= 12 and again.test is data.test
    plain = ImageData(*(Part(p.x, p.y) for p in data.parts.values()), data.classes)
    assert len(plain.resplit(seed).valid) == len(plain.valid)
    assert plain.resplit(seed).fingerprint == plain.split(len(plain.valid), seed).fingerprint


def test_folds():
    data, k = data_of(images(SIZES)), 5
    folds = data.kfold(k, seed=2)
    for f in folds: assert not set(f.train.groups.tolist()) & set(f.valid.groups.tolist())
    assert sorted(i for f in folds for i in indices(f.valid)) == list(range(sum(SIZES)))
    sizes = torch.stack([f.valid.y.bincount(minlength=3) for f in folds])/torch.stack(
        [f.train.y.bincount(minlength=3) + f.valid.y.bincount(minlength=3) for f in folds])
    assert (sizes - 1/k).abs().max() < 0.05
    with pytest.raises(ValueError, match='between 2 and 3 groups'): data_of(images([4, 4, 4])).kfold(4)


def test_few_groups():
    "Two animals a class: one of each is spared, or the split is refused; a class of one group stays in train."
    data = data_of(images([9, 9, 9, 9], 2)).split(0.2)
    assert len(data.valid) == 9 and data.train.y.bincount().tolist() in ([18, 9], [9, 18])
    with pytest.raises(ValueError, match='no group of images can be spared'): data_of(images([9, 9], 2)).split(0.2)
    for seed in range(10):
        data = data_of(images([5, 2, 3, 4, 2, 3, 4, 2, 3], 9))  # nine classes of one group
        with pytest.raises(ValueError, match='can be spared'): data.split(0.3, seed)
        data = data_of(images([1, 1, 1, 9, 9, 30], 3)).split(0.3, seed)
        assert data.train.y.bincount(minlength=3).min() > 0 and len(data.valid)


@pytest.mark.parametrize('seed', range(5))
def test_three_parts_at_once(seed):
    part = images(SIZES)
    where = deal_groups(part.y, part.groups, [0.6, 0.2, 0.2], seed)
    share = torch.bincount(where*3 + part.y, minlength=9).view(3, 3)/part.y.bincount()
    assert (share - torch.tensor([[.6], [.2], [.2]])).abs().max() < 0.05
    for g in range(len(SIZES)): assert len(where[part.groups == g].unique()) == 1


def test_groups_travel():
    data = data_of(images(SIZES))
    assert torch.equal(data.resize(4).train.groups, data.train.groups) and torch.equal(data.to('cpu').valid.groups, data.valid.groups)
    few = data.take_classes(['2', '0'])
    assert {(int(g) % 3, int(c)) for g, c in zip(few.train.groups, few.train.y)} == {(2, 0), (0, 1)}
    assert data.train.join(Part(data.valid.x, data.valid.y)).groups is None
    with pytest.raises(ValueError, match=r'groups: must be int64 \(4,\)'): Part(data.train.x[:4], data.train.y[:4], groups=torch.arange(3))
