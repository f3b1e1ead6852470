"""One run of a bench, on one thread"""
import gc, math, time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch

from ..core.fitting import FitCallback, Order, planned_steps
from ..core.recipe import Recipe
from ..core.run_control import TrainingDiverged
from ..core.train import train
from ..core.training_step import batch_inputs, unmoved
from ..data.images import ImageData
from ..nets.resizing import norm_layers, recalibrate_bn
from .benches import Bench, draw

__all__ = ['FEW_STEPS', 'FreshStatistics', 'Task', 'one_thread', 'clock_of', 'bench_run']

FEW_STEPS = 200 # below, batch norm's running averages lag behind the weights


class FreshStatistics(FitCallback):
    "After the last step of a short run, batch norm's statistics are taken anew from training batches, as `ema` does"
    order = Order.STATISTICS
    layers, done = None, 0

    def begin(self): self.layers, self.done = None, 0

    def after_batch(self):
        if not self.training: return
        self.done += 1
        if self.layers is None: # none that are frozen
            self.layers = [m for m in norm_layers(self.model) if m.training]

    def after_train(self):
        "In a run of `train` its last step may be in a later fit than this one"
        control, dl = getattr(self.learn, 'run_control', None), self.dls.train
        step, total = (control.state.step, control.state.total) if control else (self.done, planned_steps(self.learn))
        if step < total or total >= FEW_STEPS or not self.layers: return
        with unmoved(dl):
            new = dl.new() if hasattr(dl, 'new') else dl # PyTorch's own loaders cannot be copied
            batches = (batch_inputs(self.learn, b) for b in islice(new, min(20, math.ceil(total/10))))
            recalibrate_bn(self.model, batches, self.layers)


@dataclass(frozen=True, eq=False)
class Task:
    "A run that is to be made"
    bench: Bench
    arm: str # its name
    recipe: dict # plain values
    epochs: float # passes over the images; its steps follow from them
    seed: int # of the draw, the weights and the order
    device: str # torch device
    part: str = 'test' # 'valid': a rate is tried, and no test image is read


def bench_run(
    task:Task
)->dict: # plain values: accuracy, valid, steps, seconds (of work of a core; of the clock on a GPU), curve, diverged
    "Train once on one thread; a run that diverges (`diverged` says how) counts as guessing the commonest class"
    start = time.perf_counter()
    with one_thread(task.device):
        try: return _measured(task, draw(task.bench, task.seed))
        finally: # a `Learner` lives in a cycle: its tensors would pile up until Python looks by itself
            if time.perf_counter() - start > 1: gc.collect() # takes some tenths of a second


@contextmanager
def one_thread(
    device:str # torch device
):
    "On a processor, one thread: runs side by side do not disturb each other, and round as one alone does"
    threads = torch.get_num_threads()
    if device == 'cpu': torch.set_num_threads(1)
    try: yield
    finally: torch.set_num_threads(threads)


def _measured(task, data): # -> dict
    recipe, clock = Recipe.from_dict(task.recipe).replace(epochs=task.epochs), clock_of(task.device)
    start = clock()
    try: res = train(recipe, data, task.seed, progress=False, device=task.device, cbs=[FreshStatistics()])
    except TrainingDiverged as e:
        guess = {p: round(_guess(data, p), 6) for p in ('valid', task.part)}
        return dict(accuracy=guess[task.part], valid=guess['valid'], steps=0, seconds=None, curve={}, diverged=str(e))
    seconds = clock() - start
    score = res.test() if task.part == 'test' else res.accuracy
    names = dict(epoch='epoch', train_loss='train_loss', valid_loss='valid_loss', valid='accuracy')
    curve = {k: [round(h[v], 4) for h in res.history] for k, v in names.items()}
    return dict(accuracy=round(score, 6), valid=round(res.accuracy, 6), steps=res.steps, seconds=round(seconds, 2),
                curve=curve, diverged='')


def clock_of(
    device:str # torch device
): # -> function of nothing: seconds
    "On a processor the seconds that this process has worked, which other programs do not lengthen much; else the clock"
    return time.process_time if device == 'cpu' else time.perf_counter


def _guess(data:ImageData, part): # accuracy of always saying the commonest training class
    return (data.parts[part].y == data.train.y.bincount().argmax()).float().mean().item()
