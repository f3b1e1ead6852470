"""The plan of an audit: which tricks, in how many rounds, within which time"""
import inspect
import json
import math
import warnings
from dataclasses import dataclass
from functools import cache
from statistics import median

from .audit_boundary import FIRST, longest
from .audit_rates import RUNS
from ..base.machine import default_device
from ..base.paths import records_path
from ..measure.arm_names import refusal
from ..core.components import losses, optimizers, schedules
from ..core.plan import plan
from ..core.recipe import Recipe, Trick, tricks
from ..core.train import learner
from ..nets.networks import networks
from ..nets.pretrained import pretrained

__all__ = ['Plan', 'TooShort', 'make_plan', 'promise', 'usable']


@dataclass
class Plan:
    "How an audit spends its minutes"
    seconds:float # of training, each run
    full:float # seconds of training that the recipe itself asks for
    tricks:int # how many are tried
    rounds:int # seeds for each, if none is dropped early
    most:int # seeds at most, where tricks are dropped and free their time
    pairs:int # runs of each side in the last check
    last:float = 0. # seconds of training of each of these


class TooShort(ValueError):
    "The minutes do not suffice for one trick with as many seeds as its first analysis takes"


def _runs(moves, rounds, pairs, k): # turns of `k` runs: a round that measures costs alone, rates, rounds, the rest
    n = len(moves) + 1
    return n + math.ceil(n/k)*rounds + math.ceil(RUNS/k)*(sum(moves) + any(moves)) + math.ceil(2/k)*pairs


def make_plan(
    minutes:float, # in all
    spent:float, # seconds of them that are gone
    full:float, # seconds of training of one run of the recipe, by its own budget
    least:float, # seconds of training of the shortest run that makes sense
    extra:float, # seconds that a run takes on top of its training: validation, building the network
    moves:list, # a bool for each trick that could be tried, the most promising first: must its learning rate be tuned?
    most:int=20, # seeds for each at most, at least `FIRST`
    confirm:bool=False, # is the last check made at the recipe's own length, as far as a third of the time allows?
    at_a_time:int=1 # runs of a round, of a rate's tuning or of a pair of the last check, on workers
)->Plan: # how the minutes are spent
    """The plan of an audit; where time is short it cuts the length of the runs, then tricks, then seeds

    A recipe that fine-tunes confirms at its own length: early epochs mostly train the head. Raises `TooShort` where the
    minutes do not suffice for one trick with `FIRST` seeds; it says how many do."""
    time, least, few, want = 60*minutes - spent, min(least, full), min(8, most), 0 if confirm else 5
    k, pair = at_a_time, math.ceil(2/at_a_time) # runs of a pair, one after the other
    last = min(full, time/3/(pair*FIRST) - extra) if confirm else 0. # of training, each run of such a check
    if last > 0: time -= pair*FIRST*(last + extra)
    seconds = min(full, max(least, time/_runs(moves[:6], few, want, k) - extra))
    runs = time/(seconds + extra)
    fits = [n for n in range(1, len(moves) + 1) if _runs(moves[:n], few, want, k) <= runs]
    n, pairs = (max(fits), want) if fits else (1, min(3, want))
    rounds = min(most, math.floor((runs - _runs(moves[:n], 0, pairs, k))/math.ceil((n + 1)/k)))
    if rounds < FIRST:
        need = math.ceil(10*(spent + 1.1*_runs(moves[:1], FIRST, 3, k)*(least + extra))/60)/10
        raise TooShort(f'minutes={minutes:g}: too short to compare one trick over {FIRST} seeds; '
                       f'on these images and this machine it takes about {need:g} minutes')
    return Plan(seconds, full, n, rounds, min(most, longest(rounds)), pairs or FIRST, max(seconds, last))


def _comparisons(d): # a recorded result as plain values -> pairs (recipe without, comparison)
    if d.get('kind') == 'ledger': return [(d['base']['recipe'], c) for c in d['comparisons']]
    if d.get('kind') == 'comparison': return [(d['base']['recipe'], d)]
    return [] if 'kind' in d else [p for v in d.values() for p in _comparisons(v)]


@cache
def _recorded(): # -> tuple of (trick, its parameters, network, difference), from every recorded comparison of one trick
    found = []
    for path in sorted(records_path().glob('*.json')):
        d = json.loads(path.read_text(encoding='utf-8'))
        for base, c in _comparisons(d.get('result', {'kind': ''}) if isinstance(d, dict) else {'kind': ''}):
            extra = [t for t in c['trick']['recipe']['tricks'] if t not in base['tricks']]
            single = len(extra) == 1 and len(c['trick']['recipe']['tricks']) == len(base['tricks']) + 1
            if not single or c['trick']['part'] not in ('valid', 'test'): continue
            params = {k: v for k, v in extra[0].items() if k != 'name'}
            found.append((extra[0]['name'], params, base['network'], c['difference']))
    return tuple(found)


def promise(
    trick:Trick, # with its parameters
    network:str # a name in `networks`: the network to be trained
)->float: # difference of accuracy; 0 where nothing is recorded
    "What the course recorded of a trick: the median of its differences; of another network, 0.3 points at most"
    rows = [r for r in _recorded() if r[0] == trick.name]
    rows = [r for r in rows if r[1] == trick.params()] or rows
    same = [r[3] for r in rows if r[2] == network]
    weak = [min(max(r[3], -0.003), 0.003) for r in rows] # what it did for another network is a weak hint
    return median(same or weak or [0.])


def _unfair(t, data): # '' or why a comparison on these images would say nothing
    if t.name == 'more_devices': return 'it imitates several devices; on one machine it can only cost time'
    source = pretrained[t.weights]().source if t.name == 'fine_tune' else ''
    return 'its weights were learned from these very images' if source and source in data.name else ''


def _filled(r): # a planned recipe -> its fields, arguments with their defaults
    d = r.replace(tricks=()).to_dict()
    for field, registry in dict(network=networks, optimizer=optimizers, schedule=schedules, loss=losses).items():
        params = inspect.signature(registry[d[field]]).parameters.values()
        d[f'{field}_args'] = {p.name: p.default for p in params if p.default is not p.empty} | d[f'{field}_args']
    return json.loads(json.dumps(d, default=str))


def _weights(recipe, data): # -> what the network is made of and starts with
    model = learner(recipe, data, 0, 'cpu').model
    return str(model), [v.double().sum().item() for v in model.state_dict().values()]


def _idle(base, trick, data): # has the recipe already what the trick would bring?
    if any(getattr(type(trick), hook) is not getattr(Trick, hook) for hook in ('loaders', 'callbacks', 'fit')):
        return False
    if type(trick).images is not Trick.images: return trick.images(data) is data
    if _filled(plan(base).recipe) != _filled(plan(base + trick).recipe): return False
    same = all(getattr(type(trick), hook) is getattr(Trick, hook) for hook in ('structure', 'initialise'))
    return same or _weights(base, data) == _weights(base + trick, data)


def usable(
    base:Recipe, # what the tricks are added to
    data, # `ImageData`
    names=None, # names of tricks, or `Trick`s; None: every registered one with its default settings
    device=None # torch device; None picks the fastest kind here
)->tuple: # list of `Trick`s, the most promising first; dict: those that cannot be tried -> the reason in one line
    """Which tricks an audit can try on this recipe, these images and this machine

    `TypeError` for what is neither a name nor a `Trick`, `ValueError` for an unknown name and one that comes twice."""
    asked = [tricks[t]() if isinstance(t, str) else t for t in (tricks.names() if names is None else names)]
    for t in asked:
        if not isinstance(t, Trick): raise TypeError(f'tricks: {t!r} is neither a name nor a Trick')
    if len({t.name for t in asked}) < len(asked): raise ValueError('tricks: one is named twice')
    good, refused = [], {}
    for t in asked:
        why = _unfair(t, data)
        with warnings.catch_warnings(): # of tricks that find nothing to change
            warnings.simplefilter('ignore')
            if any(b.name == t.name for b in base.tricks): why = why or 'the recipe has it already'
            try:
                why = why or refusal(base + t, data, device or default_device())
                if not why and _idle(base, t, data): why = 'the recipe has it already, or nothing for it to change'
            except ValueError as e: why = str(e)
        if why: refused[t.name] = ' '.join(why.split())
        else: good.append(t)
    return sorted(good, key=lambda t: -promise(t, base.network)), refused
