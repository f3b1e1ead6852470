"""Intervals and tests: Student's and the corrected resampled t, Wilson's interval, Holm's correction, seeds needed"""
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

__all__ = ['MeanInterval', 'sample_sd', 't_factor', 'p_of_interval', 'paired_t', 'corrected_t', 'accuracy_interval',
           'holm', 'seeds_needed']


def _check_chance(**named):
    for name, v in named.items():
        if not 0 < v < 1: raise ValueError(f'{name}={v}: must lie between 0 and 1')


class MeanInterval(NamedTuple):
    "A mean with its confidence interval, as `paired_t` and `corrected_t` find it"
    mean:float # of the differences
    low:float # where the interval begins; -inf where nothing can be said
    high:float # where it ends
    p:float # of no difference at all


def sample_sd(
    values # (n,): numbers
)->float: # nan for fewer than two
    "The sample standard deviation, with n - 1 in the denominator"
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def t_factor(
    n:int, # independent values, at least 2
    level:float=0.95 # how often the interval holds the truth, between 0 and 1
)->float:
    """Half of the width of Student's interval (1908), in standard errors of the mean. `ValueError` for fewer than two
    values, or a level that is not between 0 and 1"""
    _check_chance(level=level)
    if n < 2: raise ValueError(f'n={n}: must be at least 2')
    return float(stats.t.ppf((1 + level)/2, n - 1))


def p_of_interval(
    mean:float, # the middle of an interval
    half:float, # half of its width, greater than 0
    n:int, # values that the mean is taken of, at least 2
    level:float=0.95 # the level of the interval, between 0 and 1
)->float: # in [0, 1]
    "The p-value of no difference that goes with an interval by t: 1 - level where the interval just touches 0"
    return 2*float(stats.t.sf(t_factor(n, level)*abs(mean)/half, n - 1))


def paired_t(
    differences, # (runs,): one arm minus the other, in accuracy
    resolution:float=0., # what one image counts, 1/images; 0: the number of images is not known
    share:float=0., # added to 1/runs where the runs are not independent: see `corrected_t`
    level:float=0.95 # how often such an interval holds the truth, between 0 and 1
)->MeanInterval:
    """Student's t interval (1908) of the mean; the standard deviation of the differences counts as at least one image.
    `ValueError` for a level that is not between 0 and 1"""
    _check_chance(level=level)
    d = np.asarray(differences, dtype=float)
    mean, n = float(d.mean()), len(d)
    error = max(sample_sd(d), resolution)*math.sqrt(1/n + share) if n > 1 else 0.
    if error < 1e-12: return MeanInterval(mean, -math.inf, math.inf, 1.)
    half = max(t_factor(n, level)*error, resolution/2)
    return MeanInterval(mean, mean - half, mean + half, p_of_interval(mean, half, n, level))


def corrected_t(
    differences, # (runs,): of the two arms, a fold each; of one or several k-fold rounds
    n_train:int, # images that a run is trained on
    n_test:int, # images that it is scored on; 0 is Student's t, for runs that are independent
    level:float=0.95 # how often such an interval should hold the truth
)->MeanInterval: # its standard deviation counts as at least one of the `n_test` images
    """The corrected resampled t interval: variance times 1/runs + n_test/n_train (Nadeau and Bengio, Inference for the
    Generalization Error, Machine Learning 52, 2003, section 5). `ValueError` for fewer than two differences, image
    counts below 1 and 0, or a level that is not between 0 and 1"""
    d = np.asarray(differences, dtype=float)
    if d.ndim != 1 or len(d) < 2: raise ValueError(f'differences: must be at least 2 numbers, not {d.shape}')
    if n_train < 1 or n_test < 0: raise ValueError(f'n_train={n_train}, n_test={n_test}: must be at least 1 and 0')
    return paired_t(d, 1/n_test if n_test else 0., n_test/n_train, level)


def accuracy_interval(
    right:int, # images that were classified rightly, 0 to `n`
    n:int, # images that were looked at, at least 1
    level:float=0.95 # how often such an interval holds the truth, between 0 and 1
)->tuple: # (low, high), in [0, 1]
    """Wilson's interval (1927) for the accuracy on all images, from that on `n` drawn at random; scipy's. `ValueError`
    for a count that is not a whole number from 0 to `n`, or a level that is not between 0 and 1"""
    _check_chance(level=level)
    if n < 1: raise ValueError(f'n={n}: must be at least 1 image')
    if not 0 <= right <= n or right != int(right): raise ValueError(f'right={right}: must be a whole number, 0 to {n}')
    return tuple(map(float, stats.binomtest(int(right), int(n)).proportion_ci(level, 'wilson')))


def holm(
    p:list # p-values, each in [0, 1]
)->list: # in the same order: below α, it holds for all of them together at level α
    """p-values corrected for how many there are: the smallest times n, the next times n - 1, never falling (Holm, A
    simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979). `ValueError` for
    a number outside [0, 1]"""
    p = np.asarray(p, float)
    if p.size and not (0 <= p.min() and p.max() <= 1): raise ValueError(f'p={p.tolist()}: must lie between 0 and 1')
    order = np.argsort(p, kind='stable')
    out = np.empty_like(p)
    out[order] = np.minimum(np.maximum.accumulate(p[order]*np.arange(len(p), 0, -1)), 1)
    return out.tolist()


def seeds_needed(
    sd:float, # standard deviation of the paired differences between seeds, in the unit of `delta`, at least 0
    delta:float, # the difference that should be found, greater than 0
    power:float=0.8, # chance of finding it, between 0 and 1
    alpha:float=0.05 # chance of a false alarm, between 0 and 1
)->int: # seeds for each arm, at least 2
    """How many seeds until a true difference of `delta` is found with chance `power`, by a two-sided paired t test: the
    smallest n at which the noncentral t exceeds the critical value so often. `ValueError` for arguments out of range"""
    if not 0 <= sd < math.inf: raise ValueError(f'sd={sd}: must be a number of at least 0')
    if not 0 < delta < math.inf: raise ValueError(f'delta={delta}: must be a number greater than 0')
    _check_chance(power=power, alpha=alpha)
    if sd < delta/100: return 2
    def found(n): return stats.nct.sf(stats.t.ppf(1 - alpha/2, n - 1), n - 1, math.sqrt(n)*delta/sd)
    z = stats.norm.ppf(1 - alpha/2) + stats.norm.ppf(power)
    n = max(2, math.floor((z*sd/delta)**2)) # enough if the standard deviation were known, so never too many
    while found(n) < power: n += 1
    return n
