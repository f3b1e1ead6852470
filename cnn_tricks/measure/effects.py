"""What a trick was worth in the recorded runs that its card names: the card's row "Measured here" """
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..base.paths import records_path
from ..core.trick import tricks
from .compare import Comparison
from .records import recorded
from .statistics import holm

__all__ = ['Effect', 'measured_effects', 'main_effect', 'lost_to_correction', 'measured_row']

_site = 'https://github.com/cnn-tricks/cnn_tricks/blob/main/results/records'
_plain = {'', 'steps', 'seconds', 'epochs', 'accuracy', 'equal steps', 'equal seconds'} # places that say nothing more


@dataclass(frozen=True)
class Effect:
    "One trick against the same recipe without it, as recorded"
    record:str # name of the record
    place:str # where in the record it stands: 'seconds', '75 epochs', or ''
    comparison:Comparison # with against without
    variants:int # how many variants of the trick were compared in this place
    suggested:bool # does it have the values that the trick has by default?

    @property
    def verdict(self): # -> str
        "The verdict, with δ written out: 'no difference beyond 1 point'"
        delta = 100*self.comparison.delta
        return str(self.comparison.verdict).replace('δ', f'{delta:g} point{"s"*(delta != 1)}')

    @property
    def coloured(self): # -> HTML
        "The verdict in the colour that it has on a page: helps, hurts, no difference, undecided"
        return f'<span class="ct-word ct-{str(self.comparison.verdict).split()[0].strip(",")}">{self.verdict}</span>'

    @property
    def points(self): # -> str
        "The mean difference and its 95% interval, in percentage points: '+0.8 [+0.1 to +1.4]'"
        values = self.comparison.difference, *self.comparison.interval
        mean, low, high = (f'{round(100*v, 1) + 0.:+.1f}' for v in values) # no minus zero
        return f'{mean} [{low} to {high}]'.replace('-', '−')

    @property
    def variant(self): # -> str
        "Which variant of the trick it is, where it is not the default"
        if self.suggested: return ''
        return f'`{self.comparison.trick.name}`' + f', the best of {self.variants} variants'*(self.variants > 1)

    @property
    def length(self): # -> str
        "How long the runs were, and what both arms had the same amount of"
        steps = self.comparison.base.steps, self.comparison.trick.steps
        both = f'{steps[0]:,}' if steps[0] == steps[1] else f'{steps[0]:,} and {steps[1]:,}'
        return f'{both} steps (equal {self.comparison.equal})'

    @property
    def setting(self): # -> str
        "Data, network, length and seeds, and the name that the record has for them"
        base, named = self.comparison.base, f'{self.place}: '*(self.place not in _plain | {self.comparison.trick.name})
        return (f'{named}{base.data.get("name", "?")}, {base.data.get("train", 0):,} training images, network '
                f'`{base.recipe["network"]}`, {self.length}, {len(base)} seeds')

    def line(self): # -> markdown
        "All of it in a line, with a link to the record"
        start = f'**{self.verdict}**: {self.points} percentage points'
        named = f'[record {self.record}]({_site}/{self.record}.json)'
        return '; '.join(filter(None, [start, self.variant, self.setting, named]))


def _named(sources, folder): # of a card -> the records that it names, in order
    words = [w for s in sources if re.search(r'\brecord', s) for w in re.findall(r'[a-z][a-z0-9_]+', s)]
    return [w for w in dict.fromkeys(words) if (folder/f'{w}.json').is_file()]


@cache
def _comparisons(record, folder, changed): # when it was written -> [(place, Comparison)]; [] for another kind of record
    def walk(result, place=''):
        if isinstance(result, dict):
            for k, r in result.items(): yield from walk(r, k)
        elif hasattr(result, 'trick'): yield place, result # a `Comparison`, or the lesson's own while pages are made
        else: yield from ((place, c) for c in getattr(result, 'comparisons', []))
    try: return list(walk(recorded(record, folder).result))
    except (ValueError, KeyError, TypeError, AttributeError): return []


def _adds(comparison, name): # is it the trick, and nothing else, that the one arm has and the other has not?
    one, other = comparison.trick.recipe, comparison.base.recipe
    free = {'tricks', 'lr', 'steps', 'epochs', 'seconds'} # the rate may be tuned for each
    same = all(one[k] == other[k] for k in one.keys() - free)
    with_it, without = ([t['name'] for t in r['tricks']] for r in (one, other))
    return same and sorted(with_it) == sorted([*without, name]) and comparison.base.part in ('test', 'valid')


def _suggested(comparison, name): # has the arm the trick's default values?
    values = next(t for t in comparison.trick.recipe['tricks'] if t['name'] == name)
    try: return tricks[name]().params() == {k: v for k, v in values.items() if k != 'name'}
    except (TypeError, ValueError): return False # it has no defaults


def measured_effects(
    name:str, # a registered trick: 'dropout'
    folder:Path=None # where the records lie; None: `records_path()`
)->list: # of `Effect`s: one for each place of a record
    """What the trick was worth, in each record that its card names. Of several variants that stand in one place, the
    one with the trick's default values is taken, or else the one with the highest mean"""
    found, folder = {}, Path(folder or records_path())
    for record in _named(tricks[name].card.sources, folder):
        for place, c in _comparisons(record, folder, (folder/f'{record}.json').stat().st_mtime_ns):
            if _adds(c, name): found.setdefault((record, place, c.equal), []).append(c)
    def best(record, place, group):
        usual = [c for c in group if _suggested(c, name)]
        c = max(usual or group, key=lambda c: c.difference)
        return Effect(record, place, c, len(group), bool(usual))
    return [best(record, place, group) for (record, place, _), group in found.items()]


def main_effect(
    name:str, # a registered trick
    folder:Path=None # where the records lie; None: `records_path()`
): # -> `Effect`, or None where its card names no record of it
    """The one that a table shows: at equal seconds where that was recorded, with the trick's default values, against
    the base that is best without it"""
    def rank(e): return e.comparison.equal == 'seconds', e.suggested, e.comparison.base.mean
    return max(measured_effects(name, folder), key=rank, default=None)


def lost_to_correction(
    names, # of registered tricks, which stand in one table
    folder:Path=None # where the records lie; None: `records_path()`
)->set: # names
    """Which verdicts of a difference would not stand if p were corrected for all that stand in the table (Holm 1979):
    of many intervals that are 95% ones each by itself, some miss"""
    found = {n: e for n in names if (e := main_effect(n, folder))}
    p = dict(zip(found, holm([e.comparison.p for e in found.values()])))
    return {n for n, e in found.items() if e.comparison.verdict.sure and p[n] >= 0.05}


def measured_row(
    name:str, # a registered trick
    most:int=3, # effects that are shown
    folder:Path=None # where the records lie; None: `records_path()`
)->str: # markdown; '' where its card names no record of it
    "The card's row: the main effect first, then others"
    main, effects = main_effect(name, folder), measured_effects(name, folder)
    if main is None: return ''
    shown = [main, *(e for e in effects if e != main)]
    more = f'<br>{len(shown) - most} more in the lesson'*(len(shown) > most)
    return '<br>'.join(e.line() for e in shown[:most]) + more
