"""A recipe: the plain values and the tricks that say what a training run does"""
import dataclasses, json
from dataclasses import dataclass, field, fields

from ..base.fields import bounded, check_fields
from ..base.registry import Registry
from ..nets.networks import networks
from .components import losses, optimizers, plain_args, schedules
from .named_values import frozen
from .trick import Card, Trick, trick, tricks

__all__ = ['Card', 'Trick', 'trick', 'tricks', 'recipes', 'Recipe', 'BASELINE', 'FAST']


recipes = Registry('recipe')

_budgets = 'epochs', 'steps', 'seconds'


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run but the data and the seed, as plain values, checked at construction.

    `ValueError` for a value out of its range, an unknown name, two budgets or two tricks that cannot both act;
    `TypeError` for a value of another type. Each message names the field, the value and what it must be.
    """
    network:str = 'article' # a name in `networks`
    network_args:dict = field(default_factory=dict) # keyword arguments of that network
    size:int = bounded(None, ge=1, optional=True) # image side in pixels; None keeps the data's own
    batch_size:int = bounded(64, ge=1) # images per step
    epochs:float = bounded(None, gt=0, optional=True) # budget: passes over the training images
    steps:int = bounded(None, ge=1, optional=True) # budget: optimiser steps
    seconds:float = bounded(None, gt=0, optional=True) # budget: seconds of training on this machine
    optimizer:str = 'adam' # a name in `optimizers`
    optimizer_args:dict = field(default_factory=dict) # keyword arguments of that optimiser
    lr:float = bounded(1e-3, gt=0) # peak learning rate
    schedule:str = 'fixed' # a name in `schedules`
    schedule_args:dict = field(default_factory=dict) # keyword arguments of that schedule
    loss:str = 'cross_entropy' # a name in `losses`
    loss_args:dict = field(default_factory=dict) # keyword arguments of that loss
    channels_last:bool = False # lay images and weights out as (N, H, W, C) in memory
    tricks:tuple = () # `Trick`s, applied in this order

    def __post_init__(self):
        if all(getattr(self, b) is None for b in _budgets): object.__setattr__(self, 'epochs', 5.)
        if not isinstance(self.tricks, (tuple, list)):
            raise TypeError(f'tricks={self.tricks!r}: must be a list of tricks')
        object.__setattr__(self, 'tricks', tuple(self.tricks))
        check_fields(self)
        self._check_budget()
        self._check_names()
        _check_tricks(self.tricks)

    def _check_budget(self):
        given = [b for b in _budgets if getattr(self, b) is not None]
        if len(given) > 1: raise ValueError(f"{' and '.join(given)} are both set: a recipe has one budget")

    def _check_names(self):
        for name, reg in dict(network=networks, optimizer=optimizers, schedule=schedules, loss=losses).items():
            args = f'{name}_args'
            object.__setattr__(self, args, plain_args(reg, getattr(self, name), getattr(self, args), args))

    def __hash__(self): return hash(frozen(self.to_dict()))

    def replace(self, **changes): # -> Recipe
        "A copy with some fields changed; a new budget takes the place of the old one; errors as at construction"
        if any(changes.get(b) is not None for b in _budgets): changes = dict.fromkeys(_budgets) | changes
        return dataclasses.replace(self, **changes)

    def __add__(self, trick): # a `Trick` -> Recipe
        "The recipe with one trick more"
        return self.replace(tricks=self.tricks + (trick,))

    def to_dict(self): # -> dict of plain values
        "Every field as a plain value; a trick becomes its name and its parameters"
        d = {f.name: getattr(self, f.name) for f in fields(self)}
        return d | {'tricks': [{'name': t.name, **t.params()} for t in self.tricks]}

    @classmethod
    def from_dict(cls, d:dict): # what `to_dict` gave, or part of it -> Recipe
        "A recipe from plain values; missing fields keep their defaults, unknown ones raise `ValueError`"
        known = {f.name for f in fields(Recipe)}
        if unknown := sorted(set(d) - known):
            raise ValueError(f"unknown recipe field {unknown[0]!r}; fields: {', '.join(sorted(known))}")
        named = d.get('tricks', [])
        if not isinstance(named, (list, tuple)): raise TypeError(f'tricks={named!r}: must be a list of tricks')
        return Recipe(**d | {'tricks': tuple(map(_make_trick, named))})

    def to_json(self): # -> str
        "The recipe as JSON text"
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text:str): # what `to_json` gave -> Recipe
        "A recipe from JSON text; `ValueError` where it is not a JSON object, else as `from_dict`"
        d = json.loads(text.removeprefix('\ufeff')) # some editors begin a file with a byte order mark
        if not isinstance(d, dict):
            raise ValueError('a recipe is a JSON object, as {"network": "article", "epochs": 5}')
        return Recipe.from_dict(d)


def _check_tricks(ts):
    does = {}
    for t in ts:
        if not isinstance(t, Trick): raise TypeError(f'tricks={t!r}: must be Trick instances')
        try: json.dumps(t.params(), allow_nan=False)
        except (TypeError, ValueError) as e: raise type(e)(f'trick {t.name!r}, {t.params()}: {e}') from None
        for role in [t.alone]*bool(t.alone) + ['replace the fit']*(type(t).fit is not Trick.fit):
            if role in does: raise ValueError(f'tricks {does[role]} and {t.name} both {role}: use one of them')
            does[role] = t.name


def _make_trick(d): # {'name': ..., parameter: value, ...} -> Trick
    if not isinstance(d, dict) or not isinstance(d.get('name'), str):
        raise ValueError(f'trick {d!r}: needs a name, as in {{"name": "flip_shift"}}')
    d = dict(d)
    name = d.pop('name')
    tricks.check_args(name, d, f'trick {name!r}')
    return tricks[name](**d)


BASELINE = recipes.register('baseline', Recipe(epochs=5))
FAST = recipes.register('fast', Recipe(
    network='plain', optimizer='adamw', lr=0.006, schedule='one_cycle', channels_last=True, epochs=7))
