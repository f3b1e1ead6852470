"""What the benches say of one trick: for its card, its lesson and the page of tricks"""
from pathlib import Path

from .bench_matrix import cells_of, recorded_benches
from .benches import in_epochs

__all__ = ['bench_cells', 'bench_lines']


def bench_cells(
    name:str, # a registered trick: 'dropout'
    folder:Path=None # where the records lie; None: those that came with the package
)->list: # of `Cell`s, in the order of the benches
    "What the arms that are about the trick did on each bench, each at the longest length that it was run for"
    found: dict = {}
    for bench, record in recorded_benches(folder).items():
        for c in sorted(cells_of(record), key=lambda c: c.epochs):
            if record.about.get(c.arm) == name: found[bench, c.arm] = c # the longest comes last
    return list(found.values())


def bench_lines(
    name:str, # a registered trick
    folder:Path=None # where the records lie; None: those that came with the package
)->list: # of markdown
    "A line for each of `bench_cells`: word, points, interval, bench with a link, length and seeds"
    return [f'**{c.verdict}**: {c.points} percentage points; {f"`{c.arm}`, "*(c.arm != name)}bench '
            f'[{c.bench}](matrix.ipynb#{c.bench}), {in_epochs(c.epochs)}, {c.seeds} seeds'
            for c in bench_cells(name, folder)]
