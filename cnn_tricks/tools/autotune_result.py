"""What `autotune` found, as a table and as a setting to use"""
from dataclasses import dataclass, field

from ..measure.cost import Timings
from ..tricks.hardware import FusedOptimizer
from ..base.display import Table

__all__ = ['Tuned']


@dataclass
class Tuned:
    "What `autotune` measured and chose"
    found:Timings # seconds of a step under each `Setting`, turn by turn; the first is what was set before
    chosen:object # `Setting`: the fastest that is surely faster, or the one that was set before
    batch_size:int # images in a step
    seconds:float # that the measuring took
    applied:bool # is it set now?
    notes:list = field(default_factory=list) # what the reader should know

    @property
    def base(self): # -> `Setting`
        "What was set before"
        return next(iter(self.found.seconds))

    @property
    def speed(self): # -> float
        "How many times as fast the chosen setting is"
        return 1. if self.chosen == self.base else self.found.ratio(self.chosen, self.base)

    def recipe(
        self,
        r # `Recipe`
    ): # -> the recipe with the chosen layout, and with `fused_optimizer` if that was chosen
        "Take layout and optimiser over into a recipe; threads and memory belong to the process"
        r = r.replace(channels_last=self.chosen.channels_last)
        return r + FusedOptimizer() if self.chosen.fused and not self.base.fused else r

    def table(self): # -> `Table`
        "A row for each setting: the time of a step, images a second, and how many times as fast as before"
        rows = []
        for s, t in self.found.seconds.items():
            if not t: continue
            ms, (low, high) = 1000*self.found.median(s), self.found.spread(s, self.base)
            mark = ' (chosen)' * (s == self.chosen) + ' (as it was)' * (s == self.base)
            rows.append(dict(setting=f'{s}{mark}', ms=f'{ms:.3g}', images=f'{1000*self.batch_size/ms:,.0f}',
                             speed=f'{self.found.ratio(s, self.base):.2f}', spread=f'{low:.2f} to {high:.2f}',
                             turns=len(t)))
        return Table(rows, dict(setting='setting', ms='ms a step', images='images/s', speed='times as fast',
                                spread='over the turns', turns='turns'))

    def _repr_markdown_(self):
        notes = ''.join(f'\n- {n}' for n in self.notes)
        return f'{self.table().markdown}\n\nMeasured in {self.seconds:.1f} s.\n{notes}'
