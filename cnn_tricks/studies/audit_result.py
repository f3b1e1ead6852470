"""The result of an audit: verdicts, effects with intervals, the recipe that it recommends"""
import math
from dataclasses import asdict, dataclass, field, replace

import matplotlib.pyplot as plt
import numpy as np

from ..measure.arms import Arm, Plain, of_kind
from ..measure.comparison import Comparison
from ..measure.comparison_display import TextAndPlot, forest, from_to, percent, points
from ..measure.statistics import p_of_interval
from ..base.paths import lesson_of_module, lessons_path
from .audit_boundary import FIRST, boundary, shared_spread
from ..base.display import Table
from ..core.recipe import Recipe, tricks
from ..measure.records import code_hashes
from ..measure.verdict import Verdict

__all__ = ['CONTROL', 'Audited', 'lesson_of', 'Audit']

CONTROL = 'the recipe again' # name of the arm that compares the recipe with itself on other seeds

_columns = dict(trick='trick', difference='difference, points', interval='interval', verdict='verdict', seeds='seeds',
                step='seconds a step, × the recipe\'s', lesson='lesson')


@dataclass
class Audited(Comparison):
    "A comparison within an audit: its interval holds together with all the others, at every interim analysis"
    factor:float = math.inf # half-width in standard deviations over the square root of the seeds, by `boundary`
    spread:float = math.nan # standard deviation of the paired differences: its own, or the median of all tricks'

    @property
    def interval(self): # -> (low, high)
        "Mean difference ± factor · spread, one image at least, / √seeds; infinite until the first interim analysis"
        if not math.isfinite(self.factor): return -math.inf, math.inf
        return self.difference - self._half, self.difference + self._half

    @property
    def _half(self): return self.factor*max(self.spread, self.resolution)/len(self.base)**0.5

    @property
    def p(self): # -> float in [0, 1]
        "p-value of no difference that goes with this interval: below 0.05 where it leaves 0 out; 1 where there is none"
        if not math.isfinite(self.factor) or not self._half: return 1.
        return p_of_interval(self.difference, self._half, len(self.base))


def lesson_of(name:str)->str: # of a registered trick -> '23_schedule', or '' where it comes from no lesson
    "The lesson that defines a trick, from the header of its module"
    return lesson_of_module(tricks[name].__module__) if name in tricks else ''


def _named(names, how='**{}**'): return ', '.join(how.format(n) for n in names)
def _range(c): return f'{points(c.difference)} points, interval {from_to(c)}'


@dataclass
class Audit(TextAndPlot, Plain):
    "Which tricks help a recipe on these images and this machine; `cnn_tricks.studies.audit.audit` makes one"
    asked:dict # base (a recipe's plain values), tricks (names, or None), minutes, rounds, delta, seed, data
    arms:list = field(default_factory=list) # `Arm`s: the base, the control (the base on other seeds), the tricks
    plan:dict = field(default_factory=dict) # how the minutes were to be spent: fields of `Plan`
    refused:dict = field(default_factory=dict) # name of a trick that was not tried -> the reason
    left:dict = field(default_factory=dict) # name of a trick whose question was answered -> after how many seeds
    rounds:int = 0 # rounds that are complete
    ended:bool = False # was the last analysis made, with all the chance of error that was left?
    final:list = field(default_factory=list) # two `Arm`s on test images and fresh seeds: the base, and all that helps
    clash:dict = field(default_factory=dict) # helping trick that could not be joined to the others -> the reason
    walls:dict = field(default_factory=dict) # arm -> seconds of its last run, all in all
    spent:float = 0. # seconds so far
    finished:bool = False # False: stopped; it can go on
    about:dict = field(default_factory=dict) # date, versions, code

    # plain values

    def to_dict(self): # -> dict of plain values
        "Every field as a plain value"
        arms = {k: [a.to_dict() for a in getattr(self, k)] for k in ('arms', 'final')}
        return {'kind': 'audit', **asdict(self)} | arms

    @classmethod
    def from_dict(cls, d:dict): # what `to_dict` gave -> Audit
        "An audit from plain values; `ValueError` where they are not an audit's"
        d = of_kind(d, 'audit')
        return cls(**d | {k: [Arm.from_dict(a) for a in d[k]] for k in ('arms', 'final')})

    # what was asked and compared

    @property
    def delta(self):
        "The smallest difference that matters, in accuracy"
        return self.asked['delta']

    @property
    def base(self):
        "The arm without tricks"
        return self.arms[0]

    @property
    def control(self): # -> `Audited`
        "The recipe against itself on other seeds"
        return self._one(self.arms[1])

    @property
    def comparisons(self): # -> list of `Audited`
        "One for each trick, the largest difference first"
        return sorted(map(self._one, self.arms[2:]), key=lambda c: -c.difference) if self.rounds else []

    def __getitem__(self, name:str): # of a trick -> `Audited`
        return self._one({a.name: a for a in self.arms[1:]}[name])

    def _seeds(self, name): # seeds that the verdict of an arm rests on
        return self.left.get(name, self.rounds)

    def _own(self, n): # each arm's standard deviation of differences over its first n seeds, or as many as it has
        def one(arm):
            k = min(n, self._seeds(arm.name))
            return np.std(arm.accuracies[:k] - self.base.accuracies[:k], ddof=1)
        return {arm.name: one(arm) for arm in self.arms[1:]}

    def _audited(self, arm, last): # Arm -> Audited; `last`: with the factor of the last analysis?
        n = self._seeds(arm.name)
        pair = replace(self.base[:n], name='the recipe'), arm[:n], self.delta, 'seconds'
        differ = ('seeds',)*(arm.name == CONTROL)
        if n < FIRST: return Audited(*pair, differ=differ)
        own = self._own(n)
        spread = dict(zip(own, shared_spread(np.array(list(own.values())))))[arm.name]
        factors = boundary(self.plan['tricks'] + 1, self.plan['most'])[last]
        return Audited(*pair, factors[n], float(spread), differ=differ)

    def _one(self, arm): # Arm -> Audited, with the factor that is due
        return self._audited(arm, self.ended and arm.name not in self.left)

    # what was decided

    def interim_analysis(self): # -> names of the tricks that are still open
        "Drop the tricks whose interval answers the question"
        open_ = [a for a in self.arms[1:] if a.name not in self.left]
        answered = [a.name for a in open_ if self._audited(a, False).verdict != Verdict.UNDECIDED]
        for name in answered: self.left[name] = self.rounds
        return [a.name for a in self.arms[2:] if a.name not in self.left]

    @property
    def helping(self): # -> list of names
        "The tricks that help, the largest difference first"
        return [c.trick.name for c in self.comparisons if c.verdict == Verdict.HELPS]

    @property
    def check(self): # -> Comparison or None
        "All that helps, together, against the base: on fresh seeds and the test images"
        n = min(map(len, self.final), default=0)
        return Comparison(*(a[:n] for a in self.final), self.delta, 'seconds') if n else None

    @property
    def recipe(self): # -> Recipe
        "The base with what helped, in its own budget; without, where the last check found that it hurts"
        base = Recipe.from_dict(self.asked['base'])
        if not self.final or self.check and self.check.verdict == Verdict.HURTS: return base
        return base.replace(tricks=Recipe.from_dict(self.final[1].recipe).tricks)

    @property
    def stale(self): # -> list of names
        "Modules whose code has changed since"
        code = self.about.get('code', {})
        now = code_hashes(set(code))
        return [m for m, h in code.items() if now.get(m) != h]

    # how it is told

    def answer(self, bold:str='**{}**')->str: # `bold`: how to write a trick's name
        "What was found, in one paragraph"
        found, d = {}, f'{100*self.delta:g} point{"s" * (self.delta != 0.01)}'
        for c in self.comparisons: found.setdefault(c.verdict, []).append(c)
        def names(v): return _named((c.trick.name for c in found[v]), bold)
        if self.rounds < FIRST: return f'Stopped before any trick had {FIRST} seeds: nothing can be said yet.'
        k = len(self.comparisons)
        text = f'{k} trick{"s were" if k != 1 else " was"} tried. '
        best = '; '.join(f'{bold.format(c.trick.name)} ({_range(c)})' for c in found.get(Verdict.HELPS, ()))
        text += f'What helps: {best}. ' if best else 'None was found to help. '
        rest = {Verdict.HURTS: 'What hurts', Verdict.NO_DIFFERENCE: f'No difference beyond {d}',
                Verdict.UNDECIDED: 'Undecided in this time'}
        text += ''.join(f'{said}: {names(v)}. ' for v, said in rest.items() if v in found)
        return text + self._checked(bold)

    def _checked(self, bold): # the sentence on the last check
        c = self.check
        if not c or not self.helping: return ''
        part = 'the test images' if c.base.part == 'test' else c.base.part
        return (f'{"Together" if len(c.trick.recipe["tricks"]) > len(c.base.recipe["tricks"]) + 1 else "Checked"} '
                f'on {len(c.base)} fresh seeds and {part}: {percent(c.base)} % without, {percent(c.trick)} % with; '
                f'{_range(c)}: {bold.format(c.verdict)}.')

    def rows(self)->list: # a dict for each trick tried, the control last
        "What the table shows, as text"
        def row(c):
            ratio = (c.trick.step_seconds or math.nan)/(self.base.step_seconds or math.nan)
            return dict(trick=c.trick.name, difference=points(c.difference), interval=from_to(c), verdict=c.verdict,
                        seeds=len(c.base), step=f'{ratio:.2f}', lesson=lesson_of(c.trick.name))
        return [row(c) for c in (*self.comparisons, self.control)] if self.rounds else []

    def reasons(self)->dict: # reason -> names of the tricks that were not tried for it
        "Why some tricks were not tried"
        return {why: [n for n, w in self.refused.items() if w == why] for why in dict.fromkeys(self.refused.values())}

    def table(self): # -> `Table`
        "A row for each trick, the best first; then the control, and what was not tried, with the reason"
        def link(stem):
            there = stem and (lessons_path()/f'{stem}.ipynb').exists()
            return f'[{stem[:2]}]({stem}.ipynb)' if there else stem
        tried = [r | dict(lesson=link(r['lesson'])) for r in self.rows()]
        no = [dict(trick=', '.join(names), verdict=f'not tried: {why}') for why, names in self.reasons().items()]
        return Table(tried + [dict.fromkeys(_columns, '') | r for r in no], _columns)

    def plot(self, ax=None): # matplotlib axes -> the axes
        "All paired differences with their intervals, the best on top, the control at the bottom, and the band of ±δ"
        ax = ax or plt.subplots(figsize=(7, 1.2 + .4*len(self.arms)), layout='constrained')[1]
        return forest(ax, [*self.comparisons, self.control])

    def _repr_markdown_(self):
        notes = [f'- {n}' for a in self.arms for n in a.notes()]
        return '\n'.join([self.answer(), '', self.table().markdown, '', *notes])

    def __repr__(self): return self.answer('{}')
