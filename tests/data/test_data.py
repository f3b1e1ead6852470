"Data sets, loaders, registries, drawn data and downloads: what the lesson says in words, at the edges."
import hashlib, http.server, json, math, os, sys, threading
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import ROOT, run
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from torch import nn

from cnn_tricks.data import datasets as D, download as files, loaders
from cnn_tricks.base import fields, registry
from cnn_tricks.base.files import atomic_write
from cnn_tricks.base.machine import fitting_threads
from cnn_tricks.data.images import ImageData, Part, stratified_order
from cnn_tricks.data.loaders import ImageLoader, epoch_order, flip, image_loaders, shift, stream_seed
from cnn_tricks.data.drawn_shapes import shapes


EMBEDDED = Path(str(resources.files('cnn_tricks.data.embedded')))


@pytest.fixture(scope='module')
def data(): return D.embedded()


@pytest.fixture(scope='module')
def small(data): return data.subset(101)


def images(part): return Counter(x.numpy().tobytes() for x in part.x)


# the embedded data

def test_embedded(data):
    assert data.nbytes == 18_000*784 and data.classes[9] == 'Ankle boot' and D.embedded() is data
    for part, n in zip(data.parts.values(), (1000, 400, 400)):
        assert part.y.bincount().tolist() == [n]*10 and part.x.is_contiguous()
        assert part.y[:10].tolist() == list(range(10))
    assert not images(data.test) & images(data.train)  # from the other official part
    assert data.fingerprint == '5a549a84af39'


def test_embedded_file_is_the_one_described():
    folder = EMBEDDED
    about = json.loads((folder/'fashion.json').read_text())
    assert hashlib.sha256((folder/'fashion.xz').read_bytes()).hexdigest() == about['sha256']
    assert (folder/'fashion.xz').stat().st_size < 7_000_000
    licence = (folder/'LICENSE-fashion-mnist').read_text()
    assert 'Copyright (c) 2017 Zalando SE' in licence and 'The above copyright notice' in licence


@pytest.mark.skipif(not Path('/usr/share/datasets/fashion-mnist').exists(), reason='needs the official files (Debian: '
                    'apt-get install dataset-fashion-mnist)')
def test_embedded_is_built_from_the_official_files():
    out = run(sys.executable, ROOT/'scripts'/'build'/'embedded.py', '--check')
    assert '18,000 images: the same' in out


OFFICIAL = pytest.mark.skipif(not Path('/usr/share/datasets/fashion-mnist').exists(), reason='needs the official files '
                              '(Debian: apt-get install dataset-fashion-mnist)')


@OFFICIAL
def test_unread_images_of_fashion_are_those_that_the_package_lacks():
    "By index and by their bytes, the embedded test part and the unread one are the official 10,000, each once."
    whole, unread = D.fashion_mnist(5000), D.fashion_mnist(5000, unread=True)
    known = D.embedded_test(whole.test.y)
    assert [len(p) for p in unread.parts.values()] == [55_000, 5_000, 6_000] and len(known) == 4000
    def rows(part): return sorted(x.numpy().tobytes() for x in part.x)
    assert rows(whole.test[known]) == rows(D.embedded().test)
    assert sorted(rows(unread.test) + rows(D.embedded().test)) == rows(whole.test)
    assert unread.test.y.bincount().tolist() == [600]*10


def test_damaged_embedded_file_is_refused(tmp_path, monkeypatch):
    for name, end in (('fashion.json', b''), ('fashion.xz', b'x')):
        (tmp_path/name).write_bytes((EMBEDDED/name).read_bytes() + end)
    monkeypatch.setattr(D, 'files', lambda name: tmp_path)
    with pytest.raises(RuntimeError, match='damaged'): D._embedded.__wrapped__()


# parts, subsets, splits, folds

@pytest.mark.parametrize('sizes', [(6, 4, 2), (50, 50), (1, 99), (7, 0, 3), (1, 1, 1)])
@pytest.mark.parametrize('seed', [0, 1])
def test_every_beginning_is_stratified(sizes, seed):
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes))]
    order = stratified_order(y, seed)
    assert order.sort().values.tolist() == list(range(len(y)))
    for n in range(len(y) + 1):
        got = y[order[:n]].bincount(minlength=len(sizes)).tolist()
        most = 0.5 if len(sizes) == 2 else 1
        assert all(abs(g - n*k/len(y)) <= most + 1e-9 for g, k in zip(got, sizes)), (n, got)


def test_subsets_lie_within_one_another(data, small):
    assert images(data.subset(50).train) < images(small.train) < images(data.train)
    assert images(data.subset(101, seed=1).train) != images(small.train)
    assert len(data.subset(0.02).train) == 200 and len(data.subset(10, parts=('train', 'test')).test) == 10
    assert data.subset(1.0).fingerprint == data.fingerprint


def test_split_and_folds_lose_nothing(small):
    pool = images(small.train) + images(small.valid)
    again = small.split(0.3, seed=1)
    assert images(again.train) + images(again.valid) == pool and again.test is small.test
    assert len(again.valid) == round(0.3*4101) and again.fingerprint != small.split(0.3, seed=2).fingerprint
    folds = small.kfold(7, seed=3)
    assert sorted({len(f.valid) for f in folds}) == [585, 586]
    assert sum((images(f.valid) for f in folds), Counter()) == pool
    for f in folds:
        assert images(f.train) + images(f.valid) == pool
        per_class = f.valid.y.bincount(minlength=10)
        assert per_class.max() - per_class.min() <= 2


def test_split_makes_a_valid_part(small):
    part = small.train
    none = ImageData(part, part[:0], part[:0], small.classes)
    assert [len(p) for p in none.split(21).parts.values()] == [80, 21, 0]


def test_masks_travel():
    d = shapes(60).subset(12).split(3).resize(16)
    assert d.train.masks.shape == (len(d.train), 16, 16) and d.train.masks.dtype == torch.bool
    assert d.kfold(3)[0].valid.masks is not None


@pytest.mark.parametrize('n,error', [(0, ValueError), (-1, ValueError), (1.5, ValueError), (0., ValueError), (20_000, ValueError),
                                     ('5', TypeError), (True, TypeError)])
def test_refused_amounts(data, n, error):
    with pytest.raises(error, match='n='): data.subset(n)
    with pytest.raises(error, match='valid='): data.split(n)


def test_other_refusals(data, small):
    with pytest.raises(ValueError, match="unknown part 'dev'"): data.subset(10, parts=('dev',))
    with pytest.raises(ValueError, match='k=1'): data.kfold(1)
    with pytest.raises(ValueError, match='no image to train on'): small.split(1.0)
    x, y = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match='uint8'): Part(x.float(), y)
    with pytest.raises(ValueError, match='int64'): Part(x, y[:1])
    with pytest.raises(ValueError, match='masks'): Part(x, y, torch.zeros(2, 3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match='between 0 and 0'): ImageData(Part(x, y), Part(x, y), Part(x, y), ('a',))
    with pytest.raises(ValueError, match='images are'): ImageData(Part(x, y), Part(x[..., :3], y), Part(x, y), ('a', 'b'))


# some of the classes

@pytest.mark.parametrize('wanted', [['ring', 'circle'], ('triangle', 'square', 'ring')])
def test_classes_against_a_loop(wanted):
    "The order of the names gives the new labels; the images stay in their old order."
    d = shapes(60, size=(9, 12), classes=('circle', 'square', 'triangle', 'ring'), channels=3)
    some = d.take_classes(wanted)
    assert some.classes == tuple(wanted) and some.name == f'shapes: {", ".join(wanted)}'
    for name, part in some.parts.items():
        whole = d.parts[name]
        kept = [(i, wanted.index(d.classes[y])) for i, y in enumerate(whole.y.tolist()) if d.classes[y] in wanted]
        assert torch.equal(part.x, torch.stack([whole.x[i] for i, _ in kept])), name
        assert torch.equal(part.y, torch.tensor([y for _, y in kept])), name
        assert torch.equal(part.masks, torch.stack([whole.masks[i] for i, _ in kept])), name


def test_classes_drawn(data):
    "The same seed the same classes, more of them hold the fewer; data and global random state stay as they are."
    before, state = data.fingerprint, torch.get_rng_state()
    draws = {(n, s): data.take_classes(n, s).classes for n in (2, 5, 10) for s in range(6)}
    assert draws[10, 0] == data.classes and all(set(draws[2, s]) < set(draws[5, s]) for s in range(6))
    assert len({draws[2, s] for s in range(6)}) > 1 and draws[5, 3] == data.take_classes(np.int64(5), 3).classes
    assert data.take_classes(10).train.y.tolist() == data.train.y.tolist()
    assert data.take_classes(3).name == 'Fashion-MNIST (a part), 3 classes'
    assert bool((torch.get_rng_state() == state).all())
    assert ImageData(data.train, data.valid, data.test, data.classes).fingerprint == before


def test_classes_without_images_in_a_part():
    x = torch.zeros(4, 1, 3, 3, dtype=torch.uint8)
    full, none = Part(x, torch.tensor([0, 1, 2, 2])), Part(x[:0], torch.tensor([], dtype=torch.int64))
    some = ImageData(full, full[:1], none, ('a', 'b', 'c'), notes=('a note',), ranges={'16': 4095}).take_classes(['b', 'c'])
    assert [len(p) for p in some.parts.values()] == [3, 0, 0] and some.train.y.tolist() == [0, 1, 1]
    assert some.notes == ('a note',) and some.ranges == {'16': 4095}


@pytest.mark.parametrize('classes, error, match', [
    (1, ValueError, 'classes=1: must be between 2 and 10'), (11, ValueError, 'between 2 and 10'),
    ('Bag', TypeError, 'must be a number or names'), (2.5, TypeError, 'classes=2.5'), (True, TypeError, 'classes=True'),
    (['Bag', 'Hat'], ValueError, "unknown class 'Hat'"), (['Bag', 'Bag'], ValueError, 'all different'),
    (['Bag'], ValueError, 'two or more'), ([], ValueError, 'two or more')])
def test_bad_classes(data, classes, error, match):
    with pytest.raises(error, match=match): data.take_classes(classes)


# what is computed from the pixels

def test_moments_per_channel():
    d = shapes(60, size=(9, 12))
    x = d.train.x.double()/255
    assert torch.allclose(d.mean.double(), x.mean((0, 2, 3))) and d.mean.shape == (3,)
    assert torch.allclose(d.std.double(), x.transpose(0, 1).flatten(1).std(1, correction=0))


def test_fingerprint_sees_every_change(small):
    x = small.train.x.clone()
    x[-1, 0, -1, -1] ^= 1
    changed = ImageData(Part(x, small.train.y), small.valid, small.test, small.classes)
    renamed = ImageData(small.train, small.valid, small.test, [*small.classes[:-1], 'boot'])
    swapped = ImageData(small.train, small.test, small.valid, small.classes)
    assert len({d.fingerprint for d in (small, changed, renamed, swapped)}) == 4
    assert ImageData(small.train, small.valid, small.test, small.classes, 'other').fingerprint == small.fingerprint


def test_resize(small):
    d = small.resize((14, 7))
    assert d.size == (14, 7) and d.train.x.dtype == torch.uint8 and abs(d.mean - small.mean) < 0.005
    want = F.interpolate(small.train.x.float(), (14, 7), mode='bilinear', antialias=True)
    assert (d.train.x.float() - want).abs().max() <= 0.5
    assert small.resize(28) is small
    with pytest.raises(ValueError, match='size=0'): small.resize(0)


def test_show(small):
    fig = small.show(3)
    grid = fig.axes[0].images[0].get_array()
    assert grid.shape == (10*30, 3*30) and [t.get_text() for t in fig.axes[0].get_yticklabels()] == list(small.classes)
    assert (grid[:28, :28] == small.train.x[small.train.y == 0][0, 0].numpy()).all()
    assert '| train | 101 | 10 to 11 |' in small._repr_markdown_()


# order and chance

def test_stream_seed():
    assert len({stream_seed(*t) for t in np.ndindex(9, 9, 9)}) == 729
    assert stream_seed(0, 0, 0) == 1445694884619442965 and 0 <= stream_seed(-1, 2**62) < 2**63
    assert stream_seed(1) != stream_seed(1, 0)


def test_no_two_streams_coincide(small, monkeypatch):
    "Order, augmentation, and what a run seeds at each step: neither a tuple nor a seed serves two things."
    asked, orders, steps = [], set(), set()
    monkeypatch.setattr(loaders, 'stream_seed', lambda *n: asked.append(n) or stream_seed(*n))
    for rank in range(2):
        dl = image_loaders(small, 20, device='cpu', augment=(flip(),), rank=rank, world_size=2)
        for epoch in range(4):
            asked.clear()
            for _ in dl.train: pass
            orders |= {a for a in asked if len(a) == 3}
            now = {a for a in asked if len(a) > 3}
            assert len(now) == 5 and not steps & now, 'another epoch or process had one of them'
            steps |= now
    assert len(orders) == 4 and len(steps) == 2*4*5 and {a[-1] for a in steps} == {2}
    run = {(0, *es, rank, 1) for es in np.ndindex(9, 9) for rank in range(2)}  # dropout and all else that is random
    before = {(0, 1, s, rank) for s in range(9) for rank in range(2)}  # the same, in version 0.1
    every = [*orders, *steps, *run, *before, *((s, 30) for s in range(9))]
    assert len({stream_seed(*map(int, a)) for a in every}) == len(every)


def batches(data, epoch=0, seed=0, skip=0, limit=None, bs=32, **kw):
    dl = image_loaders(data, bs, seed=seed, augment=(flip(), shift()), device='cpu', **kw).train
    dl.epoch, dl.skip, dl.limit = epoch, skip, limit
    return torch.cat([x for x, _ in dl])


def test_chance_follows_from_the_numbers_alone(data):
    d, state = data.subset(200), torch.get_rng_state()
    first = batches(d)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(7)
    assert torch.equal(first, batches(d)) and len(first) == 192
    assert not torch.equal(first, batches(d, epoch=1)) and not torch.equal(first, batches(d, seed=1))


def test_skip_and_limit_cut_an_epoch(data):
    d = data.subset(200)
    whole = batches(d, epoch=2)
    assert torch.equal(batches(d, 2, skip=4), whole[128:]) and torch.equal(batches(d, 2, limit=2), whole[:64])
    assert torch.equal(batches(d, 2, skip=1, limit=3), whole[32:96]) and torch.equal(batches(d, 2, limit=99), whole)


def test_epochs_are_counted(small):
    dl = image_loaders(small, 32, device='cpu').train
    for _ in range(3): dl.one_batch()
    assert dl.epoch == 0
    dl.skip = 2
    assert len(list(dl)) == 1 and dl.epoch == 1 and dl.skip == 0 and len(list(dl)) == 3
    for _ in dl: break
    assert dl.epoch == 3
    valid = image_loaders(small, device='cpu').valid
    list(valid)
    assert valid.epoch == 0


def test_a_broken_off_epoch_is_used_up(small):
    "Though someone keeps the iterator, so that its end never comes."
    dl = image_loaders(small, 32, device='cpu').train
    kept = iter(dl)
    next(kept)
    ys = torch.cat([y for _, y in dl])
    assert torch.equal(ys, small.train.y[epoch_order(101, 0, 1)][:96])


# batches

@pytest.mark.parametrize('normalize', [True, False])
def test_batch_by_hand(data, normalize):
    dls = image_loaders(data, 64, seed=5, normalize=normalize, augment=(flip(), shift(3)), device='cpu')
    dls.train.epoch = 4
    for step, (x, y) in zip(range(3), dls.train):
        idx = epoch_order(10_000, 5, 4)[step*64:step*64 + 64]
        g = torch.Generator().manual_seed(stream_seed(5, 4, step, 0, 2))
        want, _ = shift(3)(*flip()(data.train.x[idx].float()/255, None, g), g)
        if normalize: want = (want - data.mean.view(-1, 1, 1))/data.std.view(-1, 1, 1)
        assert torch.equal(x, want) and torch.equal(y, data.train.y[idx]) and x.dtype == torch.float32


def test_loaders_leave_the_data_alone(small):
    before = small.fingerprint, small.train.x.clone()
    for x, y in image_loaders(small, 10, augment=(flip(), shift()), device='cpu').train: x.zero_(), y.zero_()
    assert torch.equal(small.train.x, before[1]) and int(small.train.y.max()) == 9


def test_augmented_batch_is_not_normalised_in_place(small):
    "An augmentation may hand over a tensor that it keeps."
    kept = torch.full((32, 1, 28, 28), 0.5)
    dl = image_loaders(small, 32, augment=(lambda x, y, g: (kept, y),), device='cpu').train
    assert torch.equal(dl.one_batch()[0], dl.one_batch()[0]) and (kept == 0.5).all()


@pytest.mark.parametrize('bs,want', [(64, 1), (512, 3)])
def test_small_batches_take_one_thread(data, bs, want):
    "And what the caller had set is there again, also after an error."
    before, seen = torch.get_num_threads(), []

    def look(x, y, g):
        seen.append(torch.get_num_threads())
        if len(seen) == 2: raise KeyboardInterrupt
        return x, y
    torch.set_num_threads(3)
    try:
        dl = image_loaders(data, bs, augment=(look,), device='cpu').train
        dl.one_batch()
        with pytest.raises(KeyboardInterrupt): dl.one_batch()
        assert seen == [want]*2 and torch.get_num_threads() == 3
    finally: torch.set_num_threads(before)


def test_validation_is_untouched(data):
    dls = image_loaders(data, 64, augment=(flip(), shift()), device='cpu')
    x, y = (torch.cat(t) for t in zip(*dls.valid))
    want = (data.valid.x.float()/255 - data.mean.view(-1, 1, 1))/data.std.view(-1, 1, 1)
    assert torch.equal(x, want) and torch.equal(y, data.valid.y) and dls.valid.bs == 256 and len(dls.valid) == 16


@pytest.mark.parametrize('size', [(28, 28), (9, 14), (1, 5), (33, 2)])
@pytest.mark.parametrize('channels', [1, 3])
def test_odd_sizes(size, channels):
    x = torch.randint(256, (40, channels, *size), dtype=torch.uint8)
    part = Part(x, torch.arange(40) % 2)
    d = ImageData(part, part, part, ('a', 'b'))
    for last in (False, True):
        xb, _ = image_loaders(d, 16, augment=(flip(), shift()), channels_last=last, device='cpu').train.one_batch()
        assert xb.shape == (16, channels, *size)
        assert xb.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def test_constant_channel():
    part = Part(torch.full((8, 1, 4, 4), 7, dtype=torch.uint8), torch.arange(8) % 2)
    x, _ = image_loaders(ImageData(part, part, part, ('a', 'b')), 4, device='cpu').train.one_batch()
    assert (x == 0).all()


@pytest.mark.parametrize('world', [2, 3])
def test_processes_share_every_batch(data, world):
    one = image_loaders(data, 64, device='cpu')
    many = [image_loaders(data, 64, rank=r, world_size=world, device='cpu') for r in range(world)]
    for dl in ('train', 'valid'):
        whole, parts = getattr(one, dl), [getattr(m, dl) for m in many]
        assert all(len(p) == len(whole) for p in parts)
        for b, *shares in zip(whole, *parts):
            for k in (0, 1): assert torch.equal(torch.cat([s[k] for s in shares]), b[k])


def test_batch_size_is_at_most_the_images(small):
    assert image_loaders(small, 4096, device='cpu').train.bs == 101
    assert len(image_loaders(small, 60, device='cpu').train) == 1 and len(ImageLoader(small.train, 60)) == 2


@pytest.mark.parametrize('kw,error', [
    (dict(batch_size=0), ValueError), (dict(batch_size=2.5), TypeError), (dict(rank=1), ValueError),
    (dict(world_size=0), ValueError), (dict(mean=0.5), ValueError), (dict(batch_size=True), TypeError)])
def test_loader_arguments(small, kw, error):
    with pytest.raises(error, match=next(iter(kw))): ImageLoader(small.train, **kw)


# the two augmentations

def test_augmentations_against_loops():
    x, y = torch.rand(200, 2, 5, 9), torch.arange(200)
    for seed in range(3):
        heads = torch.rand(200, generator=torch.Generator().manual_seed(seed)) < 0.3
        got, same = flip(0.3)(x, y, torch.Generator().manual_seed(seed))
        assert same is y and torch.equal(got, torch.stack([a.flip(-1) if h else a for a, h in zip(x, heads)]))
        rows, cols = torch.randint(7, (2, 200), generator=torch.Generator().manual_seed(seed))
        padded = F.pad(x, (3, 3, 3, 3))
        want = torch.stack([p[:, r:r + 5, c:c + 9] for p, r, c in zip(padded, rows, cols)])
        assert torch.equal(shift(3)(x, y, torch.Generator().manual_seed(seed))[0], want)


def test_augmentations_at_their_ends():
    x, y = torch.rand(9, 1, 4, 4), torch.zeros(9)
    assert torch.equal(flip(0)(x, y)[0], x) and torch.equal(flip(1)(x, y)[0], x.flip(-1))
    assert torch.equal(shift(0)(x, y)[0], x) and shift(2)(x[:0], y[:0])[0].shape == (0, 1, 4, 4)
    for make, bad, error in ((flip, 1.01, ValueError), (flip, -0.01, ValueError), (shift, -1, ValueError), (shift, 0.5, TypeError)):
        with pytest.raises(error, match=f'={bad}'): make(bad)


def test_every_image_has_its_own_chance():
    same = torch.rand(1, 1, 9, 9).repeat(500, 1, 1, 1)
    kept = same.clone()
    out = shift(2)(*flip()(same, torch.zeros(500)))[0]
    assert len({o.numpy().tobytes() for o in out}) == 2*25 and torch.equal(same, kept)


# fastai

def learner(data, **kw):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return Learner(image_loaders(data, device='cpu', **kw), net, loss_func=CrossEntropyLossFlat())


@pytest.fixture(scope='module')
def trained(data):
    learn = learner(data, augment=(flip(),))
    with learn.no_logging(): learn.fit(1, 1e-2)
    return learn


def test_learner_trains_validates_predicts(trained, data):
    preds, targets = trained.get_preds()
    assert torch.equal(targets, data.valid.y) and (preds.argmax(1) == targets).float().mean() > 0.7
    want = F.cross_entropy(preds.log(), targets).item()
    assert math.isclose(trained.validate()[0], want, rel_tol=1e-4)
    assert trained.dls.train.epoch == 1 and trained.dls.c == 10 and list(trained.dls.vocab) == list(data.classes)
    assert torch.equal(trained.get_preds(ds_idx=0)[1], data.train.y)  # in their own order


def test_interpretation_counts_every_image(trained, data):
    found = ClassificationInterpretation.from_learner(trained)
    assert list(found.vocab) == list(data.classes)
    matrix = found.confusion_matrix()
    assert matrix.sum(1).tolist() == [400]*10 and len(found.top_losses(5)[0]) == 5


def test_batches_are_shown(trained):
    from matplotlib import pyplot as plt
    trained.dls.show_batch(max_n=4)
    titles = [ax.get_title() for ax in plt.gcf().axes]
    shown = plt.gcf().axes[0].images[0].get_array()
    x, y = trained.dls.one_batch()
    back = x[0]*trained.dls.train.std.view(-1, 1, 1) + trained.dls.train.mean.view(-1, 1, 1)
    assert titles == [trained.dls.vocab[i] for i in y[:4]] and np.allclose(shown, back[0], atol=1e-6)
    trained.show_results(max_n=2, shuffle=False)
    assert plt.gcf().axes[0].get_title().startswith('T-shirt/top\n')
    plt.close('all')


def test_no_batch_is_said(small):
    dl = ImageLoader(small.train[:0], 8)
    with pytest.raises(ValueError, match='no batch'): dl.one_batch()


# registries and fields

@pytest.fixture
def toys():
    toys = registry.Registry('toy')
    @toys.register('ball')
    def ball(size, colour='red', *, bounce=1): return size, colour, bounce
    return toys


def test_registry(toys):
    assert toys['ball'](1) == (1, 'red', 1) and 'ball' in toys and 'bell' not in toys
    assert list(toys) == toys.names() == ['ball'] and len(toys) == 1
    with pytest.raises(ValueError, match="unknown toy 'bal'; did you mean 'ball'\\? one of: ball"): toys['bal']
    with pytest.raises(ValueError, match='one of: none'): registry.Registry('thing')['x']
    toys.remove('ball')
    assert 'ball' not in toys


def test_only_folders_that_register_are_imported(tmp_path, monkeypatch):
    "A module in such a folder; none that starts with _, none beside the folders, none of another folder."
    for name in 'beside', 'homely/__init__', 'homely/found', 'homely/_hidden', 'other/__init__', 'other/left':
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/f'{name}.py').write_text('"A module of a test"')
    monkeypatch.setattr('cnn_tricks.__path__', [str(tmp_path)])
    monkeypatch.setattr(registry, '_homes', ('homely',))
    try: assert [m.__name__ for m in registry.import_modules()] == ['cnn_tricks.homely.found']
    finally:
        for name in [n for n in sys.modules if n.startswith(('cnn_tricks.beside', 'cnn_tricks.homely'))]: del sys.modules[name]


def test_registry_homes(toys):
    def made(module):
        def f(): pass
        f.__module__ = module
        return f
    toys.register('top', made('cnn_tricks.one'))
    toys.register('top', made('cnn_tricks.one'))
    with pytest.raises(ValueError, match="'top' is defined in two modules: cnn_tricks.one and cnn_tricks.two"):
        toys.register('top', made('cnn_tricks.two'))
    for home in '__main__', 'cnn_tricks.two', '__main__': toys.register('top', made(home))
    toys.register('word', 'a plain value')
    assert toys['word'] == 'a plain value'


def test_check_args(toys):
    toys.check_args('ball', dict(colour='blue', bounce=2), 'toy_args')
    with pytest.raises(ValueError, match="toy_args: toy 'ball' takes no argument 'color' \\(did you mean 'colour'\\?\\); it takes: bounce, colour"):
        toys.check_args('ball', dict(color=1), 'toy_args')
    with pytest.raises(ValueError, match="takes no argument 'size'"): toys.check_args('ball', dict(size=1), 'toy_args')
    with pytest.raises(TypeError, match='toy_args=3'): toys.check_args('ball', 3, 'toy_args')
    toys.register('any', lambda **kw: kw)
    toys.check_args('any', dict(whatever=1), 'toy_args')


@dataclass(frozen=True)
class Settings:
    lr: float = fields.bounded(0.1, gt=0)
    epochs: int | None = fields.bounded(None, ge=1, le=100, optional=True)
    kind: str = fields.choice('a', 'a', 'b')
    on: bool = True
    extra: dict = None

    def __post_init__(self): fields.check_fields(self)


@pytest.mark.parametrize('kw,error,text', [
    (dict(lr=-1), ValueError, 'lr=-1: must be greater than 0'), (dict(lr=0), ValueError, 'lr=0'),
    (dict(lr=float('nan')), ValueError, 'finite'), (dict(lr=float('inf')), ValueError, 'finite'),
    (dict(lr='1'), TypeError, "lr='1': must be a number, not str"), (dict(lr=True), TypeError, 'lr=True'),
    (dict(lr=None), TypeError, 'lr=None'), (dict(epochs=0), ValueError, 'epochs=0: must be at least 1 and at most 100'),
    (dict(epochs=101), ValueError, 'epochs=101'), (dict(epochs=2.), TypeError, 'whole number'),
    (dict(epochs=True), TypeError, 'epochs=True'), (dict(kind='c'), ValueError, "kind='c': must be one of 'a', 'b'"),
    (dict(on=1), TypeError, 'on=1: must be True or False'), (dict(extra=[]), TypeError, 'extra=')])
def test_fields_refuse(kw, error, text):
    with pytest.raises(error) as e: Settings(**{'extra': {}, **kw})
    assert text in str(e.value)


def test_fields_accept():
    s = Settings(lr=np.float64(1), epochs=np.int64(100), extra={})
    assert type(s.lr) is float and type(s.epochs) is int and Settings(lr=2, epochs=1, extra={}).lr == 2


@pytest.mark.parametrize('value, kinds, limits, error, text', [
    (-1, [int], dict(ge=0), ValueError, 'x=-1: must be at least 0'), (2, [float], dict(gt=0, le=1), ValueError, 'x=2: must be greater than 0 and at most 1'),
    (1.5, [int], {}, TypeError, 'x=1.5: must be a whole number, not float'), (True, [int], {}, TypeError, 'x=True: must be a whole number'),
    (None, [int], {}, TypeError, 'x=None'), ('a', [int, float], {}, TypeError, "x='a': must be a number or a whole number, not str"),
    (float('nan'), [float], {}, ValueError, 'x=nan: must be a finite number'), (1, [float], dict(interval='[0, 1)'), ValueError, 'x=1: must lie in [0, 1)'),
    (0, [float], dict(interval='(0, 1]'), ValueError, 'x=0: must lie in (0, 1]'), (float('inf'), [float], dict(interval='[0, inf)'), ValueError, 'x=inf: must lie in [0, inf)'),
    (0.5, [int], dict(interval='[0, 1]'), TypeError, 'x=0.5: must be a whole number'), (3, [int], dict(least=4), TypeError, 'no such limit: least')])
def test_check_value_refuses(value, kinds, limits, error, text):
    with pytest.raises(error) as e: fields.check_value('x', value, *kinds, **limits)
    assert text in str(e.value)


def test_check_value_gives_plain_numbers():
    for value, kind in ((np.int64(3), int), (np.float32(0.5), float), (np.int8(1), float)):
        got = fields.check_value('x', value, kind)
        assert got == value and type(got) in (int, float)
    assert type(fields.check_value('x', 2, float, interval='[0, inf)')) is int
    assert fields.check_value('x', None, int, type(None), ge=0) is None


@pytest.mark.parametrize('numbers, threads', [(1 << 18, 3), ((1 << 18) - 1, 1)])
def test_threads_that_fit_the_work(numbers, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError), fitting_threads(numbers):
            assert torch.get_num_threads() == threads
            raise KeyError
        assert torch.get_num_threads() == 3
    finally: torch.set_num_threads(before)


def test_atomic_write(tmp_path):
    path = tmp_path/'kept'
    path.write_bytes(b'old')
    with pytest.raises(KeyboardInterrupt):
        with atomic_write(path) as f:
            f.write(b'half')
            raise KeyboardInterrupt
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['kept']
    with atomic_write(path) as f: f.write(b'new')
    assert path.read_bytes() == b'new' and os.listdir(tmp_path) == ['kept']


# drawn data

def test_shapes_are_what_they_say():
    "The object is lighter than its surroundings, lies inside, and its area and corners tell its class."
    d = shapes(300, size=(48, 64), classes=('circle', 'square', 'triangle', 'ring', 'cross'), seed=2)
    grey, m = d.train.x.float().mean(1), d.train.masks
    inside = (grey*m).sum((1, 2))/m.sum((1, 2))
    outside = (grey*~m).sum((1, 2))/(~m).sum((1, 2))
    assert (inside > outside + 20).all()
    assert not m[:, [0, -1]].any() and not m[:, :, [0, -1]].any()
    rows, cols = torch.arange(48.)[:, None], torch.arange(64.)
    area = m.sum((1, 2))
    r, c = (m*rows).sum((1, 2))/area, (m*cols).sum((1, 2))/area
    far = (((rows - r[:, None, None])**2 + (cols - c[:, None, None])**2)*m).amax((1, 2))
    fill = area/(math.pi*far)  # of the circle around it
    middle = fill.new_tensor([fill[d.train.y == k].median() for k in range(5)])
    assert middle[0] > 0.85 and 0.55 < middle[1] < 0.75 and 0.35 < middle[2] < 0.5 and middle[0] > middle[3]


def test_shapes_follow_the_seed():
    assert shapes(seed=3).fingerprint == shapes(seed=3).fingerprint
    assert len({shapes(seed=s).fingerprint for s in range(3)}) == 3
    d = shapes(60, 9, channels=1)
    assert d.train.x.shape == (36, 1, 9, 9) and [len(p) for p in d.parts.values()] == [36, 12, 12]


def by_background(d):
    def back(p): return ((p.x*~p.masks[:, None]).sum((2, 3))/(~p.masks).sum((1, 2))[:, None]).float()
    b = back(d.train)
    centres = torch.stack([b[d.train.y == c].median(0).values for c in range(d.n_classes)])
    return {n: (torch.cdist(back(p), centres).argmin(1) == p.y).float().mean().item() for n, p in d.parts.items()}


def test_background_bias():
    fair, biased = by_background(shapes(1500)), by_background(shapes(1500, background_bias=1.))
    assert all(0.2 < v < 0.5 for v in fair.values())
    assert biased['train'] > 0.95 and biased['valid'] > 0.95 and biased['test'] < 0.5
    assert by_background(shapes(1500, background_bias=1., test_bias=1.))['test'] > 0.95


@pytest.mark.parametrize('kw', [dict(classes=('dot', 'ring')), dict(classes=('ring',)), dict(classes=('ring', 'ring')), dict(size=7),
                                dict(n=3), dict(background_bias=1.1), dict(test_bias=-1), dict(channels=2)])
def test_shapes_refuse(kw):
    with pytest.raises(ValueError, match=next(iter(kw))): shapes(**kw)


# downloads

class Server:
    "Files from memory on 127.0.0.1, with ranges; counts what was asked."
    def __init__(self, content, ranges=True, cut=None, status=200):
        self.asked, outer = [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *a): pass

            def do_GET(self):
                body, start = content, 0
                outer.asked.append(self.headers.get('Range'))
                if status != 200: return self.send_error(status)
                if ranges and self.headers.get('Range'):
                    start = int(self.headers['Range'].split('=')[1].rstrip('-'))
                    if start >= len(body): return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header('Content-Length', str(len(body) - start))
                self.end_headers()
                stop = len(body) if cut is None or len(outer.asked) > 1 else cut
                self.wfile.write(body[start:stop])
        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f'http://127.0.0.1:{self.server.server_port}/file'

    def __enter__(self): return self
    def __exit__(self, *a):
        self.server.shutdown()
        self.server.server_close()


BODY = bytes(range(256))*4000
DEAD = 'http://127.0.0.1:9/file'


def right(path): return files.sha256(path) == hashlib.sha256(BODY).hexdigest()


def get(urls, tmp_path, **kw): return files.download(urls, tmp_path/'d'/'file', right, timeout=120, progress=False, **kw)


def test_download(tmp_path):
    with Server(BODY) as s: assert get([s.url], tmp_path).read_bytes() == BODY and s.asked == [None]
    assert os.listdir(tmp_path/'d') == ['file']


@pytest.mark.parametrize('ranges', [True, False])
def test_download_goes_on_after_a_cut(tmp_path, ranges):
    with Server(BODY, ranges=ranges, cut=300_000) as s:
        assert get([s.url], tmp_path).read_bytes() == BODY
        assert s.asked[0] is None and s.asked[1] == 'bytes=300000-'


def test_download_goes_on_in_another_run(tmp_path):
    (tmp_path/'d').mkdir()
    (tmp_path/'d'/'file.part').write_bytes(BODY[:1000])
    with Server(BODY) as s: assert get([s.url], tmp_path).read_bytes() == BODY and s.asked == ['bytes=1000-']


@pytest.mark.parametrize('rest', [b'something else', BODY[:-1] + b'x', BODY + b'more'])
def test_damaged_rest_is_replaced(tmp_path, rest):
    (tmp_path/'d').mkdir()
    (tmp_path/'d'/'file.part').write_bytes(rest)
    with Server(BODY) as s: assert get([s.url], tmp_path).read_bytes() == BODY


def test_second_mirror(tmp_path):
    with Server(BODY[::-1]) as wrong, Server(b'', status=404) as gone, Server(BODY) as good:
        assert get([DEAD, wrong.url, gone.url, good.url], tmp_path).read_bytes() == BODY


def test_wrong_file_is_refused(tmp_path):
    with Server(BODY[::-1]) as s:
        with pytest.raises(files.DownloadError, match='file could not be downloaded .*wrong checksum.*: do this'):
            get([s.url], tmp_path, advice='do this')
    assert os.listdir(tmp_path/'d') == []


def fashion_files(folder, n=40, pack=True):
    "Small files in the official format; returns their checksums"
    import gzip
    folder.mkdir(parents=True, exist_ok=True)
    sums, rng = {}, np.random.default_rng(0)
    for part in 'train', 't10k':
        for kind, body in (('images-idx3', bytes(16) + rng.integers(0, 256, n*784, np.uint8).tobytes()),
                           ('labels-idx1', bytes(8) + (np.arange(n) % 10).astype(np.uint8).tobytes())):
            name = f'{part}-{kind}-ubyte'
            sums[name] = hashlib.sha256(body).hexdigest()
            (folder/(name + '.gz'*pack)).write_bytes(gzip.compress(body) if pack else body)
    return sums


@pytest.fixture
def away(tmp_path, monkeypatch):
    "No local data, no Debian package, an empty cache, no mirrors."
    monkeypatch.setenv('CNN_TRICKS_CACHE', str(tmp_path/'cache'))
    monkeypatch.delenv('CNN_TRICKS_DATA', raising=False)
    monkeypatch.setattr(D, '_debian', tmp_path/'nothing')
    monkeypatch.setattr(D, '_mirrors', ['http://127.0.0.1:9/'])
    return tmp_path


@pytest.mark.parametrize('where,pack', [('', True), ('fashion-mnist', True), ('FashionMNIST/raw', False)])
def test_fashion_is_found_locally(away, monkeypatch, where, pack):
    monkeypatch.setattr(D, '_fashion', fashion_files(away/'data'/where, pack=pack))
    monkeypatch.setenv('CNN_TRICKS_DATA', str(away/'data'))
    d = D.fashion_mnist(valid=10)
    assert [len(p) for p in d.parts.values()] == [30, 10, 40] and d.valid.y.bincount().tolist() == [1]*10
    assert D.datasets['fashion_mnist'](valid=10, seed=1).fingerprint != d.fingerprint
    name = next(iter(D._fashion))
    damaged = away/'data'/where/(name + '.gz'*pack)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(files.DownloadError): D.fashion_mnist(valid=10)


def test_fashion_is_downloaded_and_kept(away, monkeypatch):
    monkeypatch.setattr(D, '_fashion', fashion_files(away/'served'))
    served, handler = [], http.server.SimpleHTTPRequestHandler

    class Handler(handler):
        def __init__(self, *a, **kw): super().__init__(*a, directory=str(away/'served'), **kw)
        def log_message(self, *a): served.append(self.path)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(D, '_mirrors', [f'http://127.0.0.1:{server.server_port}/'])
    first = D.fashion_mnist(valid=10)
    server.shutdown()
    server.server_close()
    assert D.fashion_mnist(valid=10).fingerprint == first.fingerprint and len(served) == 4


@pytest.mark.parametrize('name', ['fashion_mnist', 'cifar10', 'imagenette', 'pets'])
def test_offline_is_one_line_that_says_what_to_do(away, monkeypatch, name):
    from fastai.data import external
    def fail(*a, **kw): raise OSError('Name or service not known')
    monkeypatch.setattr(external, 'untar_data', fail)
    monkeypatch.setattr('torchvision.datasets.CIFAR10.download', fail)
    with pytest.raises(files.DownloadError) as e: D.datasets[name]()
    message = str(e.value)
    assert '\n' not in message and 'CNN_TRICKS_DATA' in message and 'network' in message


@pytest.mark.parametrize('inside', ['', 'cifar10'])
def test_cifar10_from_class_folders(away, monkeypatch, inside):
    "Named by CNN_TRICKS_DATA; the name says that they are copies, and the split is that of the official files."
    from PIL import Image
    names = 'airplane automobile bird cat deer dog frog horse ship truck'.split()
    for part, n in (('train', 4), ('test', 2)):
        for k, c in enumerate(names):
            for i in range(n):
                path = away/'data'/inside/part/c/f'{i}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new('RGB', (32, 32), (20*k, 100 + i, 128*(part == 'test'))).save(path)
    monkeypatch.setenv('CNN_TRICKS_DATA', str(away/'data'))
    d = D.cifar10(valid=10)
    assert d.name == 'CIFAR-10 (PNG copies)' and list(d.classes) == names and d.size == (32, 32) and not d.notes
    assert [len(p) for p in d.parts.values()] == [30, 10, 20] and d.valid.y.bincount().tolist() == [1]*10
    assert all((p.x[:, 0].flatten(1).float().mean(1) == 20*p.y).all() for p in d.parts.values())
    assert (d.test.x[:, 2] == 128).all() and not d.train.x[:, 2].any()
    assert D.cifar10(valid=10, seed=1).fingerprint != d.fingerprint


def test_folders_of_others(away, monkeypatch):
    from PIL import Image
    monkeypatch.setenv('CNN_TRICKS_DATA', str(away))
    rng = np.random.default_rng(0)
    def draw(path, **kw):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path, **kw)
    for part, n in (('train', 10), ('val', 4)):
        for c in 'n01', 'n02':
            for i in range(n): draw(away/'imagenette2-160'/part/c/f'{part}{i}.JPEG', format='JPEG')
    d = D.imagenette(16)
    assert [len(p) for p in d.parts.values()] == [16, 4, 8] and d.size == (16, 16)
    (away/'oxford-iiit-pet'/'annotations').mkdir(parents=True)
    for part, n in (('trainval', 10), ('test', 5)):
        names = [f'{c}_{part}_{i}' for c in ('Abyssinian', 'great_pyrenees') for i in range(n)]
        for name in names: draw(away/'oxford-iiit-pet'/'images'/f'{name}.jpg')
        (away/'oxford-iiit-pet'/'annotations'/f'{part}.txt').write_text(''.join(f'{n} 1 1 1\n' for n in names))
    with pytest.raises(ValueError, match="no image of its class 'Abyssinian_test'"): D.pets(16)
