"""Runs and arms as plain values, written as JSON and read back"""
import json, math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ..base.files import atomic_write
from ..base.registry import import_modules
from .statistics import sample_sd

__all__ = ['Plain', 'read_plain', 'of_kind', 'Run', 'Arm']


class Plain:
    "What is kept as JSON and read back; each kind is known by its class's name in small letters"
    kinds = {}
    def __init_subclass__(cls): Plain.kinds[cls.__name__.lower()] = cls

    def to_json(self): "As JSON text"; return json.dumps(self.to_dict(), indent=1)

    def save(self, path:Path): # the file to write
        "Write the JSON, whole or not at all"
        with atomic_write(path) as f: f.write(self.to_json().encode())

    @classmethod
    def load(cls, path:Path): # what `save` wrote
        "Read what `save` wrote; `ValueError` for a file that holds another kind"
        return cls.from_dict(json.loads(Path(path).read_text(encoding='utf-8')))


def read_plain(d:dict): # what some `to_dict` gave -> the object
    """Read plain values back as what they were; a kind that nobody has imported yet is looked for in the whole package.
    `ValueError` for an unknown kind"""
    kind = d.get('kind') if isinstance(d, dict) else None
    if kind not in Plain.kinds: import_modules()
    if kind not in Plain.kinds: raise ValueError(f'kind={kind!r}: must be one of {", ".join(sorted(Plain.kinds))}')
    return Plain.kinds[kind].from_dict(d)


def of_kind(
    d:dict, # what `to_dict` gave
    kind:str # what it should be: 'arm'
)->dict: # without its kind
    "Plain values of one kind; `ValueError` if they are of another"
    if not isinstance(d, dict) or d.get('kind') != kind: raise ValueError(f'must be a {kind}, as its to_dict gave it')
    return {k: v for k, v in d.items() if k != 'kind'}


@dataclass
class Run:
    "One training run, in plain values"
    seed:int # decides weights, order, augmentation and dropout
    accuracy:float # on the part that is compared, in [0, 1]; where its `Arm` names another metric, that one
    valid:float # the same on the validation part
    steps:int # optimiser steps
    seconds:float = None # of training, validation left out; None where it diverged
    history:list = field(default_factory=list) # a dict per validation: step, seconds, accuracy
    diverged:str = '' # the message, where the loss stopped being a number
    chosen:dict = field(default_factory=dict) # what was measured and not given, by callback, as in `Result`

    def time_to(self, target:float): # accuracy in [0, 1] -> seconds, or None if never reached
        "Seconds of training until a validation first reached `target`"
        return next((h['seconds'] for h in self.history if h['accuracy'] >= target), None)


@dataclass
class Arm(Plain):
    "One side of a comparison: a recipe, and its runs over several seeds"
    name:str # what tables and plots call it
    recipe:dict # plain values, as from `Recipe.to_dict`
    runs:list # `Run`s, in the order of the seeds
    part:str = 'valid' # where accuracy was measured
    data:dict = field(default_factory=dict) # name and fingerprint of the data, images in each part
    machine:dict = field(default_factory=dict) # where it ran
    lrs:list = field(default_factory=list) # [lr, validation accuracy] of each learning rate tried
    step_seconds:float = None # measured before the runs, where steps were planned from seconds
    metric:str = 'accuracy' # what `Run.accuracy` holds: a name in `metrics`

    @property
    def measured(self): "The metric in words: 'balanced accuracy'"; return self.metric.replace('_', ' ')
    @property
    def accuracies(self): "Accuracy (or the arm's metric) of each run: (runs,), in [0, 1]"; return np.array([r.accuracy for r in self.runs])
    @property
    def mean(self): "Mean accuracy"; return float(self.accuracies.mean())
    @property
    def sd(self): "Standard deviation of the accuracy between seeds; nan for one run"; return sample_sd(self.accuracies)
    @property
    def seeds(self): "The seeds, in order"; return tuple(r.seed for r in self.runs)
    @property
    def steps(self): "Optimiser steps of a run; the mean, if some stopped early"; return round(self._steps.mean())
    @property
    def step_range(self): "Fewest and most steps of a run"; return int(self._steps.min()), int(self._steps.max())
    @property
    def _steps(self): return np.array([r.steps for r in self.runs])
    @property
    def seconds(self):
        "Mean seconds of training of the runs that did not diverge; nan if all did"
        done = [r.seconds for r in self.runs if not r.diverged]
        return float(np.mean(done)) if done else math.nan

    def __len__(self): return len(self.runs)
    def __getitem__(self, which:slice): "Some of the runs, as an arm"; return replace(self, runs=self.runs[which])

    def to_dict(self): # -> dict of plain values
        "Every field as a plain value"
        return {'kind': 'arm', **asdict(self)}

    @classmethod
    def from_dict(cls, d:dict): # what `to_dict` gave -> Arm
        "An arm from plain values; `ValueError` if they are of another kind"
        d = of_kind(d, 'arm')
        return Arm(**d | {'runs': [Run(**r) for r in d['runs']]})

    def notes(self): # -> list of str
        "What a reader must know of the arm: runs that diverged, learning rates tried"
        out, bad = [], sum(bool(r.diverged) for r in self.runs)
        if bad:
            out.append(f'{self.name}: {bad} of {len(self)} runs diverged; each counts as guessing the commonest class.')
        if self.lrs:
            tried, best = sorted(lr for lr, _ in self.lrs), self.recipe['lr']
            edge = ', at the edge of the grid: a wider one may find better' if best in (tried[0], tried[-1]) else ''
            rates = ', '.join(f'{lr:g}' for lr in tried)
            out.append(f'{self.name}: lr {best:g} of {rates}, chosen on another seed{edge}.')
        return out
