"""What `train` does with a pretrained network: a head on frozen features, then all layers in the time that is left"""
import statistics
import time
from dataclasses import dataclass, field

import psutil
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..core.training_step import recipe_step
from ..report.training import Entry
from ..tools.frozen_head import frozen_head
from .base_network import head_recipe, scratch_recipe, tuning_recipe

__all__ = ['Clock', 'seconds_of_step', 'tuning_steps', 'head_result', 'train_pretrained']

EPOCHS, MINUTES = 5, 10.  # of fine-tuning, and for everything, where nothing was asked for
_least = 0.25  # epochs: with less, fine-tuning would only disturb the head


@dataclass
class Clock:
    "Seconds since the command began, loading torch included"
    began:float = field(default_factory=lambda: time.monotonic() - _loading())

    def spent(self): # -> float
        "Up to now"
        return time.monotonic() - self.began


def _loading():
    "Seconds that this process took to come here; 0 in one that does other things, too"
    age = time.time() - psutil.Process().create_time()
    return age if age < 60 else 0.


def seconds_of_step(
    recipe, # `Recipe`
    data, # `ImageData`
    device # torch device
)->float:
    "Of a training step, the median of three"
    step, took = recipe_step(recipe, data, device), []
    for _ in range(4):
        start = time.perf_counter()
        step()
        took.append(time.perf_counter() - start)
    return statistics.median(took[1:])


def tuning_steps(
    o:dict, # options: `epochs`, `steps`, `minutes`
    data, # `ImageData`
    batch_size:int, # images in a step
    forward:float, # seconds of an image through the network
    step:float, # seconds of a training step
    spent:float # seconds since the command began
)->int: # 0: there is no time for it
    """How many steps of fine-tuning there is time for; what comes after it, predictions for the report, is left aside"""
    per_epoch = max(1, len(data.train)//min(batch_size, len(data.train)))
    if o['steps']: return o['steps']
    if o['epochs']: return max(1, round(o['epochs']*per_epoch))
    left = 60*(o['minutes'] or MINUTES) - spent - forward*(3*len(data.valid) + 2*len(data.test)) - 3
    steps = int(left/(1.05*step + forward*len(data.valid)/per_epoch))
    if not o['minutes']: steps = min(steps, EPOCHS*per_epoch)
    return steps if steps >= max(1, _least*per_epoch) else 0


def head_result(
    o:dict, # options: `base`, `seed`, `batch_size`, `lr`
    data, # `ImageData`
    device, # torch device
    console # where progress is shown
)->tuple: # `Result`, `KeptFeatures`
    "The head on frozen features, with a bar"
    columns = TextColumn('{task.description}'), BarColumn(), TextColumn('{task.completed:.0f} of {task.total:.0f}'), \
        TimeRemainingColumn()
    if not console.is_terminal: console.print(f'features of {len(data.train) + len(data.valid):,} images, for the head')
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task('features of the images', total=len(data.train) + len(data.valid))
        return frozen_head(head_recipe(o['base'], o), data, o['seed'], device, lambda n: bar.advance(task, n))


def _tell(head, steps, step, said):
    "What the head reaches, and what comes next"
    decay = head.chosen['frozen_head']['decay']
    line = f'head on frozen features: {100*head.accuracy:.1f} % of the validation images after {head.seconds:.0f} s ' \
           f'(decay {decay:g})'
    if steps: said.print(f'{line}; now {steps:,} steps of all layers, about {steps*step:.0f} s')
    else: said.print(f'{line}; it stands, since there is no time for fine-tuning: give more --minutes')


def train_pretrained(
    o:dict, # options, with `base`
    data, # `ImageData`
    done, # function of a label -> the finished `Result` of that name, or None
    run, # function of (label, `Recipe`, callbacks) -> `Result`: trains it, resumably
    keep, # function of (label, `Result`): saves it
    entries:list, # fills with those that are done
    console, # where progress is shown
    said, # where lines are printed
    device, # torch device
    clock:Clock
):
    "The head, fine-tuning, and a network from scratch if asked; afterwards `entries` are sorted, the best on validation last"
    base, head, cbs, step = o['base'], done('frozen head'), [], 0.
    if head is None:
        head, *cbs = head_result(o, data, device, console)
        forward = head.seconds/(len(data.train) + len(data.valid))
        recipe = tuning_recipe(base, o)
        step = 0. if o['steps'] or o['epochs'] else seconds_of_step(recipe, data, device)
        head.chosen['fine_tuning'] = dict(step_seconds=step, steps=tuning_steps(
            o, data, recipe.batch_size, forward, step or 3*forward*recipe.batch_size, clock.spent()))
        keep('frozen head', head)
    entries.append(Entry('frozen head', head))
    steps = head.chosen['fine_tuning']['steps']
    _tell(head, steps, step or 3*head.seconds/(len(data.train) + len(data.valid))*(o['batch_size'] or 32), said)
    if steps:
        recipe = tuning_recipe(base, o, head.chosen['frozen_head']['decay']).replace(steps=steps)
        entries.append(Entry('fine-tuned', run('fine-tuned', recipe, cbs), before=head.seconds))
    if o['scratch_too']:
        seconds = max(e.before + e.result.seconds for e in entries)
        entries.append(Entry('from scratch', run('from scratch', scratch_recipe(base, o).replace(seconds=seconds), [])))
    entries.sort(key=lambda e: (e.result.accuracy, e.label == 'fine-tuned'))


