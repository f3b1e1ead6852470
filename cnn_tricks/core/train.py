"""A recipe and images in, a trained network and its figures out"""
import copy, math
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper

from ..base.files import atomic_write
from ..base.machine import default_device, machine
from ..data.images import ImageData
from .components import in_range, losses, optimizers, schedules
from .direct_learner import DirectLearner, ScalarScheduler
from .fitting import limited, random_kept, stop_on_signal
from .lazy_device import even_batch, lazy_steps
from .plan import budget_steps, plan
from .recipe import Recipe, Trick
from .result import Result, Trained, build_network, images_at_once
from .run_control import Interrupted, RunControl, RunState, checkpoint_format, chosen_by

__all__ = ['learner', 'scheduler', 'fit_steps', 'steps_for', 'writable_folder', 'train']


@torch.no_grad()
def _try_images(r, net, data): # `ValueError` where the network cannot train on images of this size, this many a step
    try: net = copy.deepcopy(net)
    except Exception: return # a network that cannot be copied is tried by the first step
    n = min(r.batch_size, max(len(data.train), 1))
    try: net.train()(torch.zeros(min(n, 2), data.channels, *data.size))
    except (RuntimeError, ValueError) as e:
        what = f'network={r.network!r}, batch_size={n}, images of {" x ".join(map(str, data.size))} pixels'
        raise ValueError(f'{what}: cannot be trained: {(str(e) or type(e).__name__).splitlines()[0]}') from e


@random_kept() # fastai's loaders draw from Python's random state when they are made
def _build(p, seed, device, cbs): # a `RunPlan` with data -> `Learner`
    r, data = p.recipe, p.data
    for t in r.tricks:
        if why := t.applies(r, data, machine(device)):
            raise ValueError(f'trick {t.name!r} cannot be used here: {why}')
    in_range('seed', seed, f'[{-2**63}, {2**63})', whole=True)
    torch.manual_seed(seed)
    net = build_network(r, data.channels, data.n_classes, data.size)
    _try_images(r, net, data)
    lazy, at_once = lazy_steps(device), max(r.batch_size, images_at_once(data.size))
    if lazy: at_once = even_batch(len(data.valid), at_once)
    dls = data.loaders(r.batch_size, valid_batch_size=at_once, seed=seed, channels_last=r.channels_last, device=device)
    for t in r.tricks: dls = t.loaders(dls)
    opt_func = partial(OptimWrapper, opt=partial(optimizers[r.optimizer], **r.optimizer_args))
    cbs = lazy + [cb for t in r.tricks for cb in t.callbacks()] + list(cbs)
    # a move gives XLA's networks other weights than those that an optimiser was made with: first the move
    return DirectLearner(dls, net.to(device), losses[r.loss](**r.loss_args), opt_func, r.lr, cbs=cbs, metrics=accuracy)


def learner(
    recipe:Recipe, # what to train and how
    data:ImageData, # what to train on
    seed:int=42, # decides weights, order, augmentation and dropout; any whole number of 64 bits
    device=None, # torch device; None picks the fastest kind here
    cbs=() # further callbacks
): # -> fastai `Learner`
    "The fastai `Learner` that `recipe` describes; `ValueError` where a trick or the network cannot be used on `data`"
    return _build(plan(recipe, data), seed, device or default_device(), cbs)


def scheduler(
    recipe:Recipe # schedule and lr, after its tricks
): # -> fastai `ParamScheduler`
    "The recipe's schedule as a callback: `lr` times the schedule's value at the fraction done"
    sched = schedules[recipe.schedule](**recipe.schedule_args)
    return ScalarScheduler({h: (lambda p, f=f: recipe.lr * f(p)) if h == 'lr' else f for h, f in sched.items()})


def fit_steps(
    learn:Learner, # its `dls` decide how many steps an epoch has
    recipe:Recipe, # schedule and lr
    steps:int=None # steps of this phase, at least 1, else `ValueError`; None for the recipe's
):
    "Fit for exactly so many optimiser steps under the recipe's schedule; a trick's `fit` may call it several times"
    steps = recipe.steps if steps is None else steps
    in_range('steps', steps, '[1, inf)', whole=True)
    learn.fit(math.ceil(steps / len(learn.dls.train)), cbs=[*limited(learn, steps), scheduler(recipe)])


def _fit(learn, r, state, progress): # `r`: the recipe of a `RunPlan` with `steps`
    fits = [t for t in r.tricks if type(t).fit is not Trick.fit]
    quiet = nullcontext() if progress else learn.no_bar()
    with random_kept(), learn.no_logging() if not progress else nullcontext(), quiet:
        fits[0].fit(learn, r) if fits else fit_steps(learn, r)
    if state.error: raise state.error


def _timed_steps(p, seed, device, cbs, agree): # a budget in seconds -> steps, by a trial of the whole plan in small
    n, budget = 10, p.recipe.seconds
    while True: # the trial passes through all phases of the recipe; it grows until it can be timed
        state, short = RunState(n, seed), p.with_steps(n)
        learn = _build(short, seed, device, [RunControl(state, validate=False), *cbs()])
        _fit(learn, short.recipe, state, progress=False)
        took = agree(state.seconds)
        if took > min(0.05*budget, 2.) or n > 2000: return max(1, round(budget*n/took))
        n *= 3


@random_kept()
def steps_for(
    recipe:Recipe, # with any of the three budgets
    data:ImageData, # decides how many steps an epoch has
    seed:int=42, # of the trial run
    device=None, # torch device
    cbs=tuple, # function of nothing: further callbacks, made anew for each trial
    agree=float # seconds of a trial here -> those that count; processes that train together must count the same
)->int: # optimiser steps, at least 1
    "The recipe's budget in optimiser steps; seconds are turned into steps by a short trial of the whole recipe"
    p = plan(recipe)
    if steps := budget_steps(p.recipe, data): return steps
    return _timed_steps(p.with_data(data), seed, device or default_device(), cbs, agree)


def _load_checkpoint(path, recipe, data, seed): # -> dict, or None where there is no checkpoint
    if not path or not path.exists(): return None
    try: ckpt = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as e:
        why = f'{path} cannot be read as a checkpoint ({type(e).__name__}); remove it to start anew'
        raise ValueError(why) from None
    if not isinstance(ckpt, dict) or ckpt.get('format') != checkpoint_format:
        raise ValueError(f'{path} was written by another version of cnn_tricks; remove it to start anew')
    old, new = Recipe.from_json(ckpt['meta']['recipe']).to_dict(), recipe.to_dict()
    diff = [f'{k} was {old[k]!r}, now {new[k]!r}' for k in new if old[k] != new[k]]
    if ckpt['meta']['seed'] != seed: diff.append(f"seed was {ckpt['meta']['seed']}, now {seed}")
    if ckpt['meta']['data'] != data.fingerprint: diff.append('the images are others')
    if diff: raise ValueError(f"cannot resume {path}: {'; '.join(diff)}")
    return ckpt


def writable_folder(
    path # of a folder
)->Path: # created if missing
    "The folder, created and tried by writing a byte; `OSError` with its reason if it cannot be written"
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with atomic_write(path/'.try') as f: f.write(b'.')
    (path/'.try').unlink()
    return path


def train(
    recipe:Recipe, # what to train and how
    data:ImageData, # what to train on; its test part is not read
    seed:int=42, # decides weights, order, augmentation and dropout; any whole number of 64 bits
    *,
    out:Path=None, # folder for `checkpoint.pt`; None keeps none
    resume:bool=False, # go on from the checkpoint in `out`, if there is one
    checkpoint_every:float=20., # seconds between checkpoints; 0 writes one at every step
    progress:bool=True, # fastai's progress bar and table
    cbs=(), # further callbacks
    device=None # torch device; None picks the fastest kind here
)->Result: # the trained network and the record of the run
    """Train `recipe` on `data`: the one way in which everything in this course trains.

    `ValueError` for a recipe that cannot be used on these images and for a checkpoint of another run; `OSError` for a
    folder that cannot be written; `TrainingDiverged` where the loss is no longer a number; `Interrupted`, with the
    result so far, after Ctrl-C.
    """
    device, path = device or default_device(), Path(out)/'checkpoint.pt' if out else None
    p, ckpt = plan(recipe, data), _load_checkpoint(path, recipe, data, seed) if resume else None
    state = RunState(ckpt['meta']['total'] if ckpt else 1, seed, pending=ckpt)
    control = RunControl(state, path, checkpoint_every)
    learn = _build(p, seed, device, [control, *cbs]) # what cannot work is said before the folder is touched
    if out: writable_folder(out)
    if not ckpt: state.total = p.steps or _timed_steps(p, seed, device, tuple, float)
    control.meta = {'recipe': recipe.to_json(), 'seed': seed, 'data': data.fingerprint, 'total': state.total}
    with stop_on_signal(state): _fit(learn, p.with_steps(state.total).recipe, state, progress)
    return _result(p, learn, seed, state, device, path)


def _normalisation(learn, data): # -> mean and std per channel, as the loaders use them
    used = getattr(learn.dls.train, 'mean', None)
    if used is None or used is data.mean: return data.mean.tolist(), data.std.tolist()
    return torch.as_tensor(used).tolist(), torch.as_tensor(learn.dls.train.std).tolist()


def _result(p, learn, seed, state, device, path): # -> `Result`; `Interrupted` with it, where it was stopped
    data = p.data
    trained = Trained(learn.model.eval(), p.asked, list(data.classes), data.channels, data.size,
                      *_normalisation(learn, data), data.ranges, data.framing)
    res = Result(p.asked, trained, data, seed, state.step, state.seconds, state.history, state.lrs,
                 list(map(float, state.losses)), machine(device), finished=not state.stop,
                 chosen=chosen_by(learn))
    if not state.stop: return res
    how = f'; resume=True goes on from {path}' if path else '; nothing was saved, since no folder was given'
    raise Interrupted(f'stopped at step {state.step} of {state.total}{how}', res)
