"""What a bench has to do yet, and how many hours that takes, before it is run"""
import numpy as np

from ..core.train import steps_for, train
from .bench_driver import Driver
from .bench_run import clock_of, one_thread
from .benches import draw, in_epochs

__all__ = ['bench_plan']


def _epoch_seconds(driver): # arm -> seconds of a pass over the images: recorded, else by a trial of the base
    runs = [r for r in driver.record.runs if r['seconds']]
    timed = {n: [r['seconds']/r['epochs'] for r in runs if r['arm'] == n] for n in ('base', *driver.changes)}
    known = {n: float(np.median(v)) for n, v in timed.items() if v}
    if 'base' not in known: known['base'] = _trial(driver)
    return {n: known.get(n, known['base']) for n in timed}


def _trial(driver): # -> seconds of a pass of the base over the images, from the difference of two short runs
    data, clock = draw(driver.bench, driver.bench.tuning_seeds[0]), clock_of(driver.device)
    few, r, took = data.subset(1, parts=('valid',)), driver.bench.recipe, {}
    with one_thread(driver.device):
        for n in (2, 5, 25): # the first warms up
            start = clock()
            train(r.replace(steps=n), few, progress=False, device=driver.device)
            took[n] = clock() - start
    return max(took[25] - took[5], 0.)/20*steps_for(r.replace(epochs=1.), data)


def bench_plan(
    driver:Driver # that has not been called
)->list: # a dict for the tuning and for each length: what, arms, seeds, runs (that are left), hours (of one process)
    "What there is to do, and how long one process would take"
    pace, left, tune, b = _epoch_seconds(driver), driver.plan(), driver.to_tune(), driver.bench
    rows = [dict(what=f'tuning, {in_epochs(b.middle)}', arms=driver.tuned(), seeds=len(b.tuning_seeds), runs=tune,
                 hours=tune*b.middle*pace['base']/3600)]
    for e in driver.epochs:
        todo = [t for t in left if t.epochs == e]
        rows.append(dict(what=in_epochs(e), arms=[n for n in ('base', *driver.changes) if e in driver.lengths(n)],
                         seeds=driver.seeds, runs=len(todo), hours=sum(e*pace[t.arm] for t in todo)/3600))
    return rows
