"""Runs over seeds: repeated, planned in steps, tuned, several arms in turns"""
import gc, time
from dataclasses import asdict, replace

import torch
from fastprogress.fastprogress import progress_bar

from ..base.machine import default_device, machine
from ..core.metrics import metrics
from ..core.plan import plan
from ..core.recipe import Recipe
from ..core.run_control import TrainingDiverged
from ..core.train import steps_for, train
from ..data.images import ImageData
from .arms import Arm, Run

__all__ = ['Arm', 'Run', 'repeat', 'plan_steps', 'best_lr', 'measure_arms', 'new_arm', 'check_runs', 'run_once']


def repeat(
    recipe:Recipe, # what to train and how
    data:ImageData, # what to train on
    seeds:tuple=(0, 1, 2), # a run for each
    *,
    name:str='base', # what tables and plots call it
    part:str='valid', # where accuracy is measured: 'valid' or 'test'
    metric:str='accuracy', # what is measured there: a name in `metrics`
    progress:bool=True, # a progress bar
    device=None # torch device; None picks the fastest kind here
)->Arm: # the runs
    "Train the same recipe once for each seed; `ValueError` for bad seeds, an unknown metric, a part without images"
    _ = metrics[metric] # an unknown name raises
    seeds, device = check_runs(data, seeds, part), device or default_device()
    recipe = recipe.replace(steps=steps_for(recipe, data, device=device))
    arm = new_arm(name, recipe, data, part, device, metric=metric)
    arm.runs += [run_once(recipe, data, s, part, device, metric) for s in _bar(seeds, progress)]
    return arm


def plan_steps(
    arms:list, # recipes, the base first
    data:ImageData, # decides how many steps an epoch has
    equal:str='steps', # what all arms get as much of as the base: 'steps', 'epochs' or 'seconds'
    device=None # torch device
)->tuple: # steps of each arm; seconds a step of each, None where they were not needed
    """How many optimiser steps each arm gets; seconds are turned into steps once, before the runs. `ValueError` for
    another word in `equal`"""
    base = arms[0]
    steps, none = steps_for(base, data, device=device), [None] * len(arms)
    if equal == 'steps': return [steps] * len(arms), none
    if equal == 'epochs':
        epochs = steps / _epoch_steps(base, data)
        return [max(1, round(epochs * _epoch_steps(r, data))) for r in arms], none
    if equal != 'seconds': raise ValueError(f"equal={equal!r}: must be 'steps', 'epochs' or 'seconds'")
    cost = _step_seconds(arms, data, steps, device)
    seconds = base.seconds or steps * cost[0]
    return [max(1, round(seconds / c)) for c in cost], cost


def best_lr(
    recipe:Recipe, # to be tuned; it says how many steps
    data:ImageData, # its validation images decide
    lrs:tuple, # learning rates to try; none: the recipe stays as it is
    seed:int, # of these runs: none of those that are compared afterwards
    device=None, # torch device; None picks the fastest kind here
    metric:str='accuracy' # what is best: a name in `metrics`
)->tuple: # the recipe at the best of them; [lr, score on the validation images] of each
    "Try learning rates, one run each; a run that diverges counts as guessing the commonest class"
    device = device or default_device()
    tried = [[lr, run_once(recipe.replace(lr=lr), data, seed, 'valid', device, metric).valid] for lr in lrs]
    return recipe.replace(lr=max(tried, key=lambda t: t[1])[0]) if tried else recipe, tried


def measure_arms(
    named:dict, # name -> `Recipe`, the base first
    data:ImageData, # what to train on
    seeds:tuple, # every arm runs once for each
    budget:dict=None, # in place of the recipes' own: {'steps': 300}, {'epochs': 2} or {'seconds': 5}
    equal:str='steps', # as for `plan_steps`
    lrs:tuple=None, # learning rates to try for each arm, on a seed outside `seeds`
    part:str='valid', # where accuracy is measured
    progress:bool=True, # a progress bar
    device=None, # torch device; None picks the fastest kind here
    metric:str='accuracy' # what is measured: a name in `metrics`
)->list: # an `Arm` for each recipe
    """Train all recipes over the same seeds, in turns, so that a machine that slows down slows all of them.
    `ValueError` for bad seeds, a part without images, an unknown metric, or another word in `equal`"""
    _ = metrics[metric] # an unknown name raises
    seeds, device = check_runs(data, seeds, part), device or default_device()
    given = [r.replace(**budget or {}) for r in named.values()]
    steps, cost = plan_steps(given, data, equal, device)
    todo = [r.replace(steps=n) for r, n in zip(given, steps)]
    tuned = [best_lr(r, data, lrs or (), max(seeds) + 1, device, metric) for r in todo]
    arms = [new_arm(name, r, data, part, device, metric=metric, lrs=tried, step_seconds=c)
            for name, (r, tried), c in zip(named, tuned, cost)]
    turns = [(i, seed) for k, seed in enumerate(seeds) for i in range(len(arms))[::1 if k % 2 == 0 else -1]]
    for i, seed in _bar(turns, progress): arms[i].runs.append(run_once(tuned[i][0], data, seed, part, device, metric))
    return arms


def new_arm(
    name:str, # what tables and plots call it
    recipe:Recipe, # what will be trained
    data:ImageData, # what it will be trained on
    part:str, # where accuracy will be measured
    device, # torch device
    **fields # further fields of the `Arm`
)->Arm: # without runs
    "An arm that says where, on what and how its runs will be made"
    about = {'name': data.name, 'fingerprint': data.fingerprint, **{k: len(p) for k, p in data.parts.items()}}
    return Arm(name, recipe.to_dict(), [], part, about, asdict(machine(device)), **fields)


def check_runs(
    data:ImageData, # must have images to validate and to score on
    seeds, # one or more numbers, all different
    part:str # 'valid' or 'test'
)->tuple: # the seeds
    "`ValueError` unless runs can be made over these seeds and scored on this part"
    if part not in ('valid', 'test'): raise ValueError(f"part={part!r}: must be 'valid' or 'test'")
    for p in ('valid', part):
        if not len(data.parts[p]): raise ValueError(f'data: has no {p} images; data.split() makes a valid part')
    seeds = tuple(seeds)
    if not seeds or len(set(seeds)) < len(seeds): raise ValueError(f'seeds={seeds}: must be one or more, all different')
    return seeds


def run_once(
    recipe:Recipe, # what to train and how
    data:ImageData, # what to train on
    seed:int, # of the run
    part:str, # where accuracy is measured
    device, # torch device
    metric:str='accuracy' # what is measured: a name in `metrics`
)->Run: # its `accuracy` and `valid` hold that metric
    "Train once; a run that diverges counts as guessing the commonest class"
    start = time.perf_counter()
    try: return _trained_run(recipe, data, seed, part, device, metric)
    finally: # a `Learner` lives in a cycle: its tensors would pile up until Python looks by itself
        if time.perf_counter() - start > 1: gc.collect() # takes some tenths of a second


def _trained_run(recipe, data, seed, part, device, metric): # -> Run
    try: res = train(recipe, data, seed, progress=False, device=device)
    except TrainingDiverged as e:
        return Run(seed, _guess(data, part, metric), _guess(data, 'valid', metric), recipe.steps, diverged=str(e))
    history = [{'step': h['step'], 'seconds': round(h['seconds'], 4), 'accuracy': round(h['accuracy'], 6)}
               for h in res.history]
    valid = res.score(metric)
    return Run(seed, res.test(metric) if part == 'test' else valid, valid, res.steps, res.seconds, history,
               chosen=res.chosen)


def _guess(data, part, metric): # -> float
    "The metric on `part` of always saying the most frequent training class"
    table = torch.zeros(data.n_classes, data.n_classes, dtype=torch.int64)
    table[:, data.train.y.bincount().argmax()] = data.parts[part].y.cpu().bincount(minlength=data.n_classes)
    return metrics[metric](table)


def _epoch_steps(recipe, data): return len(data.loaders(plan(recipe).recipe.batch_size).train)

def _step_seconds(arms, data, steps, device, rounds=3): # recipes -> seconds a step of each
    "Seconds a step, by short runs in turns; the fastest of each, since other programs can only slow a run down"
    n, few = min(max(steps // 5, 10), 60), replace(data, valid=data.valid[:1])
    def one(r, s): return train(r.replace(steps=n), few, s, progress=False, device=device).step_seconds
    times = [[one(r, s) for r in arms] for s in range(rounds + 1)]
    return [min(t) for t in zip(*times[1:])] # the first round warms up


def _bar(items, progress): return progress_bar(items) if progress else items
