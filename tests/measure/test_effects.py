"What a card's row \"Measured here\" says, and what it is taken from."
import pytest

from cnn_tricks.measure.arms import Arm, Run
from cnn_tricks.measure.compare import Comparison, Ledger
from cnn_tricks.measure.effects import lost_to_correction, main_effect, measured_effects, measured_row
from cnn_tricks.measure.records import record
from cnn_tricks.core.recipe import recipes, tricks
from cnn_tricks.tricks.flip_shift import FlipShift

PLAIN = recipes['fast'].replace(steps=10)


def arm(name, recipe, *accuracies, part='test'):
    runs = [Run(seed, a, a, 10, 1.) for seed, a in enumerate(accuracies)]
    return Arm(name, recipe.to_dict(), runs, part, dict(name='some images', train=1234, test=1000))


def keep(folder, result): record('flip_shift', result, folder)  # the one that the card of flip_shift names


def test_effect_of_a_comparison(tmp_path):
    "All that the row must say: effect, interval, data, network, length, seeds, record."
    base, moved = arm('base', PLAIN, .80, .81, .82), arm('flip_shift', PLAIN + FlipShift(), .83, .84, .86)
    keep(tmp_path, Comparison(base, moved, delta=.01))
    effect, = measured_effects('flip_shift', tmp_path)
    c = effect.comparison
    assert effect.suggested and effect.variant == '' and effect == main_effect('flip_shift', tmp_path)
    assert effect.points == '+3.3 [+1.9 to +4.8]' and c.interval == pytest.approx((.0190, .0477), abs=1e-3)
    line = measured_row('flip_shift', folder=tmp_path)
    for says in ('**helps**: +3.3', 'some images, 1,234 training images', 'network `plain`', '10 steps (equal steps)',
                 '3 seeds', '[record flip_shift](https://'): assert says in line


def test_null_result_has_no_minus_zero(tmp_path):
    base, moved = arm('base', PLAIN, .80, .80, .80), arm('flip_shift', PLAIN + FlipShift(), .8, .8001, .7996)
    keep(tmp_path, Comparison(base, moved, delta=.005))
    effect = main_effect('flip_shift', tmp_path)
    assert effect.verdict == 'no difference beyond 0.5 points' and effect.points.startswith('+0.0 [')


def test_suggested_values_come_before_better_ones(tmp_path):
    base, usual = arm('base', PLAIN, .80, .81, .82), arm('usual', PLAIN + FlipShift(), .80, .82, .82)
    better = arm('p 0.1', PLAIN + FlipShift(p=.1), .90, .90, .90)
    keep(tmp_path, Ledger([Comparison(base, a) for a in (usual, better)]))
    assert main_effect('flip_shift', tmp_path).comparison.trick.name == 'usual'
    keep(tmp_path, Ledger([Comparison(base, a) for a in (better, arm('p 0.2', PLAIN + FlipShift(p=.2), .7, .7, .7))]))
    assert main_effect('flip_shift', tmp_path).variant == '`p 0.1`, the best of 2 variants'


def test_the_best_base_is_what_counts(tmp_path):
    weak, strong = PLAIN.replace(schedule='fixed'), PLAIN
    def pair(r, low, high): return Comparison(arm('base', r, *[low]*3), arm('moved', r + FlipShift(), *[high]*3))
    keep(tmp_path, dict(weak=pair(weak, .6, .7), strong=pair(strong, .8, .8)))
    assert [e.place for e in measured_effects('flip_shift', tmp_path)] == ['weak', 'strong']
    assert main_effect('flip_shift', tmp_path).place == 'strong'


def test_what_is_no_effect_of_the_trick(tmp_path):
    "Another part of the data, another difference beside the trick, no record, or one of another kind: nothing is said."
    base, moved = arm('base', PLAIN, .8, .8, .8), PLAIN + FlipShift()
    other = [arm('x', moved.replace(schedule='fixed'), .9, .9, .9), arm('x', PLAIN, .9, .9, .9)]
    keep(tmp_path, Ledger([Comparison(base, a) for a in other]))
    assert measured_effects('flip_shift', tmp_path) == [] and measured_row('flip_shift', folder=tmp_path) == ''
    shifted = [arm(n, r, .8, .8, .8, part='moved 2') for n, r in (('base', PLAIN), ('x', moved))]
    keep(tmp_path, Comparison(*shifted))
    assert main_effect('flip_shift', tmp_path) is None
    (tmp_path/'flip_shift.json').write_text('{"result": {"kind": "nobody knows"}}')
    assert main_effect('flip_shift', tmp_path) is None
    assert main_effect('flip_shift', tmp_path/'nowhere') is None


def test_a_table_of_many_tricks_corrects_p():
    "By Bonferroni's bound from both sides: what is far from 0.05 stands or falls, nulls are never marked"
    found = {n: e.comparison for n in tricks if (e := main_effect(n))}
    lost, most = lost_to_correction(tricks), len(found)
    assert lost and all(found[n].verdict.sure and found[n].p*most >= .05 for n in lost)
    assert not lost & {n for n, c in found.items() if c.p*most < .05} and lost_to_correction(['batch_norm']) == set()
    assert all(n in lost for n, c in found.items() if c.verdict.sure and c.p > .02)
