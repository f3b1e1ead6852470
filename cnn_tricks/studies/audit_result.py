"""The result of an audit: verdicts, effects with intervals, the recipe that it recommends"""
import math
from dataclasses import asdict, dataclass, field, replace
from statistics import median

import matplotlib.pyplot as plt
import numpy as np

from ..measure.arms import Arm, Plain, of_kind
from ..measure.comparison import Comparison
from ..measure.comparison_display import TextAndPlot, forest, from_to, percent, points
from ..measure.statistics import MeanInterval, paired_t
from ..base.paths import lesson_of_module, lessons_path
from .audit_boundary import FIRST, level
from ..base.display import Table
from ..core.recipe import Recipe, tricks
from ..measure.records import code_hashes
from ..measure.verdict import Verdict

__all__ = ['INTERVAL', 'Audited', 'packed', 'lesson_of', 'Audit']

INTERVAL = 'simultaneous 95% interval' # what the intervals of an audit are: all of them together, at every analysis

_columns = dict(trick='trick', difference='difference, points', interval='interval', verdict='verdict', seeds='seeds',
                step='seconds a step, × the recipe\'s', lesson='lesson')


@dataclass
class Audited(Comparison):
    """A comparison within an audit: Student's t at its own share of the chance of an error, the variance of the mean
    corrected for images that rounds share (Nadeau and Bengio 2003, section 5)"""
    level:float = 0. # of the interval; 0: before the first analysis, when nothing can be said
    share:float = 0. # added to 1/seeds in the variance of the mean

    @property
    def _t(self):
        if not self.level: return MeanInterval(self.difference, -math.inf, math.inf, 1.)
        return paired_t(self.differences, self.resolution, self.share, self.level)


def packed(
    right:np.ndarray # bool (images,): which were recognised
)->str: # eight images in two hexadecimal digits
    "A row of yes and no as text"
    return np.packbits(right).tobytes().hex()


def _unpacked(rows, n): # texts of `packed` -> bool (runs, n)
    return np.array([np.unpackbits(np.frombuffer(bytes.fromhex(r), np.uint8), count=n) for r in rows]).reshape(-1, n)


def lesson_of(name:str)->str: # of a registered trick -> '23_schedule', or '' where it comes from no lesson
    "The lesson that defines a trick, from the header of its module"
    return lesson_of_module(tricks[name].__module__) if name in tricks else ''


def _named(names, how='**{}**'): return ', '.join(how.format(n) for n in names)
def _range(c): return f'{points(c.difference)} points, interval {from_to(c)}'


@dataclass
class Audit(TextAndPlot, Plain):
    "Which tricks help a recipe on these images and this machine; `cnn_tricks.studies.audit.audit` makes one"
    asked:dict # base (plain values), tricks (names, or None), minutes, rounds, delta, seed, data, metric, equal
    arms:list = field(default_factory=list) # `Arm`s: the base, then the tricks
    plan:dict = field(default_factory=dict) # how the minutes are to be spent: fields of `Plan`, and what `prepare` adds
    refused:dict = field(default_factory=dict) # name of a trick that was not tried, or dropped -> the reason
    twins:dict = field(default_factory=dict) # 'test in train' -> images of test that stand in train, too
    heads:dict = field(default_factory=dict) # of `try_heads`, where the recipe fine-tunes
    tuned:dict = field(default_factory=dict) # arm -> [learning rate, score] of each that was tried; None: it diverged
    costs:dict = field(default_factory=dict) # trick -> seconds a step over the base's: before the rounds, and of each
    analysed:list = field(default_factory=list) # [seeds, share of alpha] of each analysis that was made
    left:dict = field(default_factory=dict) # name of a trick whose question was answered -> after how many seeds
    rounds:int = 0 # rounds that are complete
    ended:bool = False # was the last analysis made?
    final:list = field(default_factory=list) # two `Arm`s on test images and fresh seeds: the base, and all that helps
    right:dict = field(default_factory=dict) # arm of the last check -> which test images each run recognised, `packed`
    reads:int|None = None # how often these test images had been read before; None: nobody keeps a log
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
    def comparisons(self): # -> list of `Audited`
        "One for each trick, the largest difference first"
        return sorted(map(self._one, self.arms[1:]), key=lambda c: -c.difference) if self.rounds else []

    def __getitem__(self, name:str): # of a trick -> `Audited`
        return self._one({a.name: a for a in self.arms[1:]}[name])

    def _one(self, arm): # Arm -> Audited, as the last analysis that it took part in left it
        upto = self.left.get(arm.name, self.rounds)
        made = [a for a in self.analysed if a[0] <= upto]
        if not made: return self._audited(arm, upto, 0.)
        return self._audited(arm, *made[-1])

    def _audited(self, arm, n, share): # `n` seeds; `share` of alpha: 0 before the first analysis
        pair = replace(self.base[:n], name='the recipe'), arm[:n], self.delta, self.asked['equal']
        at = level(self.plan['tricks'], share) if share else 0.
        return Audited(*pair, at, self.plan['correction'])

    # what was decided

    def interim_analysis(self,
        share:float # of alpha that it may spend, in (0, 1]
    ): # -> names of the tricks that are still open
        "Drop the tricks whose interval answers the question"
        self.analysed.append([self.rounds, share])
        for a in self.arms[1:]:
            if a.name not in self.left and self._one(a).verdict != Verdict.UNDECIDED: self.left[a.name] = self.rounds
        return self.open

    @property
    def open(self): # -> list of names
        "The tricks that are not answered yet"
        return [a.name for a in self.arms[1:] if a.name not in self.left]

    @property
    def helping(self): # -> list of names
        "The tricks that help, the largest difference first"
        return [c.trick.name for c in self.comparisons if c.verdict == Verdict.HELPS]

    @property
    def check(self): # -> `Audited` or None
        """All that helps, together, against the base: on fresh seeds and the test images. The variance of the mean
        holds that of the test images, too: they are the same in all runs"""
        n = min(map(len, self.final), default=0)
        if not n: return None
        c = Audited(*(a[:n] for a in self.final), self.delta, self.asked['equal'], 0.95)
        images = self.final[0].data['test']
        without, with_ = (_unpacked(self.right[a.name][:n], images) for a in self.final)
        gain = with_.mean(0) - without.mean(0) # of each image, over the seeds
        spread = max(c.sd, c.resolution) if n > 1 else math.nan
        return replace(c, share=float(gain.var(ddof=1))/images/spread**2) if n > 1 and images > 1 else c

    @property
    def recipe(self): # -> Recipe
        "The base with what helped, in its own budget, where the last check found that it helps; else the base"
        base = Recipe.from_dict(self.asked['base'])
        diverged = any(r.diverged for arm in self.final for r in arm.runs)
        if not self.check or diverged or self.check.verdict != Verdict.HELPS: return base
        found = Recipe.from_dict(self.final[1].recipe)
        return base.replace(tricks=found.tricks, lr=found.lr)

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
        if not self.analysed: return f'Stopped before any trick had {FIRST} seeds: nothing can be said yet.'
        k = len(self.comparisons)
        text = f'{k} trick{"s were" if k != 1 else " was"} tried. '
        best = '; '.join(f'{bold.format(c.trick.name)} ({_range(c)})' for c in found.get(Verdict.HELPS, ()))
        text += f'What helps: {best}. ' if best else 'None was found to help. '
        rest = {Verdict.HELPS_LITTLE: f'Helps, by less than {d}', Verdict.HURTS: 'What hurts',
                Verdict.NO_DIFFERENCE: f'No difference beyond {d}', Verdict.UNDECIDED: 'Undecided in this time'}
        text += ''.join(f'{said}: {names(v)}. ' for v, said in rest.items() if v in found)
        return text + self._checked(bold)

    def _checked(self, bold): # the sentence on the last check
        c = self.check
        if not c or not self.helping: return ''
        base = Recipe.from_dict(self.asked['base'])
        text = (f'{"Together" if len(c.trick.recipe["tricks"]) > len(base.tricks) + 1 else "Checked"} '
                f'on {len(c.base)} fresh seeds and the test images: {percent(c.base)} % without, {percent(c.trick)} % '
                f'with; {_range(c)}: {bold.format(c.verdict)}.')
        if c.verdict == Verdict.HURTS: text += ' That contradicts the rounds: what they said of these tricks is void.'
        return text + ' The recipe stays as it was.'*(self.recipe == base)

    def notes(self)->list: # of str
        "What to know beside the verdicts: twins, earlier reads of the test images, rates, runs that diverged"
        out = [f'Images that stand in two parts: {n} of {part.replace(" in ", " have a twin in ")}. '
               'find_duplicates shows them.' for part, n in self.twins.items()]
        if self.reads and self.final:
            out.append(f'These test images had been read {self.reads} time{"s"*(self.reads != 1)} before: '
                       'what was chosen by them looks better on them than it is.')
        return out + [n for a in [*self.arms, *self.final] for n in a.notes()]

    def rows(self)->list: # a dict for each trick tried
        "What the table shows, as text"
        def row(c):
            ratio = median(self.costs.get(c.trick.name) or [math.nan])
            return dict(trick=c.trick.name, difference=points(c.difference), interval=from_to(c), verdict=c.verdict,
                        seeds=len(c.base), step=f'{ratio:.2f}', lesson=lesson_of(c.trick.name))
        return [row(c) for c in self.comparisons]

    def reasons(self)->dict: # reason -> names of the tricks that were not tried for it
        "Why some tricks were not tried"
        return {why: [n for n, w in self.refused.items() if w == why] for why in dict.fromkeys(self.refused.values())}

    def table(self): # -> `Table`
        "A row for each trick, the best first; then what was not tried, or dropped, with the reason"
        def link(stem):
            there = stem and (lessons_path()/f'{stem}.ipynb').exists()
            return f'[{stem[:2]}]({stem}.ipynb)' if there else stem
        tried = [r | dict(lesson=link(r['lesson'])) for r in self.rows()]
        no = [dict(trick=', '.join(names), verdict=f'not tried: {why}') for why, names in self.reasons().items()]
        return Table(tried + [dict.fromkeys(_columns, '') | r for r in no], _columns)

    def plot(self, ax=None): # matplotlib axes -> the axes
        "All paired differences with their intervals, the best on top, and the band of ±δ"
        ax = ax or plt.subplots(figsize=(7, 1.2 + .4*len(self.arms)), layout='constrained')[1]
        return forest(ax, self.comparisons, INTERVAL)

    def _repr_markdown_(self):
        return '\n'.join([self.answer(), '', self.table().markdown, '', *(f'- {n}' for n in self.notes())])

    def __repr__(self): return self.answer('{}')
