"Benches: selection and judgement kept apart, resumed and side by side without a trace, words by the corrected p."
import json, math, os, random, signal, subprocess, sys, time
from pathlib import Path

import psutil
import pytest
from bench_images import numbers, small
from common import ROOT

from cnn_tricks.core.recipe import recipes
from cnn_tricks.core.result import Result
from cnn_tricks.measure.bench_driver import Driver, check_again, run_bench
from cnn_tricks.measure.bench_effects import bench_cells, bench_lines
from cnn_tricks.measure.bench_matrix import (cells_of, epochs_to, matrix_figure, matrix_summary, matrix_table,
                                              recorded_benches)
from cnn_tricks.measure.bench_pages import record_table, record_text
from cnn_tricks.measure.bench_plan import bench_plan
from cnn_tricks.measure.bench_record import BenchRecord
from cnn_tricks.measure.bench_run import Task, bench_run
from cnn_tricks.measure.bench_tuning import Grid, search_rates
from cnn_tricks.measure.benches import Change, benches, change_of, draw


def content(path):
    "A record without times, as text."
    d = json.loads(Path(path).read_text())
    for r in d['runs']: r['seconds'] = 0
    for s in d['sessions']: s['date'] = ''
    return json.dumps(d, indent=1)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The record of a bench that nothing has stopped."
    path = tmp_path_factory.mktemp('whole')/'small.json'
    run_bench(small(), path, device='cpu')
    return path


# selection

def test_no_image_that_chose_anything_judges_anything():
    "By the images' numbers: what is trained and validated on, whatever the seed, is never tested on."
    bench = small()
    drawn = {s: draw(bench, s) for s in (*bench.tuning_seeds, *range(bench.seeds))}
    choosing = set().union(*(numbers(d.train) | numbers(d.valid) for d in drawn.values()))
    judging = [numbers(d.test) for d in drawn.values()]
    assert all(j == judging[0] for j in judging) and len(judging[0]) == 90
    assert choosing == set(range(240)) and not choosing & judging[0]
    for d in drawn.values():
        assert len(d.valid) == 60 and not numbers(d.train) & numbers(d.valid)
        assert numbers(d.train) | numbers(d.valid) == set(range(240))
    assert len({frozenset(numbers(d.valid)) for d in drawn.values()}) == len(drawn) # each seed draws its own


@pytest.mark.parametrize('name', ['clothes', 'fashion', 'cifar10', 'photos'])
def test_tuning_has_seeds_of_its_own(name):
    bench = benches[name]
    assert len(bench.tuning_seeds) == 3 and not set(bench.tuning_seeds) & set(range(100))
    assert bench.arms(max(bench.lengths)) and all(c.about for c in bench.changes().values())
    assert bench.seeds >= 5 and bench.recipe == recipes[bench.base] and bench.base == f'bench_{name}'


def test_rates_are_chosen_without_a_look_at_test_images(monkeypatch, tmp_path):
    "The test part is read once for each run that is compared, and never while rates are tried."
    reads, tried = [], []
    monkeypatch.setattr(Result, 'test', lambda self: reads.append(self.seed) or 0.5)
    def told(p): tried.append((p.text, len(reads)))
    run_bench(small(lengths={1: ('sgd',)}), tmp_path/'b.json', device='cpu', tell=told)
    tuning = [(before, n) for (_, before), (text, n) in zip([('', 0), *tried], tried) if 'lr ' in text]
    assert len(tuning) >= 2*(3 + 2 + 3) and all(before == n for before, n in tuning)
    assert reads == [0, 1, 0, 1] # base, then sgd, whose rate is found meanwhile


# resumed, side by side

def test_a_record_goes_on_and_is_left_alone_when_done(whole, tmp_path):
    text = whole.read_text()
    rec = BenchRecord.load(whole)
    assert {(r['arm'], r['epochs'], r['seed']) for r in rec.runs} == {
        (a, e, s) for s in (0, 1) for a, e in [('base', 1), ('base', 3), ('sgd', 1), ('label_smoothing', 1), ('label_smoothing', 3)]}
    run_bench(small(), whole, device='cpu')
    assert whole.read_text() == text
    half = json.loads(text)
    half['runs'] = half['runs'][::2] # as if only these had been made, and committed
    (tmp_path/'half.json').write_text(json.dumps(half))
    run_bench(small(), tmp_path/'half.json', device='cpu')
    assert content(tmp_path/'half.json') == content(whole)
    assert not rec.stale and len(rec.runs[0]['curve']['train_loss']) == 1


def test_two_at_a_time_are_the_same_to_the_bit(whole, tmp_path):
    run_bench(small(), tmp_path/'two.json', jobs=2, device='cpu')
    assert content(tmp_path/'two.json') == content(whole)


def made(path): # runs in a record, tuning included
    if not path.exists(): return 0
    d = json.loads(path.read_text())
    return len(d['runs']) + sum(len(t['valid']) for t in d['tuned'])


@pytest.fixture
def start(whole):
    "A function that starts `bench_images.py`, of files or none."
    started = []

    def start(*files):
        env = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]), 'OMP_NUM_THREADS': '1'}
        command = [sys.executable, '-W', 'ignore', str(ROOT/'tests'/'bench_images.py'), *map(str, files)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env))
        return started[-1]
    yield start
    for p in started: p.kill()


def killed_after(path, runs, pid):
    "SIGKILL as soon as the record has so many runs, whatever time they take."
    p = psutil.Process(pid)
    while made(path) < runs: assert p.is_running() and time.sleep(0.01) is None
    p.kill()


def test_killed_five_times_and_resumed_is_the_same(whole, tmp_path, start):
    "After a random number of runs more; the first time two at a time: the processes beside it end, too."
    path, rng = tmp_path/'killed.json', random.Random(0)
    def next_stop(kill): return made(path) + rng.randint(1, (made(whole) - made(path))//(6 - kill))
    first = start(path)
    while made(path) < 2: assert first.poll() is None and time.sleep(0.01) is None
    beside = psutil.Process(first.pid).children(recursive=True)
    killed_after(path, next_stop(0), first.pid)
    assert first.wait() == -signal.SIGKILL and len(beside) >= 2 and not psutil.wait_procs(beside, timeout=120)[1]
    server = start()
    for kill in range(1, 6):
        print(path, file=server.stdin, flush=True)
        pid = int(server.stdout.readline())
        if kill < 5: killed_after(path, next_stop(kill), pid)
        assert int(server.stdout.readline()) == (signal.SIGKILL if kill < 5 else 0)
    assert content(path) == content(whole)


def test_minutes_begin_nothing_more(tmp_path):
    "No time at all: nothing is begun, nothing is lost."
    driver = Driver(small(), tmp_path/'b.json', minutes=1e-9, device='cpu')
    assert not driver() and not driver.record.runs and not driver.record.tuned


def test_an_arm_that_cannot_be_trained_does_not_end_the_others(tmp_path, monkeypatch):
    "With its own rate or with the base's: the record says why. A base that cannot be trained is an error."
    from cnn_tricks.measure import bench_run as module
    real, bad = module._measured, {'sgd', 'label_smoothing'}
    def fails(task, data):
        if task.arm in bad: raise ValueError(f'{task.arm} is not\nfor these')
        return real(task, data)
    monkeypatch.setattr(module, '_measured', fails)
    rec = run_bench(small(lengths={1: ('label_smoothing', 'sgd', 'ema')}), tmp_path/'b.json', device='cpu')
    assert rec.refused == {a: f'{a} is not for these' for a in bad}
    assert {r['arm'] for r in rec.runs} == {'base', 'ema'} and BenchRecord.load(tmp_path/'b.json').refused == rec.refused
    bad.add('base')
    with pytest.raises(ValueError, match='small: the base cannot be trained: base is not for these'):
        run_bench(small(), tmp_path/'c.json', device='cpu')


def test_records_of_others_are_refused(whole, tmp_path):
    def changed(**kw):
        (tmp_path/'b.json').write_text(json.dumps(json.loads(whole.read_text()) | kw))
        return lambda: Driver(small(), tmp_path/'b.json')
    d = json.loads(whole.read_text())
    with pytest.raises(ValueError, match='another base'): changed(base=d['base'] | {'batch_size': 7})()
    with pytest.raises(ValueError, match='other images'): changed(data=d['data'] | {'fingerprint': 'x'})()
    with pytest.raises(ValueError, match='δ=0.01'): changed(delta=0.01)()
    with pytest.raises(ValueError, match='no record of a bench'): changed(what=1)()
    with pytest.raises(ValueError, match='no arm and no trick'): Driver(small(), tmp_path/'c.json', ('muonn',))
    changed(base=d['base'] | {'lr': 7.})() # rates are found, not part of the name


def test_a_run_made_again_agrees_or_the_record_is_stale(whole, tmp_path):
    (tmp_path/'b.json').write_text(whole.read_text())
    driver = Driver(small(), tmp_path/'b.json', device='cpu')
    assert check_again(driver)['agrees'] and not BenchRecord.load(tmp_path/'b.json').stale
    driver.record.code['core.train'] = 'another'
    driver.record.checks.clear()
    assert driver.record.stale == ['core.train']
    driver.record.find('base', 1, 0)[0]['accuracy'] -= 0.02
    with pytest.raises(ValueError, match='the code has changed, and base, 1 epoch, seed 0 has'): driver()
    assert not driver.record.checks[-1]['agrees'] and driver.record.stale == ['core.train']


# tuning

def quadratic(best): # accuracy is highest at one rate
    return lambda r: 1 - abs(math.log(r.lr/best))


@pytest.mark.parametrize('best,values', [(0.01, 3), (0.1, 5), (1e-4, 7)])
def test_a_grid_is_widened_until_the_best_lies_inside(best, values):
    measured = {}
    def measure(recipes): measured.update({r.lr: r for r in recipes})
    found = search_rates(recipes['bench_small'], ('lr',), measure, quadratic(best))
    assert min(measured) < found.lr < max(measured) and len(measured) == values
    assert abs(math.log(found.lr/best)) < math.log(3)/2 + 0.01


def test_decay_is_tuned_after_the_rate_and_the_rate_again():
    def score(r): return -abs(math.log(r.lr/0.03)) - abs(math.log(r.optimizer_args['weight_decay']*r.lr/0.0027))
    found = search_rates(recipes['bench_small'], ('lr', 'weight_decay'), lambda rs: None, score)
    assert found.lr == 0.03 and found.optimizer_args == {'weight_decay': 0.09}
    flat = Grid(recipes['bench_small'], 'lr')
    assert flat.best(lambda r: 0.5) == 0 and not flat.widen(lambda r: 0.5) # of equal ones the middle


# arms

def test_what_arms_change():
    base = recipes['bench_small']
    assert change_of('muon', base).of(base).tricks[0].to == 'muon' and change_of('muon', base).tuned
    assert change_of('decay', base).of(base).optimizer_args == {'weight_decay': 0.} and change_of('decay', base).without
    has = base.replace(tricks=change_of('ema', base).of(base).tricks)
    assert change_of('ema', has).of(has) == base and change_of('ema', has).without
    with pytest.raises(ValueError, match='the base is the same'): Change().of(base)
    with pytest.raises(ValueError, match="no trick 'ema'"): Change(drop='ema').of(base)


def test_clothes_has_every_trick_that_acts_on_accuracy():
    from cnn_tricks.core.recipe import tricks
    arms = set(benches['clothes'].arms(1))
    cheap = {n for n in tricks.names() if tricks[n].cost_alone}
    assert set(tricks.names()) - arms == cheap | {'optimizer', 'weight_decay', 'fine_tune', 'one_cycle', 'framing'}
    assert {'muon', 'sgd', 'decay'} <= arms and 'precision' in cheap and 'ema' not in cheap


def test_short_runs_get_fresh_statistics(monkeypatch):
    "And long ones do not."
    from cnn_tricks.measure import bench_run as module
    done = []
    monkeypatch.setattr(module, 'recalibrate_bn', lambda m, batches, layers: done.append((len(list(batches)), len(layers))))
    task = Task(small(), 'base', recipes['bench_small'].to_dict(), 2, 0, 'cpu')
    bench_run(task)
    assert done == [(3, 2)] # 22 steps: three batches, two norms
    monkeypatch.setattr(module, 'FEW_STEPS', 22)
    bench_run(task)
    assert len(done) == 1


def test_a_run_that_diverges_counts_as_guessing():
    found = bench_run(Task(small(), 'base', recipes['bench_small'].replace(lr=1e30, optimizer='sgd').to_dict(), 1, 0, 'cpu'))
    assert 'loss became' in found['diverged'] and found['accuracy'] == round(1/3, 6)


# what was recorded

RECORDS = sorted((ROOT/'results'/'benches').glob('*.json'))


@pytest.mark.parametrize('path', RECORDS, ids=[p.stem for p in RECORDS])
def test_recorded_benches(path):
    "Best rates lie inside their grids, over three seeds that judge nothing; a base is frozen at the rates that were found."
    rec, bench = BenchRecord.load(path), benches[path.stem]
    assert rec.text() == path.read_text() and rec.name == bench.name and rec.sessions
    assert {r['seed'] for r in rec.runs}.isdisjoint(bench.tuning_seeds)
    for arm, best in rec.found.items():
        tried = [t for t in rec.tuned if t['arm'] == arm and t['optimizer_args'] == best['optimizer_args']]
        assert min(t['lr'] for t in tried) < best['lr'] < max(t['lr'] for t in tried), arm
        assert all(set(t['valid']) == {str(s) for s in bench.tuning_seeds} for t in tried), arm
        assert rec.recipes[arm] | best == rec.recipes[arm], arm
    if 'base' in rec.found: assert rec.recipes['base'] == bench.recipe.to_dict()


# the plan and the matrix

def test_the_plan_names_arms_seeds_and_hours(whole, tmp_path):
    rows = bench_plan(Driver(small(), tmp_path/'new.json'))
    assert [r['runs'] for r in rows] == [2*(5 + 3), 6, 4] and all(r['hours'] > 0 for r in rows)
    assert rows[1]['arms'] == ['base', 'label_smoothing', 'sgd'] and rows[2]['arms'] == ['base', 'label_smoothing']
    done = bench_plan(Driver(small(), whole))
    assert [r['runs'] for r in done] == [0, 0, 0] and [r['hours'] for r in done] == [0, 0, 0]


def invented(gains, sign=1, noise=(0.001, -0.001, 0.002, -0.002, 0.), n=1000):
    "A record of an arm that gains so much at each length, with this noise."
    rec = BenchRecord('made', {}, dict(name='x', fingerprint='f', train=1, valid=1, test=n), 0.005, 0.85)
    rec.recipes, rec.signs = {'base': {'lr': 1}, 'arm': {'lr': 1}}, {'arm': sign}
    for e, gain in gains.items():
        for s, d in enumerate(noise):
            base = 0.8 + 0.05*math.log2(e)
            for arm, acc in (('base', base), ('arm', base + sign*(gain + d))):
                rec.runs.append(dict(arm=arm, epochs=e, seed=s, accuracy=acc, valid=acc, steps=10*e, seconds=e, curve={},
                                     diverged='', session=0))
    return rec


def test_words_follow_the_corrected_p():
    said = {e: str(c.word) for e, gain in {1: 0.02, 2: 0.0, 4: -0.02, 8: 0.003}.items() for c in cells_of(invented({e: gain}))}
    assert said == {1: 'helps', 2: 'no difference beyond δ', 4: 'hurts', 8: 'helps, by less than δ'}
    wild = (0.03, -0.03, 0.02, -0.02, 0.)
    assert cells_of(invented({1: 0.001}, noise=wild))[0].word == 'undecided'
    # alone it would help; among ten lengths with as much noise it is not sure
    lucky = (0.0, 0.012, 0.024, 0.01, 0.014)
    alone, = cells_of(invented({1: 0.0}, noise=lucky))
    many = dict.fromkeys((1, 2, 4, 8, 16, 32, 64), 0.)
    among = next(c for c in cells_of(invented(many, noise=lucky)) if c.epochs == 1)
    assert alone.low > 0 and alone.word == 'helps' and among.low > 0 and among.p == pytest.approx(alone.p)
    assert among.holm == pytest.approx(7*alone.p) and among.word == 'undecided'


def test_an_arm_that_lacks_what_it_is_named_after_counts_the_other_way_round():
    c, = cells_of(invented({1: 0.02}, sign=-1))
    assert c.difference == pytest.approx(0.02) and c.word == 'helps' and c.base == pytest.approx(0.8)


def test_equal_runs_have_no_interval_narrower_than_the_images():
    c, = cells_of(invented({1: 0.01}, noise=(0.,)*5, n=100))
    assert c.high - c.low >= 0.01 and c.p > 0


def test_seconds_saved_to_the_target():
    "Twice as many epochs are worth five points here, and so the arm needs half of them; its step costs a half more."
    rec = invented({1: 0.05, 2: 0.05, 4: 0.05}, noise=(0., 0.))
    assert epochs_to(rec, 'base') == pytest.approx(2) and math.isnan(epochs_to(rec, 'arm', 0.99))
    assert epochs_to(rec, 'base', 0.875) == pytest.approx(2*2**0.5)
    assert math.isnan(cells_of(rec)[0].saved)
    rec.target = 0.875
    rec.costs = {'base': dict(milliseconds=100., ratios=[1.]), 'arm': dict(milliseconds=150., ratios=[1.4, 1.5, 1.6])}
    saved = cells_of(rec)[0].saved
    assert saved == pytest.approx(10*0.1*(2*2**0.5 - 1.5*2**0.5)) and cells_of(rec)[0].cost == 1.5


def test_the_matrix_is_shown(whole):
    assert 'Not recorded yet.' in matrix_table({}).markdown and matrix_figure({}).text == 'Not recorded yet.'
    rec = invented({1: 0.02, 4: -0.02})
    table = matrix_table({'made': rec}, link='')
    assert table.rows == [{'trick': 'arm', 'made 1': '+2.00 ▲', 'made 4': '−2.00 ▼'}]
    linked = matrix_table({'made': rec}).markdown
    assert '| [made](#made), 1 epoch |' in linked and '<span class="ct-cell ct-helps">+2.00 ▲</span>' in linked
    rec.about = {'arm': 'dropout'}
    assert '[arm](31_dropout.ipynb)' in matrix_table({'made': rec}).markdown
    assert '| `arm` | 1 epoch | +2.00 |' in record_table(rec).markdown
    fig = matrix_figure({'made': rec, 'small': BenchRecord.load(whole)})
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert '+2.00 ▲' in texts and len(texts) == 2 + 3


def kept(folder, **records):
    "Records in a folder, by name."
    for name, rec in records.items():
        rec.name, rec.sessions = name, [dict(date='2026-01-01', machine=dict(name='m', threads=1), versions=dict(torch='2'))]
        rec.save(folder/f'{name}.json')
    return folder


def test_the_front_page_says_what_is_recorded(tmp_path):
    "Nothing, one bench, or two with unlike arms; the largest effect at an arm's longest length comes first."
    assert 'is not recorded yet' in matrix_summary(recorded_benches(tmp_path)).markdown
    one = matrix_summary(recorded_benches(kept(tmp_path, clothes=invented({1: 0.02, 4: -0.02})))).markdown
    assert 'helps by less than δ (0.5 points on clothes)' in one and '[clothes](matrix.ipynb#clothes), 4 epochs' in one and 'fashion' not in one
    assert '*clothes*: 1 training images of x; without a trick 90.00%' in one
    both = invented({1: 0.02, 4: -0.02})
    both.recipes['late'] = both.recipes['arm']
    both.runs += [dict(r, arm='late', accuracy=r['accuracy'] + 0.03) for r in both.find('base', 4)]
    found = recorded_benches(kept(tmp_path, photos=both))
    assert list(found) == ['photos', 'clothes'] # it has more arms
    rows = matrix_table(found, link='').rows
    assert [r['trick'] for r in rows] == ['late', 'arm'] and rows[0]['clothes 1'] == rows[0]['photos 1'] == ''


def test_a_trick_that_has_nothing_to_act_on_is_no_null_result(tmp_path):
    "Where every run is that of the base to the last loss, nothing was measured."
    rec = invented({4: 0.}, noise=(0.,)*5)
    assert not cells_of(rec)[0].idle # without curves nobody knows
    for r in rec.runs: r['curve'] = dict(valid_loss=[0.5, r['seed']])
    cell, = cells_of(rec)
    assert cell.idle and cell.marked == '–' and cell.verdict == 'the same runs'
    assert '–\u00a0the same runs' in matrix_summary({'made': rec}).markdown
    next(r for r in rec.runs if r['arm'] == 'arm')['curve'] = dict(valid_loss=[0.4, 0])
    assert not cells_of(rec)[0].idle and '–\u00a0' not in matrix_summary({'made': rec}).markdown


def test_a_trick_has_a_line_for_each_bench(tmp_path):
    "Of the lengths the longest; an arm with another name is named."
    rec, other = invented({1: 0.02, 4: -0.02}), invented({4: 0.02})
    rec.about, other.about = {'arm': 'optimizer'}, {'arm': 'optimizer'}
    kept(tmp_path, fashion=other, clothes=rec)
    assert [(c.bench, c.epochs, str(c.word)) for c in bench_cells('optimizer', tmp_path)] == [
        ('clothes', 4, 'hurts'), ('fashion', 4, 'helps')]
    line = bench_lines('optimizer', tmp_path)[0]
    for says in ('**hurts**: −2.0 [−2.2 to −1.8]', '`arm`', '[clothes](matrix.ipynb#clothes), 4 epochs, 5 seeds'):
        assert says in line, line
    assert bench_cells('dropout', tmp_path) == []


def test_a_bench_of_one_seed_has_no_spread(tmp_path):
    rec = invented({4: 0.02}, noise=(0.,))
    rec.refused = {'a': 'too big', 'b': 'too big', 'c': 'too small'}
    text = record_text('clothes', kept(tmp_path, clothes=rec)).markdown
    assert '- base, 4 epochs: 90.00%, 1 seed;' in text and 'inf' not in text
    assert '- not run: `a`, `b`: too big\n- not run: `c`: too small' in text
