"""What the audit promises, by simulation: how often a useless trick is said to help or to hurt, and how often a gain of
three points is found. `python tests/studies/test_boundary.py` prints the table."""
import numpy as np
import pytest
from scipy import stats

from cnn_tricks.measure.records import recorded
from cnn_tricks.measure.verdict import Verdict
from cnn_tricks.studies.audit_boundary import (
    FIRST, OUTCOMES, analyses, judge, level, longest, simulate_audits)

SEED = .0075 # the median standard deviation of the paired differences among this course's records, in accuracy
CASES = {'8 alike': [1]*8, '4 of 8 twice as wild': [1]*4 + [2]*4, '2 of 5 three times': [1]*3 + [3]*2,
         '3 of 8 four times': [1]*5 + [4]*3, '4 of 8 four times': [1]*4 + [4]*4}
SHARES = {'one image in ten validates': 1/9, 'one in five': 1/4}
IMAGES = 0, .2, .3 # of a trick's spread


def spreads(case):
    if case != 'recorded': return SEED*np.array(CASES[case])
    return np.array([c.sd for c in recorded('subset_steps').result['24'].comparisons])


def errors(case, share, image, audits=20_000, **kwargs):
    "Shares of audits of useless tricks with a false 'helps', a false 'hurts', any of them"
    s = spreads(case)
    v = simulate_audits([0.]*len(s), s, share=share, image=image, audits=audits, **kwargs)['verdict']
    return [np.isin(v, codes).any(1).mean() for codes in ((1, 4), (2,), (1, 2, 4))]


def power(gain, sd, rounds, share, tricks=6):
    "How often a trick that is worth `gain` is said to help, among useless ones"
    v = simulate_audits([gain] + [0.]*(tricks - 1), sd, rounds, share=share, image=.2, audits=10_000)['verdict']
    return (v[:, 0] == 1).mean()


@pytest.mark.parametrize('share', SHARES.values(), ids=SHARES)
@pytest.mark.parametrize('image', IMAGES)
@pytest.mark.parametrize('case', [*CASES, 'recorded'])
def test_useless_tricks(case, image, share):
    "The worst of these is 1.7% false helps, and 3.2% of either kind; the standard error is 0.1 points"
    helps, hurts, any_ = errors(case, share, image)
    assert max(helps, hurts) <= .025 and any_ <= .05


def test_without_the_correction_images_would_break_it():
    "What the simulation must be able to see: intervals of other seeds alone, on images that stay the same"
    assert errors('4 of 8 four times', 0., .3)[2] > .09
    assert errors('8 alike', .25, 0., corrected=False)[0] > .15


@pytest.mark.parametrize('rounds', [4, 6, 12, 20])
def test_other_lengths(rounds): assert errors('3 of 8 four times', 1/9, .2, 10_000, rounds=rounds)[2] <= .05


def test_diverging_runs_add_no_errors():
    found = simulate_audits([0.]*6, SEED, share=1/9, image=.2, diverges=.05, audits=10_000)
    assert np.isin(found['verdict'], (1, 2, 4)).any(1).mean() <= .05
    assert (simulate_audits([.05]*6, SEED, diverges=1.)['verdict'] == 0).all()


def test_three_points_are_found():
    for share in SHARES.values():
        assert power(.03, SEED, 8, share) >= .9 and power(.03, .01, 8, share) >= .78
        assert power(.03, SEED, 6, share) >= .8
    assert power(.03, .02, 8, .25) < .5 # and where few images validate, they are not


def test_analyses_spend_all_and_no_more():
    for rounds in range(FIRST, 21):
        for most in {rounds, longest(rounds)}:
            a = analyses(rounds, most)
            assert sum(a.values()) == pytest.approx(1) and max(a) == most and rounds in a and min(a) >= FIRST
            assert list(a) == sorted(a)
    for bad in (3, 8), (9, 8):
        with pytest.raises(ValueError, match='rounds='): analyses(*bad)
    assert level(8, .5) == 1 - .05/16


def test_one_trick_alone_spends_nearly_all():
    "4% at four seeds; with a small δ nothing that is surely below 0 is called no difference"
    v = simulate_audits([0.], .008, FIRST, share=0., delta=1e-5, audits=40_000)['verdict']
    assert np.isin(v, (1, 2, 4)).mean() == pytest.approx(.04, abs=.004)


def test_judge_says_what_a_verdict_says():
    ends = np.sort(np.random.default_rng(0).normal(0, .01, (300, 2)), 1)
    codes = judge(*ends.T, .01)
    assert [OUTCOMES[c] for c in codes] == [Verdict.of(*e, .01) for e in ends] and len(set(codes)) == 5


def test_intervals_of_the_simulation_by_hand():
    "A drawn audit of one trick, its interval at the first analysis against scipy's"
    rng = np.random.default_rng(1) # as `simulate_audits` draws
    rng.normal(size=(1, 1))
    x = []
    for _ in range(8):
        own, base = rng.normal(size=(1, 1)), rng.normal(size=(1, 1))
        x.append((.02 + own*.01*.5**.5 - base*.01*.5**.5).item())
        rng.random((1, 1))
    found = simulate_audits([.02], .01, 8, share=0., audits=1)
    n = int(found['seeds'][0, 0])
    low, high = stats.ttest_1samp(x[:n], 0).confidence_interval(level(1, analyses(8, 12)[n]))
    assert found['mean'][0, 0] == pytest.approx(np.mean(x[:n])) and found['verdict'][0, 0] == judge(low, high, .01)


if __name__ == '__main__':
    print('false helps / false hurts / any false call, % of 20,000 simulated audits of 8 rounds')
    for case in [*CASES, 'recorded']:
        for image in IMAGES:
            print(f'{case:22} images {image}:', '; '.join(
                f'{name} ' + ' / '.join(f'{100*v:.1f}' for v in errors(case, s, image)) for name, s in SHARES.items()))
    print('a gain of 3 points is found, %, six tricks, image effect 0.2')
    for sd in .005, SEED, .01, .013, .02:
        print(f'standard deviation {100*sd:g} points:', '; '.join(
            f'{rounds} rounds {100*power(.03, sd, rounds, 1/9):.0f} (one in ten), {100*power(.03, sd, rounds, .25):.0f} (one in five)'
            for rounds in (4, 6, 8, 12)))
