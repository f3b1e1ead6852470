"""Proxies: agreement against pairs and ranks, sizes by simulation; halving's calls."""
import itertools

import numpy as np
import pytest
from scipy import stats

from cnn_tricks.tools.proxies import images_needed, rank_agreement, regret, successive_halving


@pytest.mark.parametrize('delta, disagree, power', [(.01, .08, .8), (.02, .3, .9), (.05, .07, .5), (.1, .1, .8)])
def test_images_needed_by_simulation(delta, disagree, power):
    "McNemar's test on that many images finds the difference as often as was asked for."
    n = images_needed(delta, disagree, power)
    shares = (disagree + delta)/2, (disagree - delta)/2, 1 - disagree
    b, c, _ = np.random.default_rng(0).multinomial(n, np.clip(shares, 0, 1), size=3000).T
    found = (b - c)**2 > stats.chi2.ppf(.95, 1)*np.maximum(b + c, 1)
    assert abs(found.mean() - power) < (.03 if delta < disagree else .25)  # at the end: few images


def test_images_needed_grows():
    n = images_needed(.01, .1)
    assert images_needed(.005, .1) > 3.9*n and images_needed(.01, .2) > 1.9*n
    assert images_needed(.01, .1, power=.95) > n and images_needed(.01, .1, alpha=.01) > n and isinstance(n, int)


@pytest.mark.parametrize('args, match', [((0, .1), 'delta=0'), ((1., .1), 'delta=1.0'), ((.1, .05), 'disagree=0.05'),
                                         ((.1, 1.1), 'disagree=1.1'), ((.1, .2, 1.), 'power=1.0'),
                                         ((.1, .2, .8, 0.), 'alpha=0.0')])
def test_images_needed_bad(args, match):
    with pytest.raises(ValueError, match=match): images_needed(*args)


def facts_by_loop(w, p, base):
    "Kendall's tau-a, Spearman's rho and the share of equal signs, from their definitions; no ties"
    pairs = list(itertools.combinations(range(len(w)), 2))
    tau = sum(1 if (w[i] < w[j]) == (p[i] < p[j]) else -1 for i, j in pairs)/len(pairs)
    place = lambda v: [sum(u < x for u in v) for x in v]
    rho = np.corrcoef(place(w), place(p))[0, 1]
    others = [i for i in range(len(w)) if i != base]
    return rho, tau, sum((w[i] > w[base]) == (p[i] > p[base]) for i in others)/len(others)


@pytest.mark.parametrize('n, base', [(3, 0), (7, 2), (12, 11)])
def test_agreement_by_loop(n, base):
    rng = np.random.default_rng(n)
    w, p = rng.random((n, 4)), rng.random((n, 6))
    a = rank_agreement(w, p, base, draws=50)
    assert [a.spearman[0], a.kendall[0], a.signs[0]] == pytest.approx(facts_by_loop(w.mean(1), p.mean(1), base))
    assert a.regret[0] == pytest.approx(w.mean(1).max() - w.mean(1)[p.mean(1).argmax()]) and a.n == n
    for v, low, high in (a.spearman, a.kendall, a.signs, a.regret): assert -1 <= low <= high <= 1
    assert a == rank_agreement(w, p, base, draws=50)
    assert n == 3 or a != rank_agreement(w, p, base, draws=50, seed=1)


def test_agreement_interval():
    "Little noise, a short interval; one seed says nothing about seeds; pairing by seed is kept."
    truth, rng = np.linspace(0, 1, 6)[:, None], np.random.default_rng(0)
    wide = [rank_agreement(truth + sd*rng.normal(size=(6, 5)), truth + sd*rng.normal(size=(6, 5))) for sd in (1e-4, .3)]
    assert wide[0].kendall == pytest.approx((1, 1, 1)) and wide[1].kendall[2] - wide[1].kendall[1] > .1
    one = rank_agreement(truth, truth[::-1])
    assert one.kendall == pytest.approx((-1, -1, -1)) and one.regret == (1, 1, 1)
    shared = truth + 5*rng.normal(size=(1, 5))  # a seed that lifts all candidates alike changes no order
    assert rank_agreement(shared, truth).kendall == pytest.approx((1, 1, 1))


def test_agreement_of_ties():
    "A proxy that scores all alike orders nothing, without a warning, and its choice is a lot."
    a = rank_agreement([[1.], [2.], [3.]], [[5.], [5.], [5.]])
    assert a.spearman[0] == a.kendall[0] == a.signs[0] == 0 and a.regret[0] == 1
    half = rank_agreement([[1.], [2.], [3.], [4.]], [[1.], [1.], [2.], [3.]])
    assert half.kendall[0] == pytest.approx(stats.kendalltau([1, 2, 3, 4], [1, 1, 2, 3]).statistic)  # tau-b
    assert 'Kendall' in half._repr_markdown_() and '4 candidates' in half._repr_markdown_()


@pytest.mark.parametrize('args, match', [
    (([1., 2.], [[1.], [2.]]), 'whole: must be'), (([[1.], [2.]], [[1.]]), 'proxy: must be'),
    (([[1.], [2.]], [[1.], [np.nan]]), 'not a finite'), (([[1.], [2.]], [[1.], [2.], [3.]]), 'the same ones'),
    (([[1.], [2.]], [[1.], [2.]], 2), 'base=2'), (([[1.], [2.]], [[1.], [2.]], 0, 0), 'draws=0')])
def test_agreement_bad(args, match):
    with pytest.raises(ValueError, match=match): rank_agreement(*args)


def test_regret():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth, scores = rng.normal(size=5), rng.integers(3, size=5)
        firsts = [t for t, s in zip(truth, scores) if s == max(scores)]
        assert 0 <= regret(truth, scores) == pytest.approx(max(truth) - sum(firsts)/len(firsts))
    for bad in (([], []), ([1., 2.], [1.]), ([[1., 2.]], [[1., 2.]])):
        with pytest.raises(ValueError, match='one number for each candidate'): regret(*bad)


@pytest.mark.parametrize('n, amount, factor, calls', [
    (9, 90, 3, {10: 9, 30: 3, 90: 1}), (8, 80, 2, {10: 8, 20: 4, 40: 2, 80: 1}), (5, 30, 3, {10: 5, 30: 2}),
    (4, 7, 1, {7: 4}), (1, 5, 3, {5: 1})])
def test_halving_calls(n, amount, factor, calls):
    "Each rung asks for its candidates once each, those that were best before, and drops no better one than it keeps."
    asked = []
    def score(c, m):
        asked.append((m, c))
        return -(int(c) - 2)**2 - 1/m
    found = successive_halving(list(map(str, range(n))), score, amount, factor)
    assert {m: sum(k == m for k, _ in asked) for m, _ in asked} == calls and len(set(asked)) == len(asked)
    assert [m for m, _ in found] == sorted(calls) and next(iter(found[-1][1])) == str(min(2, n - 1))
    for (_, before), (_, after) in zip(found, found[1:]): assert set(after) == set(list(before)[:len(after)])
    for _, scores in found: assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_halving_bad():
    with pytest.raises(ValueError, match='one is there twice'): successive_halving(['a', 'a'], max, 9)
    with pytest.raises(ValueError, match='n=0'): successive_halving([], max, 9)
    with pytest.raises(ValueError, match='steps=0'): successive_halving(['a'], max, 0)
