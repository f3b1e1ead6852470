"""One run of an audit, made where it is asked for or on a worker, which splits the images as the driver would"""
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..core.recipe import Recipe
from ..core.run_control import TrainingDiverged
from ..core.train import train
from ..measure.arms import Run
from ..measure.bench_run import one_thread
from ..measure.repeated_runs import run_once
from .audit_result import packed
from .audit_splits import Splits

__all__ = ['AuditOrder', 'tested', 'audit_run_there']


@dataclass(frozen=True)
class AuditOrder:
    "A run that a worker is to make"
    images: Callable # function of nothing -> `ImageData` that are split
    aside: bool # are images set aside to tune learning rates on?
    aside_seed: int # of these
    recipe: dict # plain values, with its steps
    seed: int # of the run, and of its split
    part: str # 'valid' or 'test': where it is scored; 'tuning': on what is set aside
    device: str # torch device
    metric: str # what is measured


def tested(
    recipe:Recipe, # with its steps
    data, # `ImageData`, whose test part is read
    seed:int,
    device, # torch device
    metric:str # what is measured: a name in `metrics`
)->tuple: # `Run`; which test images were right, `packed`
    "A run of the last check; one that diverges recognises nothing"
    try:
        r = train(recipe, data, seed, progress=False, device=device)
        right = (r.trained.predict(r.data.test.x).argmax(1) == r.data.test.y.cpu()).numpy()
        return Run(seed, r.test(metric), r.score(metric), r.steps, r.seconds, chosen=r.chosen), packed(right)
    except TrainingDiverged as e:
        return Run(seed, 0., 0., recipe.steps, diverged=str(e)), packed(np.zeros(len(data.test), bool))


@lru_cache(1) # all runs of an audit have the same
def _splits(images, aside, seed): return Splits(images(), aside, seed)


def audit_run_there(
    order:AuditOrder
)->tuple: # `Run`; which test images were right, `packed`, or ''; seconds by the clock
    "Make a run on a worker, on one thread"
    start, recipe = time.monotonic(), Recipe.from_dict(order.recipe)
    splits = _splits(order.images, order.aside, order.aside_seed)
    with one_thread(order.device):
        if order.part == 'test': found = tested(recipe, splits.round(order.seed), order.seed, order.device, order.metric)
        else:
            data = splits.tuning if order.part == 'tuning' else splits.round(order.seed)
            found = run_once(recipe, data, order.seed, 'valid', order.device, order.metric), ''
    return *found, time.monotonic() - start
