"The audit: its splits, its plan, its rates, its ledger, what it recommends. Its statistics: test_boundary.py."
import json, re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import cnn_tricks.studies.audit_job as job_module
import cnn_tricks.studies.audit_prepare as prepare_module
from cnn_tricks.base.registry import import_modules
from cnn_tricks.core import run_control as control
from cnn_tricks.measure import repeated_runs as arms, records
from cnn_tricks.measure.arms import Arm, Run
from cnn_tricks.studies.audit import audit
from cnn_tricks.studies.audit_plan import TooShort, make_plan, promise, usable
from cnn_tricks.measure.statistics import corrected_t
from cnn_tricks.measure.test_reads import earlier_reads, log_beside, log_read
from cnn_tricks.studies.audit_boundary import FIRST, OUTCOMES, level
from cnn_tricks.studies.audit_rates import RUNS, tuned_rate
from cnn_tricks.studies.audit_result import Audit, lesson_of, packed
from cnn_tricks.studies.audit_splits import Splits
from cnn_tricks.core.recipe import Recipe, recipes, tricks
from cnn_tricks.data.datasets import embedded
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


# the plan

def test_plan_spends_the_minutes():
    for minutes in (.5, 1, 3, 10, 60, 600):
        for moves in ([False]*20, [True, False]*10):
            p = make_plan(minutes, 5., 7., .5, .2, moves)
            tuned = sum(moves[:p.tricks])
            runs = (p.tricks + 1)*(p.rounds + 1) + 2*p.pairs + RUNS*(tuned + bool(tuned))
            assert runs*(p.seconds + .2) <= 60*minutes - 5 + 1e-6 and .5 <= p.seconds <= 7 and FIRST <= p.rounds <= p.most <= 20
    assert make_plan(600, 5., 7., .5, .2, [False]*20).tricks == 20 and make_plan(600, 5., 7., .5, .2, [False]*20).seconds == 7
    assert make_plan(3, 5., 7., .5, .2, [True]*20).seconds < make_plan(3, 5., 7., .5, .2, [False]*20).seconds
    assert make_plan(20, 5., 7., .5, .2, [True]*20).tricks < make_plan(20, 5., 7., .5, .2, [False]*20).tricks


def test_a_recipe_that_fine_tunes_is_confirmed_at_its_own_length():
    long, short = (make_plan(m, 5., 60., 6., .5, [False]*10, confirm=True) for m in (60, 10))
    assert long.last == 60 and long.seconds < 60 and short.seconds < short.last < 60 and short.rounds >= FIRST
    for p, minutes in ((long, 60), (short, 10)):
        rounds = (p.tricks + 1)*(p.rounds + 1)*(p.seconds + .5)
        assert rounds + 2*FIRST*(p.last + .5) <= 60*minutes - 5 + 1e-6
    assert make_plan(10, 5., 60., 6., .5, [False]*10).last == make_plan(10, 5., 60., 6., .5, [False]*10).seconds


def test_plan_says_how_many_minutes_it_takes():
    for moves in ([False]*3, [True]*3):
        with pytest.raises(TooShort, match='about') as e: make_plan(.1, 2., 7., .5, .2, moves)
        need = float(re.search(r'about ([\d.]+) minutes', str(e.value))[1])
        assert make_plan(need, 2., 7., .5, .2, moves).tricks == 1


def test_a_trick_says_whether_it_moves_the_rate():
    import_modules()
    moving = {n for n in tricks.names() if tricks[n].moves_lr}
    assert {'optimizer', 'batch_size', 'accumulate', 'batch_norm', 'group_norm', 'activation', 'kaiming_init', 'lsuv', 'one_cycle',
            'warmup'} <= moving and not {'mixup', 'ema', 'label_smoothing', 'flip_shift'} & moving


# splits and rates

def rows(part): return {x.numpy().tobytes() for x in part.x}


@pytest.mark.parametrize('aside', [False, True])
def test_each_seed_has_a_split_of_its_own(data, aside):
    s = Splits(data, aside, 9)
    first, again, other = s.round(1), Splits(data, aside, 9).round(1), s.round(2)
    assert first.fingerprint == again.fingerprint != other.fingerprint and s.round(2) is other
    pool = rows(data.train) | rows(data.valid)
    for split in first, other:
        assert rows(split.train) | rows(split.valid) == pool and len(split.valid) == s.valid <= len(pool)/5
        assert len(split.train) + len(split.valid) == len(data.train) + len(data.valid) and split.test is data.test
    assert rows(first.valid) != rows(other.valid)


def test_what_is_set_aside_judges_nothing(data):
    s = Splits(data, True, 9)
    aside = rows(s.tuning.valid)
    assert aside and not aside & rows(s.tuning.train)
    for seed in range(8): assert not aside & rows(s.round(seed).valid) and aside <= rows(s.round(seed).train)
    n = len(data.train) + len(data.valid)
    assert Splits(data).correction == pytest.approx(s.valid/(n - s.valid))
    assert s.correction == pytest.approx(s.valid/(n - len(s.tuning.valid) - s.valid))


def test_rates_are_tuned_over_seeds_and_diverging_ones_are_out(data, monkeypatch):
    import cnn_tricks.studies.audit_rates as rates
    def run(recipe, data, seed, *args):
        return Run(seed, 0., .5 + .1*(recipe.lr < .005) + .01*seed, 1, diverged='x' if recipe.lr < .005 and seed == 4 else '')
    monkeypatch.setattr(rates, 'run_once', run)
    best, tried = tuned_rate(TINY, data, 2)
    assert best == TINY.lr and [t[1] for t in tried] == [None, pytest.approx(.53), pytest.approx(.53)]
    best, tried = tuned_rate(TINY, data, 5)
    assert best == pytest.approx(TINY.lr/3) and tried[0][1] == pytest.approx(.66)
    monkeypatch.setattr(rates, 'run_once', lambda r, d, seed, *a: Run(seed, 0., .5, 1, diverged='x'))
    assert tuned_rate(TINY, data, 2)[0] is None


@pytest.mark.parametrize('weights, said', [
    ('fashion', 'these very images'), ('rotation', 'these very images'), ('timm/tf_efficientnet_lite0', '')])
def test_weights_that_have_seen_these_images_are_refused(weights, said):
    refused = usable(Recipe(steps=4), embedded().subset(200), [tricks['fine_tune'](weights=weights)])[1]
    assert said in refused['fine_tune'] if said else not refused


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
    assert a.finished and a.rounds >= FIRST and [arm.name for arm in a.arms] == ['base', *[t.name for t in usable(TINY, data, PAIR)[0]]][:len(a.arms)] and len(a.arms) >= 2
    assert a.rounds <= 4 and a.base.steps == TINY.steps and not a.refused
    assert a.base.seeds[:3] == (42, 43, 44) and a.analysed == [[4, 1]] and not a.tuned and not a.plan['aside']
    assert all(arm.seeds == a.base.seeds[:len(arm)] for arm in a.arms[1:])
    assert {c.verdict for c in a.comparisons} <= set(OUTCOMES) and len(a.rows()) == len(a.arms) - 1
    assert bool(a.final) == bool(a.helping) and all(arm.part == 'valid' for arm in a.arms)
    assert a.recipe == TINY or {t.name for t in a.recipe.tricks} == set(a.helping) - set(a.clash)
    assert all(len(c) == a.rounds + 1 for c in a.costs.values()) # before the rounds, and in each of them
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
    for module in job_module, prepare_module, arms, control: monkeypatch.setattr(module, 'time', c)
    before = control.RunControl.before_batch
    def before_batch(self):
        if self.training: c.now += c.step
        return before(self)
    monkeypatch.setattr(control.RunControl, 'before_batch', before_batch)
    return c


def test_minutes_are_kept(clock, data):
    a = audit(data, TINY.replace(steps=24), PAIR, minutes=.24)
    assert a.finished and not a.refused and len(a.arms) == 3 and a.spent == pytest.approx(clock.now)
    assert a.base.steps == 24 and a.base.step_seconds == pytest.approx(.01)
    assert a.spent <= 14.4*1.1
    left = 14.4 - a.spent
    assert a.rounds in (a.plan['rounds'], a.plan['most']) or a.left.keys() >= set(PAIR) or left < 11*.24 # a round and the shortest last check


def test_fewer_tricks_where_runs_take_longer_than_planned(clock, data):
    "The machine becomes three times as slow once the plan is made: a trick is dropped, and the seeds stay."
    def tell(what, a):
        if what == 'round 1': clock.step = .03
    a = audit(data, TINY.replace(steps=24), PAIR, minutes=.2, tell=tell)
    assert a.finished and len(a.arms) == 2 and list(a.refused.values()) == ['no time: the runs took longer than planned']
    assert a.rounds >= FIRST and a.spent <= 12*1.1 and a.analysed


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
    r = train_again(done.arms[1], data)
    assert r == done.arms[1].runs[1].accuracy


def train_again(arm, data):
    from cnn_tricks.core.train import train
    run = arm.runs[1]
    return train(Recipe.from_dict(arm.recipe).replace(steps=run.steps), Splits(data).round(run.seed), run.seed, progress=False).accuracy


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
    (dict(minutes=0), 'minutes=0'), (dict(rounds=3), 'rounds=3'), (dict(metric='acuracy'), 'accuracy'), (dict(equal='epochs'), 'equal='), (dict(rounds=21), 'rounds=21'), (dict(rounds=4.), 'rounds=4.0'),
    (dict(minutes=float('nan')), 'minutes=nan'), (dict(delta=0), 'delta=0'), (dict(tricks=['mixp']), 'mixp'),
    (dict(tricks=[]), 'none can be tried'), (dict(base=TINY + tricks['mixup'](), tricks=['mixup', 'cutmix'], minutes=1e-3), 'too short'),
    (dict(tricks=['one_cycle']), 'already')])
def test_bad_arguments(data, kwargs, says):
    with pytest.raises(ValueError, match=says): audit(data, **dict(base=TINY, tricks=PAIR, minutes=.1) | kwargs)


def test_needs_images_to_validate_and_to_test(data):
    for part in 'valid', 'test':
        with pytest.raises(ValueError, match=f'no {part} images'): audit(replace(data, **{part: data.valid[:0]}), TINY, PAIR, .1)


# the test images, and what an audit writes down about them

def test_reads_are_counted_beside_the_folder(data, tmp_path):
    log = log_beside(tmp_path/'photos')
    assert log == tmp_path/'photos.test_reads.json' and earlier_reads(log, data) == 0
    for n in (1, 2):
        log_read(log, data, 'audit')
        assert earlier_reads(log, data) == n and earlier_reads(log, replace(data, test=data.test[:5])) == 0
    log.write_text('{')
    assert earlier_reads(log, data) == 0


def test_diverging_runs(data, monkeypatch):
    "A trick that diverges in any round is dropped, and said to; a recipe that does so ends the audit, and its file stays"
    real = job_module.run_once
    def run(recipe, data, seed, *args):
        r = real(recipe, data, seed, *args)
        return replace(r, diverged='the loss is nan at step 3') if diverges(recipe, seed) else r
    monkeypatch.setattr(job_module, 'run_once', run)
    diverges = lambda r, seed: r.tricks and r.tricks[-1].name == 'mixup' and seed == 43
    a = audit(data, TINY, PAIR, **BUDGET)
    assert a.refused == {'mixup': 'diverges: the loss is nan at step 3'} and [arm.name for arm in a.arms] == ['base', 'label_smoothing']
    assert 'mixup' in a.table().markdown and a.finished
    diverges = lambda r, seed: not r.tricks
    with pytest.raises(ValueError, match='base: the recipe diverges.*step 3'): audit(data, TINY, PAIR, **BUDGET)


def test_a_trick_that_moves_the_rate_is_tuned_and_so_is_the_base(data):
    a = audit(data, TINY, ['optimizer'], **BUDGET)
    assert set(a.tuned) == {'base', 'optimizer'} and a.plan['aside'] and all(len(t) == 3 for t in a.tuned.values())
    for arm in a.arms:
        good = [t for t in a.tuned[arm.name] if t[1] is not None]
        assert arm.recipe['lr'] == max(good, key=lambda t: t[1])[0] in [t[0] for t in arm.lrs]
    assert any('chosen on another seed' in n for n in a.notes())


# with known truth: runs that are drawn

def drawn(gains, sd=.004, delta=.01, rounds=4):
    "An `Audit` whose runs are drawn: a base, and a trick for each gain."
    rng = np.random.default_rng(5)
    def arm(name, gain, trick=()): return Arm(name, TINY.replace(tricks=trick).to_dict(), [
        Run(42 + i, .8 + gain + sd*z, .8, 30, .5) for i, z in enumerate(rng.standard_normal(rounds))], 'valid',
        dict(name='drawn', fingerprint='', train=100, valid=5000, test=400), {}, [], .01)
    chosen = [tricks[n]() for n in ('mixup', 'cutmix', 'ema', 'label_smoothing')[:len(gains)]]
    arms = [arm('base', 0), *(arm(t.name, g, (t,)) for t, g in zip(chosen, gains))]
    asked = dict(base=TINY.to_dict(), tricks=None, minutes=1., delta=delta, seed=42, data={}, metric='accuracy', equal='seconds')
    plan = dict(tricks=len(gains), most=8, rounds=8, pairs=3, seconds=.5, full=1., last=.5, correction=.1, steps=30, last_steps=30,
                own_steps=30, aside=False)
    return Audit(asked, arms, plan, rounds=rounds)


def checked(a, gain, images=400, n=4):
    "The same with a last check, in which the recipe with what helps is right on so many more of the images"
    rng = np.random.default_rng(1)
    base = [rng.random(images) < .6 for _ in range(n)]
    trick = [b | (rng.random(images) < 2.5*gain) if gain > 0 else b & (rng.random(images) > -gain) for b in base]
    a.right = {'base': [packed(b) for b in base], 'with what helps': [packed(t) for t in trick]}
    arm = lambda old, name, rows: replace(old, name=name, part='test', runs=[Run(i, r.mean().item(), .8, 30, .5) for i, r in enumerate(rows)])
    a.final = [arm(a.arms[0], 'base', base), arm(a.arms[1], 'with what helps', trick)]
    return a


def test_answers_leave_and_stay_as_they_were():
    a = drawn([.2, -.2, .004], rounds=6)
    a.rounds = 4
    assert a.interim_analysis(.2) == ['ema'] and a.left['mixup'] == a.left['cutmix'] == 4
    first = a['mixup'].interval
    a.rounds = 6
    a.interim_analysis(.6)
    assert a['mixup'].interval == first and len(a['mixup'].base) == 4 and len(a['ema'].base) == 6
    assert a.helping == ['mixup'] and a['cutmix'].verdict == 'hurts' and 'mixup' in a.answer()


def test_interval_by_hand():
    "Student's at the trick's own share of the chance of an error, corrected for shared images"
    a = drawn([.01, .02], sd=.01)
    before = a['mixup'].interval
    a.interim_analysis(.6)
    assert before == (-np.inf, np.inf)
    for arm in a.arms[1:]:
        d = arm.accuracies - a.base.accuracies
        half = stats.t.ppf(1 - .05*.6/2/2, 3)*d.std(ddof=1)*(1/4 + .1)**.5
        assert np.allclose(a[arm.name].interval, (d.mean() - half, d.mean() + half))
        assert np.allclose(a[arm.name].interval, corrected_t(d, 5000*10, 5000, level(2, .6))[1:3])


def test_recipe_is_the_base_unless_the_last_check_says_it_helps():
    a = drawn([.2])
    a.interim_analysis(.8)
    assert a.recipe == TINY # not checked yet
    checked(a, .2)
    assert [t.name for t in a.recipe.tricks] == ['mixup'] and a.check.verdict == 'helps' and 'test images' in a.answer()
    assert 'stays as it was' not in a.answer()
    for gain in (.01, 0, -.2): # undecided, nothing, hurts
        checked(a, gain)
        assert a.recipe == TINY and 'stays as it was' in a.answer(), gain
    checked(a, .2).final[1].runs[0].diverged = 'nan'
    assert a.recipe == TINY


def test_the_last_check_knows_how_few_the_images_are():
    "Seeds that agree on the same 400 images: the interval is that of other images, as McNemar's test has it"
    a = drawn([.2])
    a.interim_analysis(.8)
    checked(a, .2)
    base, trick = (np.array([np.unpackbits(np.frombuffer(bytes.fromhex(r), np.uint8))[:400] for r in a.right[n]]).astype(float)
                   for n in ('base', 'with what helps'))
    gain, d = (trick - base).mean(0), a.check.differences
    error = (d.var(ddof=1)/4 + gain.var(ddof=1)/400)**.5
    half = stats.t.ppf(.975, 3)*error
    assert np.allclose(a.check.interval, (d.mean() - half, d.mean() + half))


def test_seeds_that_agree_are_no_certainty():
    "On 50 images no interval is narrower than one of them, however alike the seeds came out."
    a = drawn([.02, .02], sd=0)
    for arm in a.arms: arm.data['valid'] = 50
    a.interim_analysis(.8)
    for c in a.comparisons:
        low, high = c.interval
        assert c.sd < 1e-9 and high - low > 1/50 and c.verdict == 'undecided'


def test_what_a_reader_must_know():
    a = drawn([.2])
    a.twins, a.reads = {'test in train': 3}, 2
    assert '3 of test have a twin in train' in a.notes()[0] and len(a.notes()) == 1 # the test images were not read yet
    a.interim_analysis(.8)
    assert any('read 2 times before' in n for n in checked(a, .2).notes())
