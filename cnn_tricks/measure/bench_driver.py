"""Runs a bench: tunes the base and what moves its best rate, then every arm over the seeds; stopped, it goes on"""
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..base.machine import default_device
from ..core.recipe import Recipe
from .arm_names import refusal
from .bench_record import BenchRecord, session_now
from .bench_run import Task, bench_run
from .bench_tuning import search_rates
from .bench_workers import perform, workers
from .benches import Bench, change_of, draw, in_epochs, whole_data

__all__ = ['Progress', 'Driver', 'run_bench', 'check_again', 'TOLERANCE']

TOLERANCE = 0.01 # by how much the accuracy of a run that is made again may differ


class _OutOfTime(Exception): pass
class _Refused(Exception): pass


@dataclass
class Progress:
    "How far a bench is"
    record: BenchRecord
    text: str # what was just done
    done: int # runs, tuning included
    total: int # as far as it is known: a grid that is widened makes it larger
    seconds: float # that are left, by what the runs of this bench have taken here; nan before the first


@dataclass
class Driver:
    """The work of a bench on its record; `ValueError` for an unknown arm or length, and for a record of another base or
    other images"""
    bench: Bench
    path: Path # of the record; it need not exist
    names: tuple = () # arms to run; none: all of the bench
    epochs: tuple = () # lengths to run; none: all of the bench
    seeds: int = None # of each arm; None: as many as the bench has
    jobs: int = 1 # runs at a time, one thread each
    device: str = None # torch device; None picks the fastest kind here
    minutes: float = None # after which no run is begun; None: until all is done
    tell: Callable|None = None # called with a `Progress` after each run
    on: Executor|None = None # makes the runs in place of this machine: a `Cluster`; the images are sent to it once
    record: BenchRecord = field(init=False)

    def __post_init__(self):
        b, self.path = self.bench, Path(self.path)
        self.device, self.seeds = str(self.device or default_device()), self.seeds or b.seeds
        self.epochs = tuple(self.epochs or b.lengths)
        if odd := [e for e in self.epochs if e not in b.lengths]:
            there = ', '.join(f'{e:g}' for e in b.lengths)
            raise ValueError(f'{b.name} has no runs of {in_epochs(odd[0])}: one of {there}')
        self.changes = {n: change_of(n, b.recipe) for n in self.names} if self.names else b.changes()
        self.record = BenchRecord.load(self.path) if self.path.exists() else BenchRecord.of(b)
        self.record.check(b)
        self.paces, self.start, self.done, self.pool, self.sent = [], time.monotonic(), 0, None, self.bench

    def lengths(self,
        name:str # of an arm
    )->list:
        "Passes over the images of an arm's runs; an arm that the bench does not name runs at all lengths"
        named = any(name in self.bench.arms(e) for e in self.bench.lengths)
        return [e for e in self.epochs if name == 'base' or not named or name in self.bench.arms(e)]

    def plan(self,
        names:list=None # of arms; None: all
    )->list: # `Task`s: what is not yet recorded of the runs that are compared, seed by seed
        "Base first, short runs first: whatever stops it, there are pairs"
        arms = [n for n in names or ['base', *self.changes] if n not in self.record.refused]
        return [self._task(n, self.record.recipes.get(n), e, s) for s in range(self.seeds) for e in self.epochs
                for n in arms if e in self.lengths(n) and not self.record.find(n, e, s)]

    def _task(self, name, recipe, epochs, seed, part='test'):
        return Task(self.sent, name, recipe, epochs, seed, self.device, part)

    def tuned(self): # -> names of the arms whose rates are looked for, the base first
        "The base, and what moves the best rate"
        return ['base', *(n for n, c in self.changes.items() if c.tuned and n not in self.record.refused)]

    # doing it

    def __call__(self)->bool: # is all of it done?
        "Run what is not yet recorded; `ValueError` where the code has changed and a run made again does not agree"
        if self.record.runs and self.record.stale and not (c := check_again(self))['agrees']:
            raise ValueError(f'{self.path}: the code has changed, and base, {in_epochs(c["epochs"])}, seed {c["seed"]} '
                             f'has {c["now"]} now, {c["was"]} then: start another record')
        if self.on: self.sent = replace(self.bench, images=self.on.send(whole_data(self.bench.images)))
        with nullcontext(self.on) if self.on else workers(self.jobs) as self.pool:
            try: self._work()
            except _OutOfTime: return False
            finally: self.sent = self.bench
        return True

    def _at_a_time(self): # runs
        return self.on.workers() if self.on else self.jobs

    def _work(self):
        bench, rec = self.bench, self.record
        base = self._search('base', bench.recipe, ('lr', 'weight_decay'))
        rec.recipes = {'base': base.to_dict()} | {n: r for n, r in rec.recipes.items() if n != 'base'}
        data = draw(bench, bench.tuning_seeds[0])
        for name, change in self.changes.items():
            try: recipe, why = change.of(base), ''
            except ValueError as e: recipe, why = None, str(e)
            if why := why or refusal(recipe, data, self.device): rec.refused[name] = why
            else: rec.recipes.setdefault(name, recipe.to_dict())
            rec.signs[name], rec.about[name] = -1 if change.without else 1, change.about
        rec.refused |= {n: why for n, why in bench.left_out.items() if n not in rec.recipes}
        rec.code = rec.hashes() | rec.code # of what ran first
        rec.save(self.path)
        tuned = self.tuned()[1:]
        self._run(['base', *(n for n in self.changes if n not in tuned)])
        for name in tuned:
            try: rec.recipes[name] = self._search(name, self.changes[name].of(base), ('lr',)).to_dict()
            except _Refused: continue
            self._run([name])
        rec.save(self.path)

    def _run(self, names): # of arms whose rates are known
        for task, found, where in self._perform(self.plan(names)):
            row = dict(arm=task.arm, epochs=task.epochs, seed=task.seed, **found, session=self.record.session(where))
            self.record.runs.append(row)
            self._did(f'{task.arm}, {in_epochs(task.epochs)}, seed {task.seed}: {100*found["accuracy"]:.2f} %')

    def _search(self, name, recipe, fields): # -> recipe at the best rates
        if known := self.record.found.get(name): return recipe.replace(**known)
        def measure(recipes):
            todo = [self._task(name, r.to_dict(), self.bench.middle, s, 'valid') for r in recipes
                    for s in self.bench.tuning_seeds if s not in self.record.tried(name, r)]
            for task, found, _ in self._perform(todo):
                r = Recipe.from_dict(task.recipe)
                self.record.add_tried(name, r, task.seed, found['valid'])
                decay = r.optimizer_args.get('weight_decay')
                self._did(f'{name}, lr {r.lr:g}' + f', decay {decay:g}'*(decay is not None)
                          + f', seed {task.seed}: {100*found["valid"]:.2f} %')
            if name in self.record.refused: raise _Refused
        def score(r): return float(np.mean([*self.record.tried(name, r).values()]))
        best = search_rates(recipe, fields, measure, score)
        self.record.found[name] = dict(lr=best.lr, optimizer_args=best.optimizer_args)
        return best

    def _perform(self, tasks): # yields (task, found, session); raises `_OutOfTime` where not all of them were begun
        asked = 0
        def begin(task):
            nonlocal asked
            asked += (ok := self._in_time(task))
            return ok
        for task, found, seconds, where in perform(tasks, self.pool, self._at_a_time, begin):
            if why := found.get('error'):
                if task.arm == 'base': raise ValueError(f'{self.bench.name}: the base cannot be trained: {why}')
                self.record.refused[task.arm] = why
                continue
            self.paces.append((seconds, task.epochs))
            yield task, found, where
        if asked < len(tasks): raise _OutOfTime

    def _in_time(self, task):
        if self.minutes is None: return True
        needed = task.epochs*self._pace() if self.paces else 0
        return time.monotonic() - self.start + needed <= 60*self.minutes

    def _pace(self): # seconds an epoch, by the clock
        return sum(s for s, _ in self.paces)/sum(e for _, e in self.paces) if self.paces else float('nan')

    def _did(self, text): # keeps it, and tells
        self.done += 1
        self.record.save(self.path)
        left, tune = self.plan(), self.to_tune()
        epochs = sum(t.epochs for t in left) + tune*self.bench.middle
        total, seconds = self.done + len(left) + tune, epochs*self._pace()/self._at_a_time()
        if self.tell: self.tell(Progress(self.record, text, self.done, total, seconds))

    def to_tune(self)->int: # runs
        "How many runs of tuning are left, if no grid is widened: five values for the base, three for an arm"
        def rows(n): return sum(len(t['valid']) for t in self.record.tuned if t['arm'] == n)
        need = {n: (5 if n == 'base' else 3)*len(self.bench.tuning_seeds) for n in self.tuned()}
        return sum(max(0, k - rows(n)) for n, k in need.items() if n not in self.record.found)


def run_bench(
    bench:Bench,
    path:Path, # of the record, JSON; where there is one, it goes on
    names:tuple=(), # arms to run; none: all of the bench
    **kwargs # further fields of `Driver`
)->BenchRecord:
    "Run a bench, or go on with it; `ValueError` as for `Driver`"
    driver = Driver(bench, path, names, **kwargs)
    driver()
    return driver.record


# afterwards

def check_again(
    driver:Driver, # of a record with runs
    arm:str='base', # its name
    seed:int=0 # of the run
)->dict: # the check, which the record keeps: was, now, agrees, code, session
    """Make one run again, by today's code; it agrees where its accuracy differs by at most `TOLERANCE`. `ValueError`
    where there is no such run"""
    epochs = min(driver.lengths(arm))
    was = next(iter(driver.record.find(arm, epochs, seed)), None)
    if was is None: raise ValueError(f'{driver.path}: has no run of {arm!r} with seed {seed} at {in_epochs(epochs)}')
    now = bench_run(driver._task(arm, driver.record.recipes[arm], epochs, seed))
    check = dict(arm=arm, epochs=epochs, seed=seed, was=was['accuracy'], now=now['accuracy'],
                 agrees=abs(was['accuracy'] - now['accuracy']) <= TOLERANCE,
                 session=driver.record.session(session_now(driver.device)), code=driver.record.hashes())
    driver.record.checks.append(check)
    driver.record.save(driver.path)
    return check
