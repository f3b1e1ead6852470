"""Comparisons and ledgers as tables, sentences, figures and JSON"""
import math
from dataclasses import fields

import matplotlib.pyplot as plt
import numpy as np

from ..base.display import Table
from .arms import Arm, of_kind, read_plain
from .statistics import seeds_needed
from .verdict import Verdict

__all__ = ['ShownComparison', 'ShownLedger', 'TextAndPlot', 'points', 'percent', 'from_to', 'forest']


def points(v): # a difference of accuracies, or a bound -> '+0.42'; '?' where it is not finite
    "In percentage points"
    return f'{100*v:+.2f}' if math.isfinite(v) else '?'

def percent(arm): # `Arm` -> '91.20 ± 0.31'
    "Mean accuracy and standard deviation, in per cent"
    return f'{100*arm.mean:.2f}' + (f' ± {100*arm.sd:.2f}' if len(arm) > 1 else '')

def from_to(comparison): # `Comparison` -> '-0.10 to +0.42'
    "The interval, in percentage points"
    return ' to '.join(map(points, comparison.interval))

def _steps(arm): # the mean, and from where to where, if they differ
    low, high = arm.step_range
    return f'{arm.steps:,}' + (f' ({low:,} to {high:,})' if low < high else '')

def _seconds(arm): return f'{arm.seconds:.2f}' if math.isfinite(arm.seconds) else 'diverged'

def _delta(delta): return f'δ = {100*delta:g} point{"s" * (delta != 0.01)}'


def forest(
    ax, # matplotlib axes
    comparisons:list, # `Comparison`s with one base, at least one
    interval:str='95% interval' # what their intervals are
): # -> the axes
    "Paired differences with their intervals, a row each from top to bottom, and the band of ±δ"
    base, delta = comparisons[0].base, comparisons[0].delta
    ax.axvspan(-100*delta, 100*delta, color='0.9', label='within ±δ')
    ax.axvline(0, color='0.4', lw=1)
    for i, c in enumerate(comparisons):
        bounds = [100*(v if math.isfinite(v) else c.difference) for v in c.interval]
        ax.plot(bounds, [i, i], '-', color='C0', lw=3, alpha=.6, label=interval if i == 0 else None)
        ax.plot(100*c.difference, i, 'D', color='C0', label='mean' if i == 0 else None)
        ax.plot(100*c.differences, np.linspace(i - .34, i - .14, len(c.base)), 'o', mfc='none', color='C1', ms=5,
                label='one seed' if i == 0 else None)
    ax.set(yticks=range(len(comparisons)), yticklabels=[c.trick.name for c in comparisons],
           ylim=(len(comparisons) - .6, -.6), xlabel=f'{base.measured} on {base.part} minus that of {base.name} (points)')
    ax.legend(loc='center left', bbox_to_anchor=(1.01, .5), frameon=False, fontsize=8)
    return ax


class TextAndPlot:
    "A notebook shows `_repr_markdown_`, then `plot`"
    def _ipython_display_(self):
        from IPython.display import Markdown, display
        display(Markdown(self._repr_markdown_()))
        fig = self.plot().figure
        display(fig)
        plt.close(fig)


class ShownComparison(TextAndPlot):
    "How a `Comparison` shows itself"
    def table(self): # -> `Table`
        "Accuracy, steps and seconds of both arms"
        rows = [dict(arm=a.name, accuracy=percent(a), steps=_steps(a), seconds=_seconds(a))
                for a in (self.base, self.trick)]
        accuracy = f'{self.base.measured} on {self.base.part}, % (mean ± spread)'
        return Table(rows, dict(arm='arm', accuracy=accuracy, steps='steps', seconds='seconds'))

    def summary(self): # -> str
        "The difference, its interval and the verdict, in a sentence or two"
        n = len(self.base)
        text = (f'{self.trick.name} minus {self.base.name}: {points(self.difference)} points, '
                f'95% interval {from_to(self)}, {n} seed{"s" * (n != 1)}, equal {self.equal}. '
                f'With {_delta(self.delta)}: {self.verdict}.')
        if self.verdict != Verdict.UNDECIDED or n < 2: return text
        if self.sd < self.resolution:
            return text + f' One image is {100*self.resolution:.2g} points here: more images are needed.'
        if not self.sd: return text
        return text + f' To find a difference of δ would take about {seeds_needed(self.sd, self.delta):,} seeds.'

    def plot(self, ax=None): # matplotlib axes -> the axes
        "The paired differences: each seed a circle, the mean and its interval, and the band of ±δ"
        return forest(ax or plt.subplots(figsize=(7, 1.7), layout='constrained')[1], [self])

    def _repr_markdown_(self):
        notes = [f'\n- {n}' for a in (self.base, self.trick) for n in a.notes()]
        return f'{self.table().markdown}\n\n{self.summary()}\n' + ''.join(notes)

    def __repr__(self): return self.summary()

    def to_dict(self): # -> dict of plain values
        "Both arms, and for those who read the file, what follows from them"
        interval = [v if math.isfinite(v) else None for v in self.interval]
        own = {f.name: getattr(self, f.name) for f in fields(self)} | {'differ': list(self.differ)}
        return {'kind': type(self).__name__.lower(), **own, 'base': self.base.to_dict(), 'trick': self.trick.to_dict(),
                'difference': self.difference, 'interval': interval, 'verdict': self.verdict}

    @classmethod
    def from_dict(cls, d:dict): # what `to_dict` gave -> a comparison of the same kind
        "A comparison from plain values; what follows from the arms is worked out anew. `ValueError` for another kind"
        d = of_kind(d, cls.__name__.lower())
        own = {f.name: d[f.name] for f in fields(cls) if f.name in d}
        return cls(**own | {'base': Arm.from_dict(d['base']), 'trick': Arm.from_dict(d['trick'])})


_columns = dict(trick='trick', accuracy='accuracy, %', difference='difference, points', interval='95% interval',
                verdict='verdict', p='p (Holm)', seconds='seconds')

class ShownLedger(TextAndPlot):
    "How a `Ledger` shows itself"
    def table(self): # -> `Table`
        "A row for each trick, the best first; those that cannot be used come last, with the reason"
        corrected = self.holm()
        rows = [dict(trick=c.trick.name, accuracy=percent(c.trick), difference=points(c.difference),
                     interval=from_to(c), verdict=c.verdict, p=f'{corrected[c.trick.name]:.2g}',
                     seconds=_seconds(c.trick)) for c in self.sorted()]
        no = [dict.fromkeys(_columns, '') | dict(trick=name, verdict=f'not used: {why}')
              for name, why in self.refused.items()]
        named = {'accuracy': f'{self.comparisons[0].base.measured}, %'} if self.comparisons else {}
        return Table(rows + no, _columns | named)

    def plot(self, ax=None): # matplotlib axes -> the axes
        "All paired differences with their intervals, the best on top, and the band of ±δ"
        ax = ax or plt.subplots(figsize=(7, 1.2 + .5*len(self.comparisons)), layout='constrained')[1]
        return forest(ax, self.sorted()) if self.comparisons else ax

    def _repr_markdown_(self):
        k, notes = len(self.comparisons), [f'- {n}' for c in self.comparisons for n in c.trick.notes()]
        if not k: return self.table().markdown
        c = self.comparisons[0]
        head = (f'Base: {c.base.name}, {percent(c.base)}% on {c.base.part}, {len(c.base)} seeds, equal {c.equal}, '
                f'{_delta(c.delta)}.')
        note = ('Each interval is a 95% one by itself: of 20 tricks that do nothing, about one would be called a help '
                f'or a hurt. p (Holm) corrects for the {k} comparisons made here.')
        return '\n'.join([head, '', self.table().markdown, '', note, '', *[f'- {n}' for n in c.base.notes()], *notes])

    def __repr__(self): return '\n'.join(c.summary() for c in self.sorted())

    def to_dict(self): # -> dict of plain values
        "The base arm once, and each trick's"
        tricks = [{k: v for k, v in c.to_dict().items() if k != 'base'} for c in self.comparisons]
        base = self.comparisons[0].base.to_dict() if tricks else None
        return {'kind': 'ledger', 'base': base, 'comparisons': tricks, 'refused': self.refused}

    @classmethod
    def from_dict(cls, d:dict): # what `to_dict` gave -> Ledger
        "A ledger from plain values; `ValueError` for another kind"
        d = of_kind(d, 'ledger')
        rows = [read_plain({'kind': 'comparison', 'base': d['base'], **c}) for c in d['comparisons']]
        return cls(rows, d['refused'])
