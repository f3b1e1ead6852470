"""The matrix: what each trick did on each bench at each length, from the records; as cells, table, text and figure"""
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.display import Shown, Table
from ..base.paths import lesson_of_module
from ..core.recipe import tricks
from .bench_record import BenchRecord, benches_path
from .benches import in_epochs
from .statistics import holm, paired_t
from .verdict import Verdict

__all__ = ['Cell', 'recorded_benches', 'cells_of', 'epochs_to', 'base_rows', 'signed_points',
           'delta_text', 'matrix_table', 'matrix_summary', 'matrix_figure']

_signs = {Verdict.HELPS: '▲', Verdict.HELPS_LITTLE: '△', Verdict.HURTS: '▼', Verdict.NO_DIFFERENCE: '=',
          Verdict.UNDECIDED: '?'}



@dataclass
class Cell:
    "What an arm did on a bench at a length: with minus without, in accuracy, on test images"
    bench:str
    arm:str
    epochs:float
    base:float # mean accuracy without
    difference:float # mean of the paired differences
    low:float # of the 95% interval
    high:float
    p:float # of no difference
    seeds:int # pairs
    delta:float # the smallest difference that matters
    holm:float = 1. # `p` corrected for all cells of the bench
    cost:float = math.nan # times the base's step; nan where it was not measured
    saved:float = math.nan # seconds to the target accuracy, the base's minus the arm's; nan where one is not known
    idle:bool = False # did every run come out as the base's, to the last loss? The trick has nothing to act on

    @property
    def word(self): # -> Verdict
        "That there is a difference is said by the corrected p; how large it is, by the interval"
        if self.holm < 0.05: return Verdict.of(self.low, self.high, self.delta)
        inside = -self.delta <= self.low and self.high <= self.delta
        return Verdict.NO_DIFFERENCE if inside else Verdict.UNDECIDED

    @property
    def points(self): # -> str
        "The mean difference and its 95% interval, in percentage points: '+0.8 [+0.1 to +1.4]'"
        mean, low, high = (f'{round(100*v, 1) + 0.:+.1f}' for v in (self.difference, self.low, self.high)) # no minus 0
        return f'{mean} [{low} to {high}]'.replace('-', '−')

    @property
    def verdict(self): # -> str
        "The word, with δ written out: 'no difference beyond 1 point'"
        return 'the same runs' if self.idle else str(self.word).replace('δ', delta_text(self.delta))

    @property
    def marked(self): # -> str
        "The mean difference in percentage points, and a sign for the word: '+0.52 ▲'"
        return '–' if self.idle else f'{signed_points(self.difference)} {_signs[self.word]}'

    def coloured(self,
        text:str, # '+0.52 ▲', 'helps'
        kind:str='ct-word' # class of CSS: 'ct-cell' in the matrix, whose rows are low
    )->str: # HTML
        "A text in the colour that the word has on a page"
        return f'<span class="{kind} ct-{str(self.word).split()[0].strip(",")}">{text}</span>'


def recorded_benches(
    folder:Path=None # where the records lie; None: those that came with the package
)->dict: # name -> `BenchRecord`
    "All benches that were recorded, those with most arms first; `ValueError` for a file that holds none"
    found = {p.stem: BenchRecord.load(p) for p in sorted(Path(folder or benches_path()).glob('*.json'))}
    return dict(sorted(found.items(), key=lambda f: -len(f[1].recipes)))


def cells_of(
    record:BenchRecord
)->list: # a `Cell` for each arm and length with two pairs or more, the largest effect first
    """Compare every arm with the base over the seeds that both have; p is corrected over all of them (Holm 1979) but those
    whose runs are the base's"""
    lengths = sorted({r['epochs'] for r in record.runs})
    cells = [c for arm in record.recipes if arm != 'base' for e in lengths if (c := _cell(record, arm, e))]
    judged = [c for c in cells if not c.idle]
    for c, p in zip(judged, holm([c.p for c in judged])): c.holm = p
    return sorted(cells, key=lambda c: -c.difference)


def _cell(record, arm, epochs): # None: fewer than two pairs
    runs = [{r['seed']: r for r in record.find(n, epochs)} for n in ('base', arm)]
    seeds = sorted(runs[0].keys() & runs[1].keys())
    if len(seeds) < 2: return None
    base, other = (np.array([r[s]['accuracy'] for s in seeds]) for r in runs)
    idle = all(runs[0][s]['curve'] and runs[0][s]['curve'] == runs[1][s]['curve'] for s in seeds)
    t = paired_t(record.signs.get(arm, 1)*(other - base), 1/record.data['test'])
    return Cell(record.name, arm, epochs, float(base.mean()), t.mean, t.low, t.high, t.p, len(seeds), record.delta,
                cost=_cost(record, arm), saved=_saved(record, arm), idle=idle)


def _cost(record, arm): # of having it, not of lacking it
    ratios = record.costs.get(arm, {}).get('ratios')
    return float(np.median(ratios))**record.signs.get(arm, 1) if ratios else math.nan


def epochs_to(
    record:BenchRecord,
    arm:str, # its name
    target:float=None # accuracy; None: the bench's own
)->float: # nan where no two lengths enclose it
    "How many passes over the images a run needs to end at the target: between two lengths, straight in log(epochs)"
    target = record.target if target is None else target
    mean = {e: np.mean([r['accuracy'] for r in record.find(arm, e)]) for e in sorted({r['epochs'] for r in record.runs})
            if record.find(arm, e)}
    for (e0, a0), (e1, a1) in zip(mean.items(), list(mean.items())[1:]):
        if a0 < target <= a1: return float(e0*(e1/e0)**((target - a0)/(a1 - a0)))
    return math.nan


def _saved(record, arm):
    steps = {r['arm']: r['steps']/r['epochs'] for r in record.runs if r['steps']} # of an epoch
    cost = record.costs.get(arm, {}).get('ratios')
    if not cost or 'base' not in record.costs or not steps.keys() >= {'base', arm}: return math.nan
    step = record.costs['base']['milliseconds']/1000
    def seconds(n, ratio): return epochs_to(record, n)*steps[n]*step*ratio
    return record.signs.get(arm, 1)*(seconds('base', 1.) - seconds(arm, float(np.median(cost))))


# shown

def signed_points(
    x:float # a difference in accuracy
)->str: # '+0.52'
    "In percentage points, without a minus before 0"
    return f'{round(100*x, 2) + 0.:+.2f}'.replace('-', '−')


def delta_text(
    delta:float # in accuracy
)->str: # '1 point', '0.5 points'
    "A smallest difference that matters, in words"
    return f'{100*delta:g} point' + 's'*(delta != 0.01)


def base_rows(
    record:BenchRecord
)->list: # a dict for each length: length, seeds, accuracy, said (with its interval, in percent), seconds
    "The base alone: mean test accuracy with Student's 95% interval over the seeds"
    out = []
    for e in sorted({r['epochs'] for r in record.runs}):
        found = record.find('base', e)
        acc = np.array([r['accuracy'] for r in found])
        t = paired_t(acc, 1/record.data['test'])
        between = f' ({100*t.low:.2f} to {100*t.high:.2f})'*(len(acc) > 1)
        out.append(dict(length=in_epochs(e), seeds=len(acc), accuracy=t.mean, said=f'{100*t.mean:.2f}%{between}',
                        seconds=float(np.median([r['seconds'] for r in found if r['seconds']] or [math.nan]))))
    return out


def _columns(records, cells): # (bench, length), in the order of the records
    return sorted({(c.bench, c.epochs) for c in cells}, key=lambda k: (list(records).index(k[0]), k[1]))


def _named(records, arm): # with a link to the lesson of the trick that it is about, where there is one
    name = next((r.about.get(arm, '') for r in records.values() if arm in r.about), '')
    stem = lesson_of_module(tricks[name].__module__) if name in tricks else ''
    return f'[{arm}]({stem}.ipynb)' if stem else arm # not as code, of which nbdev makes a link of its own


def matrix_table(
    records:dict, # name -> `BenchRecord`
    link:str='#{bench}' # what the head of a column leads to; '': plain text, without links and colours
)->Table: # `rows` have `trick` and a key for each column
    "Tricks x benches and lengths: effect in points and a sign for its word, in the colour of the word"
    cells = [c for r in records.values() for c in cells_of(r)]
    if not cells: return Table([dict(trick='Not recorded yet.')], dict(trick=''))
    columns, rows = _columns(records, cells), []
    for arm in _by_effect(cells):
        row = dict(trick=_named(records, arm) if link else arm) | {f'{b} {e:g}': '' for b, e in columns}
        for c in (c for c in cells if c.arm == arm):
            row[f'{c.bench} {c.epochs:g}'] = c.coloured(c.marked, 'ct-cell') if link else c.marked
        rows.append(row)
    heads = {b: f'[{b}]({link.format(bench=b)})' if link else b for b in records}
    return Table(rows, dict(trick='trick') | {f'{b} {e:g}': f'{heads[b]}, {in_epochs(e)}' for b, e in columns})


def matrix_summary(
    records:dict # name -> `BenchRecord`
)->Shown:
    "The matrix as it stands on another page: what it says, and the table with links to the page of the matrix"
    cells = [c for r in records.values() for c in cells_of(r)]
    if not cells: return Shown('What the benches say of each trick ([the matrix](matrix.ipynb)) is not recorded yet.')
    recorded = dict.fromkeys(b for b, _ in _columns(records, cells))
    deltas = ', '.join(f'{delta_text(records[b].delta)} on {b}' for b in recorded)
    words = 'helps', f'helps by less than δ ({deltas})', 'no difference beyond δ', 'undecided', 'hurts'
    signs = dict(zip('▲△=?▼', words))
    if any(c.idle for c in cells): signs['–'] = 'the same runs as without it'
    text = ('Percentage points of accuracy on test images, with the trick less without it: '
            + ', '.join(f'{sign}\u00a0{word}' for sign, word in signs.items())
            + '. [Intervals, images and records](matrix.ipynb).')
    bases = ' '.join(_base_text(records[b]) for b in recorded)
    return Shown(f'{text} {bases}\n\n{matrix_table(records, "matrix.ipynb#{bench}").markdown}')


def _base_text(record): # what a bench is, in a sentence
    last, many = base_rows(record)[-1], record.data['train']
    return f'*{record.name}*: {many:,} training images of {record.data["name"]}; without a trick {last["said"]} after ' \
           f'{last["length"]}.'


def matrix_figure(
    records:dict # name -> `BenchRecord`
): # -> matplotlib figure; a line of text where nothing is recorded
    "The matrix as a picture: colour and number for the effect in points, bold where the corrected p is below 0.05"
    import matplotlib.pyplot as plt
    cells = [c for r in records.values() for c in cells_of(r)]
    if not cells: return Shown('Not recorded yet.')
    columns, arms = _columns(records, cells), _by_effect(cells)
    fig, ax = plt.subplots(figsize=(2.6 + 0.95*len(columns), 0.8 + 0.26*len(arms)), layout='constrained')
    grid = np.full((len(arms), len(columns)), np.nan)
    for c in cells:
        i, j = arms.index(c.arm), columns.index((c.bench, c.epochs))
        grid[i, j] = 100*c.difference
        sure = c.word.sure
        ax.text(j, i, c.marked, ha='center', va='center', fontsize=8,
                weight='bold' if sure else 'normal', color='black' if sure else '0.35')
    ax.imshow(grid, cmap='PuOr', vmin=-3, vmax=3, aspect='auto', alpha=0.6)
    ax.set_xticks(range(len(columns)), [f'{b}\n{in_epochs(e)}' for b, e in columns])
    ax.set_yticks(range(len(arms)), arms)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    for side in ax.spines.values(): side.set_visible(False)
    plt.close(fig)
    return fig


def _by_effect(cells:Iterable): # arms, by their mean effect over the benches, each at the arm's longest length there
    longest: dict = {}
    for c in sorted(cells, key=lambda c: c.epochs): longest.setdefault(c.arm, {})[c.bench] = c.difference
    return sorted(longest, key=lambda a: -float(np.mean(list(longest[a].values()))))
