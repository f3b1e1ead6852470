"""Every record of the course as rows of one table"""
import math
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ..base.display import Table
from ..base.paths import records_path
from ..measure.arms import Arm
from ..measure.compare import Comparison, Ledger
from ..measure.records import code_hashes, recorded
from ..measure.statistics import holm
from ..measure.verdict import Verdict

__all__ = ['AllRecorded', 'all_recorded']

_columns = dict(record='record', what='what against what', difference='points', interval='95% interval',
                verdict='verdict', delta='δ', equal='equal', seeds='seeds', part='part', images='training images',
                stale='stale')
_marks = {Verdict.HELPS: ('^', 'C0'), Verdict.HURTS: ('v', 'C3'), Verdict.NO_DIFFERENCE: ('s', '0.5'),
          Verdict.UNDECIDED: ('o', 'C1'), Verdict.HELPS_LITTLE: ('+', 'C2')}


class AllRecorded(Table):
    "Every recorded comparison in one table, the largest difference first"
    def __init__(self,
        entries:list, # (name of the record, place in it, `Comparison`)
        unread:dict, # name of a file -> what of it is not in the table, and why
        stale:set=frozenset() # names of records that were made by other code
    ):
        self.entries, self.unread, self.stale = sorted(entries, key=lambda e: -e[2].difference), unread, set(stale)
        super().__init__([_row(*e, e[0] in self.stale) for e in self.entries], _columns)

    def __len__(self): return len(self.entries)

    def counts(self): # -> {verdict: how many}
        "How many comparisons have each verdict"
        return dict(Counter(c.verdict for *_, c in self.entries))

    def holm(self): # -> list of p-values, in the order of the rows
        "Each p-value, corrected for all the comparisons of the table"
        return holm([c.p for *_, c in self.entries])

    def plot(self, ax=None): # matplotlib axes -> the axes
        "All differences in order, each with its interval; the sign of each verdict has a mark of its own"
        ax = ax or plt.subplots(figsize=(7, 3.4), layout='constrained')[1]
        n = self.counts()
        for verdict, (mark, colour) in _marks.items():
            mine = [(i, c) for i, (*_, c) in enumerate(self.entries) if c.verdict == verdict]
            x, y = [i for i, _ in mine], [100*c.difference for _, c in mine]
            ends = np.clip([100*np.array(c.interval) for _, c in mine] or np.empty((0, 2)), -100, 100)
            ax.vlines(x, *ends.T, color=colour, lw=1, alpha=.6)
            ax.plot(x, y, mark, color=colour, ms=3.5, mfc='none', label=f'{verdict}: {n.get(verdict, 0)}')
        ax.axhline(0, color='0.4', lw=.8)
        ax.set_yscale('symlog', linthresh=2)
        ax.set(xlabel='comparisons, the largest difference first', ylabel='difference (points)')
        ticks = [-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50]
        ax.set_yticks(ticks, [f'{t:+d}' if t else '0' for t in ticks])
        ax.legend(fontsize=8, frameon=False)
        return ax


def all_recorded(
    folder:Path=None # where the records lie; None: `records_path()`
)->AllRecorded: # a table; `entries` holds the comparisons, `unread` what is not among them
    """Read every file of recorded runs and gather all comparisons that it holds; nothing is picked. `FileNotFoundError`
    for a folder that is not there"""
    folder = Path(folder or records_path())
    if not folder.is_dir(): raise FileNotFoundError(f'folder={folder}: there is no such folder')
    entries, unread, code = [], {}, {}
    for name in sorted(p.stem for p in folder.glob('*.json')):
        record, why = _read(name, folder)
        if why: unread[name] = why; continue
        found, code[name] = list(_walk(record.result)), record.code
        entries += [(name, k, c) for k, c in found if isinstance(c, Comparison)]
        arms = sum(isinstance(c, Arm) for _, c in found)
        if arms: unread[name] = f'{arms} arm{"s"*(arms > 1)} without a partner to be compared with'
    now = code_hashes({m for used in code.values() for m in used})
    old = {name for name, used in code.items() if any(now.get(m) != h for m, h in used.items())}
    return AllRecorded(entries, unread, old)


def _walk(result, key=''): # -> (place in the record, `Comparison` or `Arm`), one after the other
    if isinstance(result, dict):
        for k, r in result.items(): yield from _walk(r, k)
    elif isinstance(result, Ledger): yield from ((key, c) for c in result.comparisons)
    else: yield key, result


def _read(name, folder): # -> (`Record` or None, why not)
    try: return recorded(name, folder), ''
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, 'not runs over seeds: a benchmark or a table of its own'


def _row(record, key, c, stale): # -> dict of text
    low, high = (f'{100*v:+.2f}' if math.isfinite(v) else '?' for v in c.interval)
    what = f'{key}: ' * bool(key) + f'{c.trick.name} minus {c.base.name}'
    return dict(record=record, what=what, difference=f'{100*c.difference:+.2f}', interval=f'{low} to {high}',
                verdict=c.verdict, delta=f'{100*c.delta:g}', equal=c.equal, seeds=len(c.base), part=c.base.part,
                images=f"{c.base.data.get('train', 0):,}", stale='yes'*stale)
