"""Training on devices that collect work and compile it before they do it (XLA): where a step ends, when losses are read"""
from importlib import import_module

import torch

from ..data.loaders import stream_seed
from .direct_learner import SmoothLossRecorder
from .fitting import FitCallback, Order

__all__ = ['LazySteps', 'lazy_steps', 'even_batch']

read_every = 20 # steps


class LazySteps(FitCallback):
    """Ends each step, so that one step is one program, and reads losses from the device after every 20 steps alone

    A loss that is read makes the processor wait for the device. What depends on losses comes later, too: a run that
    diverges ends up to 20 steps after it did.

    Source: PyTorch/XLA, "Pytorch XLA overview" and "Troubleshooting", for the end of a step and for reads.
    """
    order = Order.LAZY

    def __init__(self,
        sync=lambda: None, # function of nothing: have the device do what was collected
        seed=None # function of a seed for the device's own random numbers; None: there are none
    ): self.sync, self.seed, self.unread, self.lazy = sync, seed, [], False

    def begin(self):
        self.unread, recorder = [], getattr(self.learn, 'recorder', None)
        self.lazy = isinstance(recorder, SmoothLossRecorder) and not recorder.train_metrics
        if self.lazy: recorder.told = True
        if hasattr(self.learn, 'run_control'): self.run_control.told = True

    def before_batch(self):
        if not (self.training and self.seed and hasattr(self.learn, 'run_control')): return
        s = self.run_control.state
        self.seed(stream_seed(s.seed, 1, s.step, s.rank, 1))

    def after_batch(self):
        self.sync()
        if not (self.training and self.lazy): return
        self.unread.append(self.learn.loss.detach())
        if len(self.unread) == read_every: self._read()

    def after_train(self): self._read()

    def _read(self): # all at once, and always as many, so that it is one program
        n = len(self.unread)
        if not n: return
        values = torch.stack(self.unread + [self.unread[-1]]*(read_every - n)).cpu()[:n]
        self.unread = []
        self.recorder.tell(values)
        if hasattr(self.learn, 'run_control'): self.run_control.state.losses[-n:] = values.unbind()

    def end(self):
        if self.lazy: self.recorder.told = False
        if hasattr(self.learn, 'run_control'): self.run_control.told = False


def lazy_steps(
    device # torch device, or its name
)->list: # callbacks; none for a device that works at once
    "What training on this device needs beside what all devices do; `RuntimeError` where this process cannot train on it"
    if torch.device(device).type != 'xla': return []
    xla = import_module('torch_xla')
    try: torch.ones(1, device=xla.device(), requires_grad=True).sum().backward()
    except RuntimeError as e: # PyTorch counts its devices at the first gradient of a process
        raise RuntimeError('device=xla: gradients were computed on another device before XLA was first used; begin '
                           'anew, and call torch_xla.device() first') from e
    return [LazySteps(xla.sync, xla.manual_seed)]


def even_batch(
    n:int, # images
    most:int # in a batch, at least 1
)->int: # in (most/2, most]
    "The largest batch that divides the images, so that the last one has the shape of the others; `most` where none does"
    return next((b for b in range(most, most//2, -1) if n % b == 0), most)
