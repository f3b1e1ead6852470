"""Callbacks that fit any `Learner`, and how a fit ends: after so many steps, or by a signal"""
import random, signal, threading
from contextlib import contextmanager
from enum import IntEnum
from itertools import islice

import torch
from fastai.callback.core import Callback

from .components import in_range

__all__ = ['Order', 'SomeBatches', 'FitCallback', 'aside', 'random_kept', 'stop_on_signal', 'StepLimit', 'limited',
           'planned_steps']


class Order(IntEnum):
    "The place of each callback among fastai's, which calls the lowest first; fastai's own stand in the comments"
    PROCESSES = -10 # a group of processes is formed before `RUN` counts its steps; fastai's `TrainEvalCallback`
    RUN = -5 # seeds and counts each step before anything acts in it, but after the mode is set
    LAZY = -4 # after `RUN` has seeded and counted the step, before anything else looks at it
    PRECISION = 10 # gradients are unscaled before callbacks that clip them; fastai's `MixedPrecision`
    RESIZE = 11 # after what counts steps, resumes, and makes plain tensors of a batch
    HEAT = 45 # before an average of weights, which was validated, gives way to the weights in training
    AVERAGE = 50 # after what changes weights once a step, before what looks at validations; fastai's `Recorder`
    STATISTICS = 51 # after an average has taken the place of the weights
    PLAIN_RATES = 61 # after fastai's `ParamScheduler`, 60, which leaves numpy's numbers
    STOP = 63 # as fastai's `EarlyStoppingCallback`: after `Recorder`, whose metrics it reads
    WARMUP = 65 # multiplies what fastai's `ParamScheduler`, 60, has set
    STEP = 70 # after `WARMUP`, which makes the rate final, and what changes the batch or cancels a step
    PROBE = 80 # after what clips or scales gradients
    FUSE = 100 # after everything that may replace the optimiser or load its state
    WRAP = 1000 # the wrapper takes the network's place when nobody else looks at it


class SomeBatches:
    "The batches of a loader from number `start` on, `stop` excluded"
    def __init__(self,
        dl, # any loader
        start:int, # number of the first batch, from 0
        stop:int # of the one after the last
    ):
        self.dl, self.start, self.stop = dl, start, min(stop, len(dl))

    def __len__(self): return max(0, self.stop - self.start)
    def __iter__(self): return islice(self.dl, self.start, self.stop)
    def __getattr__(self, name): return getattr(self.dl, name)


class FitCallback(Callback):
    "For what belongs to a fit: fastai has `before_fit` and `after_fit` in predictions and validations, too"
    fitting = False

    def before_fit(self):
        "A fit that was broken off had no end"
        self.fitting = False

    def before_train(self):
        "Calls `begin` once, before the first epoch of a fit"
        if self.fitting: return
        self.fitting = True
        self.begin()

    def after_fit(self):
        "Calls `end` after a fit that has begun"
        if not self.fitting: return
        self.fitting = False
        self.end()

    def begin(self): "The fit begins: the network is on its device, and nothing is trained yet"
    def end(self): "The fit is over, or was cancelled"


def aside(
    cb # a `FitCallback`, in its `before_fit`
)->bool: # is this a validation or a prediction?
    "Lets a validation pass by, one in the middle of a fit, too: fastai holds its lock there"
    if locked := cb.learn.lock.locked(): cb.run = False
    return locked


@contextmanager
def random_kept():
    "Afterwards torch's and Python's global random states are what they were"
    kept = random.getstate()
    try:
        with torch.random.fork_rng(): yield
    finally: random.setstate(kept)


@contextmanager
def stop_on_signal(
    state # the `RunState` of the run to stop
):
    "Ctrl-C (or a polite kill) ends the run after the step it is in; a second one raises `KeyboardInterrupt` at once"
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def _stop(signum, frame):
        if state.stop: raise KeyboardInterrupt
        state.stop = True

    # a handler that C code has set is none of ours: Python could not put it back
    old = {sig: h for sig in (signal.SIGINT, signal.SIGTERM) if (h := signal.getsignal(sig)) is not None}
    for sig in old: signal.signal(sig, _stop)
    try: yield
    finally:
        for sig, handler in old.items(): signal.signal(sig, handler)


class StepLimit(Callback):
    "In a `Learner` without a `RunControl`: a fit of so many optimiser steps, whose last epoch may be shorter"
    order = Order.RUN

    def __init__(self,
        steps:int # of the fit, at least 1, else `ValueError`
    ):
        in_range('steps', steps, '[1, inf)', whole=True)
        self.steps, self.done = steps, 0

    def before_train(self):
        left = self.steps - self.done
        if left < len(self.dl): self.learn.dl = SomeBatches(self.dl, 0, left)

    def before_batch(self):
        if self.training: self.learn.pct_train = self.done/self.steps

    def after_batch(self): self.done += self.training


def limited(
    learn, # fastai `Learner`
    steps:int # of its next fit, at least 1
)->list: # callbacks for that fit
    "Have the next fit end after exactly so many optimiser steps, in a run or in any other `Learner`"
    if not hasattr(learn, 'run_control'): return [StepLimit(steps)]
    learn.run_control.state.planned = steps
    return []


def planned_steps(
    learn # fastai `Learner` in a fit
)->int:
    "How many optimiser steps the fit will have; 0 before any fit"
    if hasattr(learn, 'run_control'): return learn.run_control.state.phase_steps
    return learn.step_limit.steps if hasattr(learn, 'step_limit') else getattr(learn, 'n_epoch', 0)*len(learn.dls.train)
