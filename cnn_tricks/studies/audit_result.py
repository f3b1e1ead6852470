"""The result of an audit: verdicts, effects with intervals, the recipe that it recommends"""
import math, re, sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from fastcore.basics import patch

from ..measure.repeated_runs import Arm, Plain, _of_kind
from ..measure.comparison import Comparison, _display, _forest, _from_to, _percent, _points
from ..base.paths import lessons_path
from .audit_boundary import FIRST, boundary, shared_spread
from ..base.display import Table
from ..core.recipe import Recipe, tricks
from ..measure.records import code_hashes

__all__ = ['CONTROL', 'Audited', 'lesson_of', 'Audit']


@dataclass
class Audited(Comparison):
    "A comparison within an audit: its interval holds together with all the others, whenever one looks"
    factor:float = math.inf # half-width in spreads over the square root of the seeds, by `boundary`
    spread:float = math.nan # of the paired differences: its own, or the middle one of all tricks'

    @property
    def interval(self): # -> (low, high)
        "Mean difference ± factor · spread, one image at least, / √seeds; infinite before the first look"
        if not math.isfinite(self.factor): return -math.inf, math.inf
        half = self.factor*max(self.spread, self.resolution)/len(self.base)**0.5
        return self.difference - half, self.difference + half

def lesson_of(name:str)->str: # of a registered trick -> '23_schedule', or '' where it comes from no lesson
    "The lesson that defines a trick, from the header of its module"
    if name not in tricks: return ''
    source = Path(sys.modules[tricks[name].__module__].__file__ or '')
    found = re.search(r'nbs/(\d\d_\w+)\.ipynb', source.read_text(encoding='utf-8')[:1000]) if source.is_file() else None
    return found[1] if found else ''


CONTROL = 'the recipe again'

@dataclass
class Audit(Plain):
    "Which tricks help a recipe on these images and this machine; `cnn_tricks.studies.audit.audit` makes one"
    asked:dict # base (a recipe's plain values), tricks (names, or None), minutes, rounds, delta, seed, data
    arms:list = field(default_factory=list) # `Arm`s: the base, the control (the base on other seeds), the tricks
    plan:dict = field(default_factory=dict) # how the minutes were to be spent: fields of `Plan`
    refused:dict = field(default_factory=dict) # name of a trick that was not tried -> the reason
    left:dict = field(default_factory=dict) # name of a trick whose question was answered -> after how many seeds
    rounds:int = 0 # rounds that are complete
    ended:bool = False # has the last look been taken, with all the chance of error that was left?
    final:list = field(default_factory=list) # two `Arm`s on test images and fresh seeds: the base, and all that helps
    clash:dict = field(default_factory=dict) # helping trick that could not be joined to the others -> the reason
    walls:dict = field(default_factory=dict) # arm -> seconds of its last run, all in all
    spent:float = 0. # seconds so far
    finished:bool = False # False: stopped; it can go on
    about:dict = field(default_factory=dict) # date, versions, code

@patch
def to_dict(self:Audit): # -> dict of plain values
    "Every field as a plain value"
    return {'kind': 'audit', **asdict(self)} | {k: [a.to_dict() for a in getattr(self, k)] for k in ('arms', 'final')}

@patch(cls_method=True)
def from_dict(cls:Audit, d:dict): # what `to_dict` gave -> Audit
    "An audit from plain values"
    d = _of_kind(d, 'audit')
    return Audit(**d | {k: [Arm.from_dict(a) for a in d[k]] for k in ('arms', 'final')})


@patch(as_prop=True)
def delta(self:Audit): "The smallest difference that matters, in accuracy"; return self.asked['delta']
@patch(as_prop=True)
def base(self:Audit): "The arm without tricks"; return self.arms[0]

@patch
def _seeds(self:Audit, name): "Seeds that the verdict of an arm rests on"; return self.left.get(name, self.rounds)

@patch
def _own(self:Audit, n): # each arm's spread of differences over its first n seeds, or over those it had when it left
    def one(arm):
        k = min(n, self._seeds(arm.name))
        return np.std(arm.accuracies[:k] - self.base.accuracies[:k], ddof=1)
    return {arm.name: one(arm) for arm in self.arms[1:]}

@patch
def _audited(self:Audit, arm, last): # Arm -> Audited; `last`: with the factor of a last look?
    n = self._seeds(arm.name)
    pair = replace(self.base[:n], name='the recipe'), arm[:n], self.delta, 'seconds'
    differ = ('seeds',)*(arm.name == CONTROL)
    if n < FIRST: return Audited(*pair, differ=differ)
    own = self._own(n)
    spread = dict(zip(own, shared_spread(np.array(list(own.values())))))[arm.name]
    factors = boundary(self.plan['tricks'] + 1, self.plan['most'])[last]
    return Audited(*pair, factors[n], float(spread), differ=differ)


@patch(as_prop=True)
def control(self:Audit): "The recipe against itself on other seeds"; return self._one(self.arms[1])
@patch(as_prop=True)
def comparisons(self:Audit): # -> list of `Audited`
    "One for each trick, the largest difference first"
    return sorted(map(self._one, self.arms[2:]), key=lambda c: -c.difference) if self.rounds else []
@patch
def _one(self:Audit, arm): return self._audited(arm, self.ended and arm.name not in self.left)
@patch
def __getitem__(self:Audit, name:str): # of a trick -> `Audited`
    return self._one({a.name: a for a in self.arms[1:]}[name])


@patch
def look(self:Audit): # -> names of the tricks that are still open
    "Let those leave whose interval answers the question"
    open_ = [a for a in self.arms[1:] if a.name not in self.left]
    for name in [a.name for a in open_ if self._audited(a, False).verdict != 'undecided']: self.left[name] = self.rounds
    return [a.name for a in self.arms[2:] if a.name not in self.left]

@patch(as_prop=True)
def helping(self:Audit): # -> list of names
    "The tricks that help, the largest difference first"
    return [c.trick.name for c in self.comparisons if c.verdict == 'helps']
@patch(as_prop=True)
def check(self:Audit): # -> Comparison or None
    "All that helps, together, against the base: on fresh seeds and the test images"
    n = min(map(len, self.final), default=0)
    return Comparison(*(a[:n] for a in self.final), self.delta, 'seconds') if n else None


@patch(as_prop=True)
def recipe(self:Audit): # -> Recipe
    "The base with what helped, in its own budget; without, where the last check found that it hurts"
    base = Recipe.from_dict(self.asked['base'])
    if not self.final or self.check and self.check.verdict == 'hurts': return base
    return base.replace(tricks=Recipe.from_dict(self.final[1].recipe).tricks)
@patch(as_prop=True)
def stale(self:Audit): # -> list of names
    "Modules whose code has changed since"
    code = self.about.get('code', {})
    now = code_hashes(set(code))
    return [m for m, h in code.items() if now.get(m) != h]


def _named(names, how='**{}**'): return ', '.join(how.format(n) for n in names)
def _range(c): return f'{_points(c.difference)} points, interval {_from_to(c)}'

@patch
def answer(self:Audit, bold:str='**{}**')->str: # `bold`: how to write a trick's name
    "What was found, in one paragraph"
    found, d = {}, f'{100*self.delta:g} point{"s" * (self.delta != 0.01)}'
    for c in self.comparisons: found.setdefault(c.verdict, []).append(c)
    def names(v): return _named((c.trick.name for c in found[v]), bold)
    if self.rounds < FIRST: return f'Stopped before any trick had {FIRST} seeds: nothing can be said yet.'
    k = len(self.comparisons)
    text = f'{k} trick{"s were" if k != 1 else " was"} tried. '
    best = '; '.join(f'{bold.format(c.trick.name)} ({_range(c)})' for c in found.get('helps', ()))
    text += f'What helps: {best}. ' if best else 'None was found to help. '
    if 'hurts' in found: text += f'What hurts: {names("hurts")}. '
    if 'no difference beyond δ' in found: text += f'No difference beyond {d}: {names("no difference beyond δ")}. '
    if 'undecided' in found: text += f'Undecided in this time: {names("undecided")}. '
    return text + self._checked(bold)

@patch
def _checked(self:Audit, bold): # the sentence on the last check
    c = self.check
    if not c or not self.helping: return ''
    part = 'the test images' if c.base.part == 'test' else c.base.part
    return (f'{"Together" if len(c.trick.recipe["tricks"]) > len(c.base.recipe["tricks"]) + 1 else "Checked"} '
            f'on {len(c.base)} fresh seeds and {part}: {_percent(c.base)} % without, {_percent(c.trick)} % with; '
            f'{_range(c)}: {bold.format(c.verdict)}.')


_columns = dict(trick='trick', difference='difference, points', interval='interval', verdict='verdict', seeds='seeds',
                step='seconds a step, × the recipe\'s', lesson='lesson')

@patch
def rows(self:Audit)->list: # a dict for each trick tried, the control last
    "What the table shows, as text"
    def row(c):
        ratio = (c.trick.step_seconds or math.nan)/(self.base.step_seconds or math.nan)
        return dict(trick=c.trick.name, difference=_points(c.difference), interval=_from_to(c), verdict=c.verdict,
                    seeds=len(c.base), step=f'{ratio:.2f}', lesson=lesson_of(c.trick.name))
    return [row(c) for c in (*self.comparisons, self.control)] if self.rounds else []


@patch
def reasons(self:Audit)->dict: # reason -> names of the tricks that were not tried for it
    "Why some tricks were not tried"
    return {why: [n for n, w in self.refused.items() if w == why] for why in dict.fromkeys(self.refused.values())}

@patch
def table(self:Audit): # -> `Table`
    "A row for each trick, the best first; then the control, and what was not tried, with the reason"
    link = lambda stem: f'[{stem[:2]}]({stem}.ipynb)' if stem and (lessons_path()/f'{stem}.ipynb').exists() else stem
    tried = [r | dict(lesson=link(r['lesson'])) for r in self.rows()]
    no = [dict(trick=', '.join(names), verdict=f'not tried: {why}') for why, names in self.reasons().items()]
    return Table(tried + [dict.fromkeys(_columns, '') | r for r in no], _columns)

@patch
def plot(self:Audit, ax=None): # matplotlib axes -> the axes
    "All paired differences with their intervals, the best on top, the control at the bottom, and the band of ±δ"
    ax = ax or plt.subplots(figsize=(7, 1.2 + .4*len(self.arms)), layout='constrained')[1]
    return _forest(ax, [*self.comparisons, self.control])

@patch
def _repr_markdown_(self:Audit):
    return '\n'.join([self.answer(), '', self.table().markdown, '', *[f'- {n}' for a in self.arms for n in a.notes()]])
@patch
def __repr__(self:Audit): return self.answer('{}')
Audit._ipython_display_ = _display
