"The audit: its statistics against scipy and loops, its plan, its ledger, and the command as a user runs it."
import json, re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import cnn_tricks.studies.audit as audit_module
from cnn_tricks.measure import repeated_runs as arms, records
from cnn_tricks.core import run_control as control
from cnn_tricks.measure.arms import Arm, Run
from cnn_tricks.studies.audit import audit
from cnn_tricks.studies.audit_plan import TooShort, make_plan, promise, usable
from cnn_tricks.studies.audit_result import CONTROL, Audit, Audited, lesson_of
from cnn_tricks.studies.audit_boundary import FIRST, OUTCOMES, Sums, boundary, judge, shared_spread, simulate_audits
from cnn_tricks.core.recipe import Recipe, recipes, tricks
from cnn_tricks.data.drawn_shapes import shapes

TINY = Recipe(network='resnet', network_args={'width': 4, 'blocks': [0, 1], 'grid': 2}, optimizer='adamw', lr=0.01,
              schedule='one_cycle', batch_size=32, steps=12)
PAIR = ['label_smoothing', 'mixup']
BUDGET = dict(minutes=60., rounds=4) # ends after four seeds; a busy machine only takes longer over them


@pytest.fixture(scope='module')
def data(): return shapes(n=300, size=12)


@pytest.fixture(scope='module')
def found(data, tmp_path_factory):
    "A finished audit, its file, and what it said on the way."
    said, path = [], tmp_path_factory.mktemp('audit')/'ledger.json'
    a = audit(data, TINY, PAIR, **BUDGET, path=path, tell=lambda what, a: said.append((what, a.spent)))
    return a, path, said


# statistics

def test_judge_says_what_a_comparison_says():
    rng = np.random.default_rng(0)
    ends = np.sort(rng.normal(0, .02, (200, 2)), 1)
    for (low, high), code in zip(ends, judge(*ends.T, .01)):
        c = Audited(*(Arm(n, {}, [Run(i, v, v, 1) for i, v in enumerate(x)]) for n, x in (('a', [0, 0]), ('b', [(low + high)/2]*2))),
                    .01, 'seconds', (high - low)/2*2**.5, 1.)
        assert np.allclose(c.interval, (low, high)) and c.verdict == OUTCOMES[code]


def test_sums_are_those_of_numpy():
    x = np.random.default_rng(1).normal(size=(5, 4, 3))
    sums = Sums(4, 3)
    for d in x: sums.add(d)
    assert np.allclose(sums.mean, x.mean(0)) and np.allclose(sums.spread, x.std(0, ddof=1))


def test_boundary_of_one_trick_and_one_analysis_is_students():
    for alpha in .05, .2:
        assert abs(boundary(1, FIRST, alpha, 200_000)[1][FIRST]/stats.t.ppf(1 - alpha/2, FIRST - 1) - 1) < .03


def test_boundary_holds_its_promise_on_other_draws():
    "The share of simulated audits, drawn with another generator, in which any interval at any analysis misses 0"
    arms, most = 5, 8
    going, last = boundary(arms, most)
    rng, wrong = np.random.default_rng(77), 0
    for _ in range(3000):
        x = rng.standard_normal((arms, most)) - rng.standard_normal(most)
        for n in range(FIRST, most + 1):
            own = x[:, :n].std(1, ddof=1)
            factor = (last if n == most else going)[n]
            if (abs(x[:, :n].mean(1)) > factor*shared_spread(own)/n**.5).any():
                wrong += 1
                break
    assert .015 < wrong/3000 <= .05  # below it: the simulation leaves room for tricks that are wilder than others
    assert all(last[n] <= going[n] for n in going)
    with pytest.raises(ValueError, match='at least'): boundary(0, 5)


def test_useless_tricks_and_useful_ones():
    none = simulate_audits([0]*6, .008, 5, seed=3)['verdict']
    assert np.isin(none, (1, 2)).any(1).mean() <= .05
    assert (simulate_audits([0]*6, .008, 5, seed=3, corrected=False)['verdict'] == 1).any(1).mean() > .1
    one = simulate_audits([.04, 0, 0, -.04], .008, 5, seed=3)
    assert (one['verdict'][:, 0] == 1).mean() > .95 and (one['verdict'][:, 3] == 2).mean() > .95
    assert one['seeds'].min() >= FIRST and one['seeds'].max() <= 10


# the plan

def test_plan_spends_the_minutes():
    for minutes in (.5, 1, 3, 10, 60, 600):
        p = make_plan(minutes, 5., 7., .5, .2, 20)
        runs = (p.tricks + 2)*(p.rounds + 1) + 2*p.pairs
        assert runs*(p.seconds + .2) <= 60*minutes - 5 + 1e-6 and .5 <= p.seconds <= 7 and FIRST <= p.rounds <= p.most <= 20
    assert make_plan(600, 5., 7., .5, .2, 20).tricks == 20 and make_plan(600, 5., 7., .5, .2, 20).seconds == 7


def test_plan_says_how_many_minutes_it_takes():
    with pytest.raises(TooShort, match='about') as e: make_plan(.1, 2., 7., .5, .2, 3)
    need = float(re.search(r'about ([\d.]+) minutes', str(e.value))[1])
    assert make_plan(need, 2., 7., .5, .2, 3).tricks == 1


def test_usable(data):
    good, refused = usable(recipes['fast'], data)
    names = [t.name for t in good]
    assert set(names) | set(refused) == set(tricks.names()) and not set(names) & set(refused)
    for name in 'one_cycle', 'channels_last', 'batch_norm': assert 'already' in refused[name]
    gains = [promise(t, 'plain') for t in good]
    assert gains == sorted(gains, reverse=True) and gains[0] > 0 > gains[-1]
    assert 'one_cycle' in [t.name for t in usable(recipes['baseline'], shapes(n=60, size=20))[0]]
    with pytest.raises(ValueError, match='twice'): usable(TINY, data, ['mixup', 'mixup'])
    with pytest.raises(ValueError, match="unknown trick 'mixp'"): usable(TINY, data, ['mixp'])
    with pytest.raises(TypeError, match='neither'): usable(TINY, data, [3])


def test_lesson_of(): assert lesson_of('flip_shift') == '02_recipe' and lesson_of('one_cycle') == '23_schedule' and lesson_of('no such') == ''


# an audit

def test_audit(found, data):
    a, path, said = found
    assert a.finished and a.rounds >= FIRST and [arm.name for arm in a.arms] == ['base', CONTROL, *[t.name for t in usable(TINY, data, PAIR)[0]]][:len(a.arms)] and len(a.arms) >= 3
    assert a.rounds <= 4 and a.base.steps == TINY.steps and not a.refused
    assert a.base.seeds[:3] == (42, 43, 44) and a.arms[1].seeds[:3] == (1042, 1043, 1044)
    assert all(arm.seeds == a.base.seeds[:len(arm)] for arm in a.arms[2:])
    assert {c.verdict for c in a.comparisons} <= set(OUTCOMES) and len(a.rows()) == len(a.arms) - 1
    assert bool(a.final) == bool(a.helping) and all(arm.part == 'valid' for arm in a.arms)
    assert {t.name for t in a.recipe.tricks} == set(a.helping) - set(a.clash) and a.recipe.steps == TINY.steps
    assert not a.stale and a.about['versions']['cnn_tricks']
    for text in a._repr_markdown_(), repr(a): assert ' tried. ' in text
    assert [w for w, _ in said if w.startswith('round')]


def test_ledger_reads_back(found):
    a, path, _ = found
    again = Audit.load(path)
    assert again == a and again.rows() == a.rows() and again.answer() == a.answer()
    json.loads(path.read_text(), parse_constant=lambda s: pytest.fail(f'{s} is no JSON'))


def test_code_is_read_once(found, monkeypatch):
    "Each module that an audit depends on is parsed once to tell whether it has changed, not once for each of the others."
    a, _, _ = found
    parsed = []
    real = records.code_hash
    monkeypatch.setattr(records, 'code_hash', lambda source: parsed.append(source) or real(source))
    assert not a.stale and len(parsed) == len(set(parsed)) == len(a.about['code']) > 10
    one = sorted(a.about['code'])[3]
    assert replace(a, about=a.about | dict(code=a.about['code'] | {one: '0'*12})).stale == [one]


# the minutes, by a clock that only training moves

@pytest.fixture
def clock(monkeypatch):
    "Every step of training takes `clock.step` seconds, and nothing else takes any."
    c = SimpleNamespace(now=0., step=.01)
    c.perf_counter = c.monotonic = lambda: c.now
    for module in audit_module, arms, control: monkeypatch.setattr(module, 'time', c)
    before = control.RunControl.before_batch
    def before_batch(self):
        if self.training: c.now += c.step
        return before(self)
    monkeypatch.setattr(control.RunControl, 'before_batch', before_batch)
    return c


def test_minutes_are_kept(clock, data):
    a = audit(data, TINY.replace(steps=24), PAIR, minutes=.24)
    assert a.finished and not a.refused and len(a.arms) == 4 and a.spent == pytest.approx(clock.now)
    assert a.base.steps == 24 and a.base.step_seconds == pytest.approx(.01)
    left, one = 14.4 - a.spent, .24
    assert left >= 0 and (left < 15*one or a.rounds == a.plan['most'] or a.left.keys() >= set(PAIR))


def test_fewer_tricks_where_runs_take_longer_than_planned(clock, data):
    "The machine becomes three times as slow once the plan is made: a trick is dropped, and the seeds stay."
    def tell(what, a):
        if what == 'round 1': clock.step = .03
    a = audit(data, TINY.replace(steps=24), PAIR, minutes=.24, tell=tell)
    assert a.finished and len(a.arms) == 3 and list(a.refused.values()) == ['no time: the runs took longer than planned']
    assert a.rounds >= FIRST and a.spent <= 14.4


def test_too_slow_a_machine(clock, data):
    clock.step = 1.
    with pytest.raises(TooShort, match=r'minutes=0\.5: .* about [\d.]+ minutes'): audit(data, TINY, PAIR, minutes=.5)


def test_finished_audit_goes_on_to_nothing(found, data):
    a, path, _ = found
    before = path.read_bytes()
    assert audit(data, TINY, PAIR, **BUDGET, path=path).rows() == a.rows()
    assert json.loads(before)['arms'] == json.loads(path.read_text())['arms']


def test_stopped_and_resumed(found, data, tmp_path):
    "Runs are kept one by one; what goes on makes none of them again, and each is what it would have been, to the bit."
    a, _, _ = found
    def stop(what, a):
        if what.startswith(f'{PAIR[0]}, seed 43'): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): audit(data, TINY, PAIR, **BUDGET, path=tmp_path/'l.json', tell=stop)
    kept = Audit.load(tmp_path/'l.json')
    assert kept.rounds == 1 and not kept.finished and 'nothing can be said' in kept.answer()
    done = audit(data, TINY, PAIR, **BUDGET, path=tmp_path/'l.json')
    assert done.finished and [arm.runs[:len(k)] for arm, k in zip(done.arms, kept.arms, strict=True)] == [k.runs for k in kept.arms]
    r = train_again(done.arms[2], data)
    assert r == done.arms[2].runs[1].accuracy


def train_again(arm, data):
    from cnn_tricks.core.train import train
    return train(Recipe.from_dict(arm.recipe), data, arm.runs[1].seed, progress=False).accuracy


@pytest.mark.parametrize('change,says', [
    (dict(minutes=.2), 'minutes was'), (dict(rounds=5), 'rounds was'), (dict(delta=.02), 'delta was'), (dict(seed=1), 'seed was'), (dict(tricks=['mixup']), 'tricks was'),
    (dict(base=TINY.replace(lr=.02)), 'base was')])
def test_another_audits_ledger(found, data, change, says):
    _, path, _ = found
    before = path.read_bytes()
    with pytest.raises(ValueError, match=says): audit(data, **dict(base=TINY, tricks=PAIR, path=path, **BUDGET) | change)
    assert path.read_bytes() == before


def test_other_images_and_broken_ledgers(found, data, tmp_path):
    _, path, _ = found
    with pytest.raises(ValueError, match='images are others'): audit(shapes(n=300, size=12, seed=9), TINY, PAIR, **BUDGET, path=path)
    for i, text in enumerate(('', '{"kind": "audit"', '[]', '{"kind": "ledger"}', '{"kind": "audit", "colour": 1}')):
        broken = tmp_path/f'{i}.json'
        broken.write_text(text)
        with pytest.raises(ValueError, match='cannot be read as an audit'): audit(data, TINY, PAIR, **BUDGET, path=broken)
        assert broken.read_text() == text


@pytest.mark.parametrize('kwargs,says', [
    (dict(minutes=0), 'minutes=0'), (dict(rounds=2), 'rounds=2'), (dict(rounds=21), 'rounds=21'), (dict(rounds=4.), 'rounds=4.0'),
    (dict(minutes=float('nan')), 'minutes=nan'), (dict(delta=0), 'delta=0'), (dict(tricks=['mixp']), 'mixp'),
    (dict(tricks=[]), 'none can be tried'), (dict(base=TINY + tricks['mixup'](), tricks=['mixup', 'cutmix'], minutes=1e-3), 'too short'),
    (dict(tricks=['one_cycle']), 'already')])
def test_bad_arguments(data, kwargs, says):
    with pytest.raises(ValueError, match=says): audit(data, **dict(base=TINY, tricks=PAIR, minutes=.1) | kwargs)


def test_needs_images_to_validate_and_to_test(data):
    for part in 'valid', 'test':
        with pytest.raises(ValueError, match=f'no {part} images'): audit(replace(data, **{part: data.valid[:0]}), TINY, PAIR, .1)


# with known truth: runs that are drawn

def drawn(gains, sd=.004, delta=.01, rounds=4):
    "An `Audit` whose runs are drawn: a base, a control, and a trick for each gain."
    rng = np.random.default_rng(5)
    def arm(name, gain, trick=()): return Arm(name, TINY.replace(tricks=trick).to_dict(), [
        Run(42 + i, .8 + gain + sd*z, .8, 30, .5) for i, z in enumerate(rng.standard_normal(rounds))], 'valid',
        dict(name='drawn', fingerprint='', train=100, valid=5000, test=5000), {}, [], .01)
    chosen = [tricks[n]() for n in ('mixup', 'cutmix', 'ema', 'label_smoothing')[:len(gains)]]
    arms = [arm('base', 0), arm(CONTROL, 0), *(arm(t.name, g, (t,)) for t, g in zip(chosen, gains))]
    return Audit(dict(base=TINY.to_dict(), tricks=None, minutes=1., delta=delta, seed=42, data={}), arms,
                 dict(tricks=len(gains), most=8, rounds=4, pairs=3, seconds=.5, full=1.), rounds=rounds)


def test_answers_leave_and_stay_as_they_were():
    a = drawn([.2, -.2, .005], rounds=5)
    a.rounds = 3
    assert a.interim_analysis() == ['ema'] and a.left['mixup'] == a.left['cutmix'] == 3
    first = a['mixup'].interval
    a.rounds = 5
    a.interim_analysis()
    assert a['mixup'].interval == first and len(a['mixup'].base) == 3
    assert a.helping == ['mixup'] and a['cutmix'].verdict == 'hurts' and 'mixup' in a.answer()


def test_interval_by_hand():
    a = drawn([.01, .02])
    own = [np.std(arm.accuracies - a.base.accuracies, ddof=1) for arm in a.arms[1:]]
    for arm, s in zip(a.arms[1:], own):
        half = boundary(3, 8)[0][4]*max(s, np.median(own))/2
        d = (arm.accuracies - a.base.accuracies).mean()
        assert np.allclose(a[arm.name].interval, (d - half, d + half))
    wide = a['mixup'].interval
    a.ended = True
    assert a['mixup'].interval[0] > wide[0]  # the last analysis has more to spend


def test_recipe_is_the_base_where_the_last_check_says_it_hurts():
    a = drawn([.2])
    a.interim_analysis()
    a.final = [replace(a.arms[0], part='test'), replace(a.arms[2], part='test')]
    assert [t.name for t in a.recipe.tricks] == ['mixup'] and a.check.verdict == 'helps' and 'test images' in a.answer()
    a.final = [a.final[0], replace(a.final[1], runs=[replace(r, accuracy=.3) for r in a.final[0].runs])]
    assert a.recipe == TINY


def test_seeds_that_agree_are_no_certainty():
    "On 50 images no interval is narrower than one of them, however alike the seeds came out."
    a = drawn([.02, .02], sd=0)
    for arm in a.arms: arm.data['valid'] = 50
    for c in (a.control, *a.comparisons):
        low, high = c.interval
        assert c.spread < 1e-9 and high - low > 1/50 and c.verdict == 'undecided'
