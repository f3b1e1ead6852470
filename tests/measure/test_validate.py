"""Intervals and tests against closed forms and scipy; twins that were planted; attacks with a known answer."""
import json, math, sys

import numpy as np
import pytest
import torch
from common import run
from scipy import stats

from cnn_tricks.measure.arms import Arm, read_plain
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import Ledger
from cnn_tricks.tools.duplicates import find_duplicates
from cnn_tricks.tools.membership import image_losses, membership_advantage
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.measure.records import record, recorded
from cnn_tricks.core.train import train
from cnn_tricks.measure.cross_validation import FoldComparison, kfold_compare, mcnemar
from cnn_tricks.measure.statistics import accuracy_interval, corrected_t


# an accuracy and its interval

@pytest.mark.parametrize('right, n', [(0, 1), (0, 30), (30, 30), (7, 30), (500, 1000)])
@pytest.mark.parametrize('level', [0.5, 0.95, 0.999])
def test_wilson_solves_its_equation(right, n, level):
    "At each end the observed accuracy lies exactly z standard errors, of that end, away."
    z = stats.norm.ppf((1 + level)/2)
    low, high = accuracy_interval(right, n, level)
    assert 0 <= low <= right/n <= high <= 1
    for p in (low, high):
        if 1e-12 < p < 1 - 1e-12: assert abs(right/n - p) == pytest.approx(z*math.sqrt(p*(1 - p)/n))


def test_wilson_is_symmetric_and_narrows():
    for k in range(21):
        low, high = accuracy_interval(k, 20)
        assert accuracy_interval(20 - k, 20) == pytest.approx((1 - high, 1 - low))
    widths = [np.ptp(accuracy_interval(n//2, n)) for n in (10, 100, 1000)]
    assert widths[0] > widths[1] > widths[2]


@pytest.mark.parametrize('args, match', [((5, 0), 'n=0'), ((-1, 5), 'right=-1'), ((6, 5), 'right=6'),
                                         ((2.5, 5), 'whole number'), ((2, 5, 1), 'level=1'), ((2, 5, 0), 'level=0')])
def test_bad_accuracy(args, match):
    with pytest.raises(ValueError, match=match): accuracy_interval(*args)


# two networks, the same images

def test_mcnemar_by_counting():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.random(60) < .7, rng.random(60) < .8
        m = mcnemar(a, b)
        only_a, only_b = sum(x and not y for x, y in zip(a, b)), sum(y and not x for x, y in zip(a, b))
        tail = sum(math.comb(only_a + only_b, i) for i in range(min(only_a, only_b) + 1))
        assert (m.only_a, m.only_b) == (only_a, only_b) and m.difference == pytest.approx(b.mean() - a.mean())
        assert m.p == pytest.approx(min(1, 2*tail/2**(only_a + only_b)))
        back = mcnemar(b, a)
        assert back.p == pytest.approx(m.p) and back.difference == pytest.approx(-m.difference)


def test_mcnemar_of_equal_networks_and_of_tensors():
    a = torch.tensor([True, False, True])
    assert mcnemar(a, a) == (0, 0, 0., 1.) and mcnemar(a, ~a)[:2] == (2, 1)


@pytest.mark.parametrize('a, b, match', [([1, 0], [True, False], 'right_a'), ([True], [True, False], 'same images'),
                                         ([[True]], [[True]], 'right_a'), ([], [], 'right_a')])
def test_bad_mcnemar(a, b, match):
    with pytest.raises(ValueError, match=match): mcnemar(a, b)


# folds

def test_corrected_is_wider_by_a_known_factor():
    d = np.random.default_rng(0).normal(size=10)
    plain, wide = corrected_t(d, 90, 0), corrected_t(d, 90, 10)
    low, high = stats.ttest_1samp(d, 0).confidence_interval(.95)
    assert plain[1:3] == pytest.approx((low, high)) and plain.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
    assert (wide.high - wide.low)/(high - low) == pytest.approx(math.sqrt((1/10 + 10/90)*10)) and wide.p > plain.p
    narrow = corrected_t(d, 90, 10, level=.5)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high and narrow.p == wide.p


def test_p_and_interval_agree():
    rng = np.random.default_rng(1)
    for _ in range(50):
        i = corrected_t(rng.normal(.5, 1, 8), 70, 10)
        assert (i.p < .05) == (not i.low <= 0 <= i.high)
    nothing, equal = corrected_t([0., 0.], 400, 100), corrected_t([.1, .1], 4, 1)
    assert nothing.p == 1 and nothing.high == -nothing.low > .01 and equal.p > .8 and equal.high - equal.low > 1
    assert corrected_t([.1, .1], 4, 0) == (.1, -math.inf, math.inf, 1.)  # of how many images?


def test_folds_of_few_images():
    "Folds that agree count as differing by one of their images."
    got = corrected_t([.25]*4, 12, 4)
    assert got.high - got.mean == pytest.approx(stats.t.ppf(.975, 3)*.25*math.sqrt(1/4 + 4/12))


@pytest.mark.parametrize('args, match', [(([.1], 4, 1), 'at least 2'), (([[.1, .2]], 4, 1), 'at least 2'),
                                         (([.1, .2], 0, 1), 'n_train=0'), (([.1, .2], 4, -1), 'n_test=-1'),
                                         (([.1, .2], 4, 1, 2), 'level=2')])
def test_bad_corrected(args, match):
    with pytest.raises(ValueError, match=match): corrected_t(*args)


@pytest.fixture(scope='module')
def pool(): return embedded().resize(14).subset(48).subset(12, parts=('valid',))


SMALL = Recipe(network='plain', network_args={'widths': [4]}, batch_size=16, steps=3, lr=.01)


def test_kfold_compare(pool, tmp_path):
    c = kfold_compare(SMALL, FlipShift(), pool, k=3, repeats=2, budget={'epochs': 1}, delta=.02, seed=1)
    folds = [f for r in range(2) for f in pool.kfold(3, 1000 + r)]
    assert len(c.base) == len(c.trick) == 6 and (c.k, c.repeats, c.delta) == (3, 2, .02)
    assert c.seeds == c.trick.seeds == tuple(range(1000, 1006)) and c.base.steps == c.trick.steps == 2
    for i in (0, 5):
        for arm, r in ((c.base, SMALL), (c.trick, SMALL + FlipShift())):
            assert arm.accuracies[i] == train(r.replace(steps=2), folds[i], 1000 + i, progress=False).accuracy
    assert c.interval == pytest.approx(corrected_t(c.differences, 40, 20)[1:3])
    assert c.naive[0] >= c.interval[0] and c.naive[1] <= c.interval[1]
    assert '2 rounds of 3 folds' in c.summary() and c.summary() in c._repr_markdown_()
    record('folds', c, tmp_path)
    back = recorded('folds', tmp_path).result
    assert type(back) is FoldComparison and back == c and (back.interval, back.p) == (c.interval, c.p)


def test_the_verdict_follows_the_corrected_interval():
    def arm(name, values): return Arm.from_dict(dict(
        kind='arm', name=name, recipe={}, part='valid', data={'train': 8000, 'valid': 2000},
        runs=[dict(seed=i, accuracy=v, valid=v, steps=1) for i, v in enumerate(values)]))
    base, trick = arm('a', [.5]*5), arm('b', [.51, .52, .525, .53, .54])
    folds, plain = FoldComparison(base, trick, .001), Comparison(base, trick, .001)
    assert plain.verdict == folds.verdict == 'helps' and folds.p > plain.p
    base, trick = arm('a', [.5]*5), arm('b', [.501, .51, .52, .53, .535])
    assert Comparison(base, trick, .001).verdict == 'helps'
    folds = FoldComparison(base, trick, .001)
    kept = json.loads(folds.to_json())
    assert folds.verdict == 'undecided' == kept['verdict'] and kept['interval'] == list(folds.interval)
    assert FoldComparison.from_dict(kept) == folds == read_plain(kept) and read_plain(kept).verdict == 'undecided'
    both = Ledger.from_dict(json.loads(Ledger([folds, Comparison(base, trick, .001)]).to_json())).comparisons
    assert [(type(c), c.verdict) for c in both] == [(FoldComparison, 'undecided'), (Comparison, 'helps')]
    for cls, other in ((Comparison, folds), (FoldComparison, Comparison(base, trick))):
        with pytest.raises(ValueError, match=f'must be a {cls.__name__.lower()}'): cls.from_dict(other.to_dict())


def test_a_record_of_folds_is_known_without_the_lesson():
    code = ('from cnn_tricks.measure.records import recorded; c = recorded("validate_kfold").result; '
            'from cnn_tricks.studies.all_records import all_recorded; t = all_recorded(); '
            'e = next(c for n, _, c in t.entries if n == "validate_kfold"); assert e == c; print(type(c).__name__, c.interval)')
    said = run(sys.executable, '-W', 'ignore', '-c', code).split(maxsplit=1)
    kept = recorded('validate_kfold').result
    assert said[0] == 'FoldComparison' and said[1].strip() == str(kept.interval) == str(kept._t[1:3])
    assert kept.interval[0] < kept.naive[0]


@pytest.mark.parametrize('kw, match', [(dict(k=1), 'k=1'), (dict(repeats=0), 'repeats=0'), (dict(delta=0), 'delta=0'),
                                       (dict(k=30, repeats=40), 'fewer than 1000')])
def test_bad_folds(pool, kw, match):
    with pytest.raises(ValueError, match=match): kfold_compare(SMALL, FlipShift(), pool, **kw)


def test_test_images_are_not_read(pool):
    none = ImageData(pool.train, pool.valid, pool.test[:0], pool.classes)
    assert len(kfold_compare(SMALL, FlipShift(), none, k=2).base) == 2


# twins

def noise(n, channels=1, size=(16, 20), seed=0):
    "Coarse random pictures: neighbours are alike, as in photographs."
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.randn(n, channels, 6, 7, generator=g), size, mode='bicubic')
    return (128 + 45*x).clamp(0, 255).round().to(torch.uint8)


def images(train, test, valid=None):
    part = lambda x: Part(x, torch.zeros(len(x), dtype=torch.int64))
    return ImageData(part(train), part(train[:0] if valid is None else valid), part(test), ('a', 'b'))


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('change', ['equal', 'moved', 'mirrored', 'brighter', 'noisy'])
def test_planted_twins_are_found(channels, change):
    x, g = noise(60, channels), torch.Generator().manual_seed(1)
    big = noise(60, channels, (20, 24)).float()
    if change == 'moved': x, copy = big[..., 2:18, 2:22], big[:20, :, 0:16, 3:23]  # new pixels come in at the edges
    else: copy = {'equal': x[:20], 'mirrored': x[:20].flip(-1), 'brighter': x[:20].float()*.5 + 60,
                  'noisy': x[:20].float() + 3*torch.randn(x[:20].shape, generator=g)}[change]
    x, copy = (v.round().clamp(0, 255).to(torch.uint8) if v.is_floating_point() else v for v in (x, copy))
    found = find_duplicates(images(x, torch.cat([noise(10, channels, seed=5), copy])), threshold=.95)
    pairs = {(p.index, p.twin) for p in found.pairs}
    assert {(10 + i, i) for i in range(20)} <= pairs and not any(i < 10 for i, _ in pairs)
    assert all(p.part == 'test' and p.other == 'train' and p.likeness <= 1.001 for p in found.pairs)


def test_equal_bytes_alone():
    x = noise(10)
    moved = x[:3].roll(1, 3)
    found = find_duplicates(images(x, torch.cat([x[4:6], moved])), threshold=1)
    assert [(p.index, p.twin, p.likeness) for p in found.pairs] == [(0, 4, 1.), (1, 5, 1.)]


def test_flat_images_are_only_equal_to_themselves():
    "A flat image correlates with nothing; its equal is found by its bytes."
    flat = torch.full((2, 1, 16, 20), 7, dtype=torch.uint8)
    found = find_duplicates(images(torch.cat([noise(5), flat[:1]]), torch.cat([flat[1:], flat[1:] + 90])))
    assert [(p.index, p.twin) for p in found.pairs] == [(0, 5)]


def test_drop_and_table():
    x, other = noise(8), noise(6, seed=3)
    data = images(x, torch.cat([x[2:4], other[:2]]), valid=torch.cat([x[3:4], other[2:]]))
    found = find_duplicates(data, threshold=1)
    assert found.indices('train') == [2, 3] and found.indices('valid') == [0] and found.indices('test') == [0, 1]
    rows = {r['parts']: r['n'] for r in found.table().rows}
    assert rows == {'valid in train': '1 of 5', 'test in train': '2 of 4', 'test in valid': '1 of 4'}
    clean = found.drop('train')
    assert len(clean.train) == 6 and len(clean.test) == 4 and len(find_duplicates(clean, threshold=1)) == 1
    assert len(find_duplicates(found.drop('test').subset(8), threshold=1)) == 1
    assert len(found.show().axes) == 8 and len(find_duplicates(images(x, other)).show().axes) == 2


@pytest.mark.parametrize('kw, match', [(dict(threshold=0), 'threshold=0'), (dict(threshold=1.1), 'threshold=1.1'),
                                       (dict(pixels=-1), 'pixels=-1'), (dict(pixels=9), 'between 0 and 6'),
                                       (dict(candidates=0), 'candidates=0')])
def test_bad_search(kw, match):
    with pytest.raises(ValueError, match=match): find_duplicates(images(noise(3), noise(3)), **kw)


def test_unknown_part():
    found = find_duplicates(images(noise(3), noise(3, seed=9)))
    with pytest.raises(ValueError, match="part='dev'"): found.drop('dev')


# membership

def test_advantage_by_counting():
    g, share = torch.Generator().manual_seed(0), lambda v, t: sum(x <= t for x in v.tolist())/len(v)
    for _ in range(20):
        a, b = torch.rand(30, generator=g).round(decimals=1), torch.rand(44, generator=g).round(decimals=1)**.5
        t = torch.cat([a, b]).tolist()
        best, found = max(share(a, v) - share(b, v) for v in t), membership_advantage(a, b)
        assert share(a, found.threshold) - share(b, found.threshold) == pytest.approx(best)
        assert found.advantage <= best + 1e-9 and found == membership_advantage(a, b)
        assert membership_advantage(a, b, threshold=.45).advantage == pytest.approx(share(a, .45) - share(b, .45))


def test_halves_do_not_follow_the_order():
    "Losses in turns of easy and hard, the same in both groups: cut by position, the halves would differ."
    a = torch.tensor([0., 5.]*200) + torch.linspace(0, 1, 400)
    assert abs(np.mean([membership_advantage(a, a.flip(0), seed=s).advantage for s in range(10)])) < .05


def test_advantage_at_the_ends():
    zero, one = torch.zeros(10), torch.ones(10)
    assert membership_advantage(zero, one) == (1., 0.) and membership_advantage(one, one).advantage == 0
    assert membership_advantage(zero, one, threshold=2).advantage == 0
    assert membership_advantage(one, zero, threshold=.5).advantage == -1


@pytest.mark.parametrize('a, b, match', [(torch.zeros(1), torch.zeros(3), 'members'),
                                         (torch.zeros(3), torch.zeros(3, 2), 'others'),
                                         (torch.zeros(3), torch.tensor([1., math.nan]), 'nan')])
def test_bad_losses(a, b, match):
    with pytest.raises(ValueError, match=match): membership_advantage(a, b)


def test_image_losses(pool):
    "Their mean is the loss that training reports, on images that are not square too."
    for data in (pool, pool.resize((10, 17))):
        res = train(recipes['fast'].replace(steps=2, batch_size=16), data, 0, progress=False)
        losses = image_losses(res.trained, data.valid)
        assert losses.shape == (12,) and losses.mean().item() == pytest.approx(res.history[-1]['valid_loss'], abs=1e-4)
