"The statistics against scipy, closed forms, loops over definitions and simulations; and the errors that they name."
import math

import numpy as np
import pytest
from scipy import stats

from cnn_tricks.measure.statistics import (
    accuracy_interval, corrected_t, holm, p_of_interval, paired_t, sample_sd, seeds_needed, t_factor)
from cnn_tricks.report.training import interval


def test_sd_is_that_of_a_sample():
    assert sample_sd([1, 2, 4]) == pytest.approx(math.sqrt(7/3)) and math.isnan(sample_sd([1])) and math.isnan(sample_sd([]))


@pytest.mark.parametrize('n', [2, 3, 10, 1000])
@pytest.mark.parametrize('level', [.5, .95, .99])
def test_t_factor_leaves_the_tails(n, level):
    assert stats.t.cdf(t_factor(n, level), n - 1) == pytest.approx((1 + level)/2)


@pytest.mark.parametrize('call, says', [
    (lambda: t_factor(1), 'n=1: must be at least 2'), (lambda: t_factor(3, 1.), 'level=1.0: must lie between 0 and 1'),
    (lambda: paired_t([.1, .2], level=0), 'level=0: must lie'), (lambda: corrected_t([.1, .2], 8, 2, level=2), 'level=2: must lie'),
    (lambda: p_of_interval(.1, .1, 1), 'n=1')])
def test_bad_levels_and_counts(call, says):
    with pytest.raises(ValueError, match=says): call()


def test_p_is_one_minus_the_level_where_the_interval_touches_0():
    for n, level in ((2, .95), (5, .9), (30, .99)):
        assert p_of_interval(.03, .03, n, level) == pytest.approx(1 - level)
        assert p_of_interval(-.03, .03, n, level) == pytest.approx(1 - level)
    assert p_of_interval(0, .1, 4) == 1


def test_p_is_students():
    d = np.random.default_rng(0).normal(.3, 1, 6)
    low, high = stats.ttest_1samp(d, 0).confidence_interval(.95)
    assert p_of_interval(d.mean(), (high - low)/2, 6) == pytest.approx(stats.ttest_1samp(d, 0).pvalue)


def test_seeds_needed_by_simulation_and_at_its_edges():
    assert seeds_needed(0, 1) == 2
    assert 36 <= seeds_needed(.15*2**.5, .1) <= 39  # 15.7 σ²/δ² for two arms of sd σ, and two more for t
    rng, n = np.random.default_rng(3), seeds_needed(.8, 1)
    found = lambda k: (stats.ttest_1samp(rng.normal(1, .8, (20_000, k)), 0, axis=1).pvalue < .05).mean()
    assert found(n - 1) < .8 <= found(n) + .01


def test_holm_keeps_the_order_of_its_arguments():
    assert holm([.04, .001, .30]) == pytest.approx([.08, .003, .30]) and holm([]) == []


def test_reports_give_wilsons_interval():
    low, high = accuracy_interval(905, 1000)
    assert interval(.905, 1000) == f'{100*low:.1f} to {100*high:.1f}'
