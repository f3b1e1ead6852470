"""One run's clock, curves, checkpoints and random numbers, so that a stopped run goes on bit for bit"""
import math, random, time, warnings
from pathlib import Path

import torch
from fastai.callback.core import CancelFitException, CancelValidException

from ..base.files import atomic_write
from ..data.loaders import ImageLoader, stream_seed
from .components import in_range
from .direct_learner import last_hyper
from .fitting import FitCallback, Order, SomeBatches, aside

__all__ = ['checkpoint_format', 'TrainingDiverged', 'Interrupted', 'RunState', 'RunControl', 'stateful', 'chosen_by']


checkpoint_format = 2 # counts up when an older checkpoint would not go on bit for bit


class TrainingDiverged(RuntimeError):
    "The loss is no longer a number; the message names the step, the learning rate and what to try"


class Interrupted(KeyboardInterrupt):
    "A run was stopped from outside; `result` holds what there is, the checkpoint can be resumed"
    def __init__(self,
        message:str, # what was stopped where, and how to go on
        result=None # the `Result` so far
    ):
        super().__init__(message)
        self.result = result


class RunState:
    "Where a run stands: what a checkpoint keeps beside the weights; numbers out of range raise `ValueError`"
    def __init__(self,
        total:int, # optimiser steps of the whole run, at least 1
        seed:int=0, # the run's seed, any whole number of 64 bits
        rank:int=0, # number of this process among several, from 0
        pending:dict=None # checkpoint to resume from
    ):
        in_range('total', total, '[1, inf)', whole=True)
        in_range('seed', seed, f'[{-2**63}, {2**63})', whole=True)
        in_range('rank', rank, '[0, inf)', whole=True)
        self.total, self.seed, self.rank, self.pending = total, seed, rank, pending
        self.step, self.epoch, self.seconds, self.clock = 0, 0, 0., None
        self.lrs, self.losses, self.history = [], [], []
        self.phase_start, self.phase_steps, self.planned = 0, total, None
        self.error, self.stop = None, False

    def state_dict(self):
        "Plain values only; `seconds` are those up to now, in the middle of an epoch too"
        plain = {'seconds': self.elapsed(), 'losses': list(map(float, self.losses))}
        return plain | {k: getattr(self, k) for k in ('step', 'lrs', 'history')}

    def to_replay(self): # -> int
        "Steps that the checkpoint has already done and this process has not"
        return 0 if self.pending is None else self.pending['run']['step'] - self.step

    def elapsed(self): # -> float
        "Seconds of training so far, validation left out"
        return self.seconds + (0. if self.clock is None else time.perf_counter() - self.clock)


class RunControl(FitCallback):
    """First in line of a run's callbacks: seeds each step, ends on budget, checkpoints and resumes

    `TypeError` where `state` is no `RunState` or `every` no number, `ValueError` where `every` is below 0.
    """
    order, _xtra = Order.RUN, None # `_xtra`: fastcore looks for it with each attribute that is the learner's
    told = False # as the recorder's: losses come later

    def __init__(self,
        state:RunState, # where the run stands
        path:Path=None, # checkpoint file; None writes none
        every:float=20., # seconds between checkpoints, at least 0, which writes one at every step
        meta:dict=None, # plain values to keep in the checkpoint
        validate:bool=True # False skips validation
    ):
        if not isinstance(state, RunState): raise TypeError(f'state={state!r}: must be a RunState')
        in_range('every', every, '[0, inf)')
        self.state, self.path, self.every = state, path and Path(path), every
        self.meta, self.validate_run = meta or {}, validate
        self.saved_at = time.monotonic()

    def before_fit(self):
        if not aside(self): FitCallback.before_fit(self)

    def begin(self):
        "A fit is one phase of the run; its length in steps decides the fraction done"
        s = self.state
        if s.error or s.stop: raise CancelFitException
        steps, s.planned = s.planned or self.n_epoch * len(self.dls.train), None
        s.phase_start, s.phase_steps = s.step, min(steps, s.total - s.step)
        if s.phase_steps <= 0: raise CancelFitException

    def before_train(self):
        "Tell the loader its epoch, which batches a checkpoint makes needless, and where the budget ends"
        FitCallback.before_train(self)
        s, dl = self.state, self.dls.train
        s.epoch_start, limit = s.step, s.phase_start + s.phase_steps - s.step
        if limit <= 0: raise CancelFitException # a fit may have been given more epochs than there is budget
        skip = max(0, min(s.to_replay(), limit, len(dl)))
        if isinstance(dl, ImageLoader): dl.epoch, dl.limit, dl.skip = s.epoch, limit, skip
        elif skip or limit < len(dl): self.learn.dl = SomeBatches(dl, skip, limit)
        s.step += skip
        s.clock = time.perf_counter()

    def before_batch(self):
        "Seed whatever is random in this step from (seed, step, rank); write a checkpoint before it, when it is time"
        if not self.learn.training: return
        s = self.state
        self._resume()
        if self._look_back(): raise CancelFitException
        if self.path and (s.stop or time.monotonic() - self.saved_at >= self.every): self.save_checkpoint()
        if s.stop: raise CancelFitException
        self.learn.pct_train = (s.step - s.phase_start) / s.phase_steps
        seed = stream_seed(s.seed, 1, s.step, s.rank, 1)
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized(): torch.cuda.manual_seed(seed)
        random.seed(seed)

    def _diverged(self, step, loss, lr): # `step`: from 1
        self.state.error = TrainingDiverged(
            f'the loss became {loss} at step {step} of {self.state.total}, with lr {lr:.3g}. '
            f'Try a lower lr (a third, then a tenth: {lr/3:.2g}, {lr/10:.2g}), a schedule that warms up (one_cycle), '
            'or batch normalisation.')

    def _look_back(self): # -> has the run failed?
        "Was a loss not a number? fastai has copied the smoothed loss to the CPU already"
        s = self.state
        if s.error is None and s.losses and not math.isfinite(self.learn.recorder.smooth_loss.val):
            first = next((i for i, v in enumerate(s.losses) if not math.isfinite(v)), len(s.losses) - 1)
            self._diverged(first + 1, float(s.losses[first]), s.lrs[first])
        return s.error is not None

    def after_loss(self):
        "On a CPU a look costs nothing: the step is not made"
        loss = self.learn.loss
        if self.told or not self.learn.training or loss.device.type != 'cpu': return
        if math.isfinite(loss.item()) if loss.numel() == 1 else torch.isfinite(loss).all(): return
        self._diverged(self.state.step + 1, loss.item(), last_hyper(self.learn.opt, 'lr'))
        raise CancelFitException

    def after_batch(self):
        "Record the step: the loss it had and the learning rate that the optimiser really used"
        if not self.learn.training: return
        s = self.state
        s.step += 1
        s.losses.append(self.learn.loss.detach())
        s.lrs.append(float(last_hyper(self.learn.opt, 'lr')))

    def after_train(self):
        s = self.state
        s.seconds, s.clock = s.elapsed(), None
        s.epoch += 1

    def before_validate(self):
        "A checkpoint is written before a batch: the validations before it are in its history; no images, no validation"
        if not self.fitting: return
        s = self.state
        if s.pending is None and self._look_back(): raise CancelFitException
        if s.pending is not None or not self.validate_run or not len(self.dls.valid): raise CancelValidException

    def after_epoch(self):
        "One row of history for each validation"
        s = self.state
        if not self.fitting or self.recorder.cancel_valid: return
        losses = s.losses[s.epoch_start:]
        row = {'epoch': s.step / len(self.dls.train), 'step': s.step, 'seconds': s.seconds,
               'train_loss': float(sum(losses)) / max(len(losses), 1)}
        s.history.append(row | dict(zip(self.recorder.metric_names[2:-1], map(float, self.recorder.log[2:]))))

    def end(self):
        s = self.state
        s.seconds, s.clock = s.elapsed(), None
        self._look_back()

    def save_checkpoint(self):
        "All that the rest of the run depends on, whole or not at all; a full disk costs the checkpoint, not the run"
        ckpt = {'format': checkpoint_format, 'model': self.model.state_dict(), 'opt': self.opt.state_dict(),
                'run': self.state.state_dict(), 'meta': self.meta,
                'callbacks': {k: cb.state_dict() for k, cb in stateful(self.learn).items()}}
        try:
            with atomic_write(self.path) as f: torch.save(ckpt, f)
        except OSError as e: warnings.warn(f'no checkpoint written to {self.path}: {e.strerror}; training goes on')
        self.saved_at = time.monotonic()

    def _resume(self):
        "Take over what the checkpoint holds, at exactly the step it was made"
        s = self.state
        if s.pending is None or s.to_replay() > 0: return
        ckpt, s.pending, cbs = s.pending, None, stateful(self.learn)
        if (was := sorted(ckpt['callbacks'])) != (now := sorted(cbs)):
            s.error = ValueError(f'cannot resume: callbacks with state were {was}, now {now}')
            raise CancelFitException
        self.model.load_state_dict(ckpt['model'])
        self.opt.load_state_dict(ckpt['opt'])
        for k, cb in cbs.items(): cb.load_state_dict(ckpt['callbacks'][k])
        for k, v in ckpt['run'].items(): setattr(s, k, v)
        s.clock = time.perf_counter()


def stateful(
    learn # fastai `Learner`
): # -> dict of key and callback
    "The callbacks whose class brings `state_dict` (an instance would answer for the model), by name and position"
    found = {}
    for cb in learn.cbs:
        if not hasattr(type(cb), 'state_dict'): continue
        same = sum(c.name == cb.name for c in found.values()) # two of one class have one name
        found[f'{cb.name} {same + 1}' if same else cb.name] = cb
    return found


def chosen_by(
    learn # fastai `Learner`
): # -> {name: plain values} of the callbacks whose class has `chosen`
    "What callbacks measured and decided: the seed and the recipe do not tell it"
    return {cb.name: found for cb in learn.cbs if hasattr(type(cb), 'chosen') and (found := cb.chosen)}
