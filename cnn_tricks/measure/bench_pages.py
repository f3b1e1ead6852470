"""What the page of the matrix says of one bench: its images, its base, and every comparison in full"""
import math
from pathlib import Path

from ..base.display import Shown, Table
from .bench_matrix import base_rows, cells_of, delta_text, recorded_benches, signed_points
from .bench_record import BenchRecord
from .benches import in_epochs

__all__ = ['record_text', 'record_table']

_site = 'https://github.com/cnn-tricks/cnn_tricks/blob/main/results/benches/'


def record_text(
    name:str, # of a bench
    folder:Path=None # where the records lie; None: those that came with the package
)->Shown:
    "A bench on a page: images, base, machine, what was left out, the table, and a link to the record"
    record = recorded_benches(folder).get(name)
    if record is None: return Shown('Not recorded yet.')
    d, where = record.data, record.sessions[-1]
    lines = [f'{d["name"]}: {d["train"]:,} training and {d["valid"]:,} validation images, drawn anew for each seed; '
             f'{d["test"]:,} test images, read once for each run. δ is {delta_text(record.delta)}. '
             f'The record is [{name}.json]({_site}{name}.json): {len(record.runs)} runs, '
             f'{sum(len(t["valid"]) for t in record.tuned)} of tuning, {where["date"]}, {where["machine"]["name"]}, '
             f'{where["machine"]["threads"]} thread{"s"*(where["machine"]["threads"] != 1)}, torch '
             f'{where["versions"]["torch"]}.', '']
    for b in base_rows(record):
        lines.append(f'- base, {b["length"]}: {b["said"]}, {b["seeds"]} seed{"s"*(b["seeds"] > 1)}; '
                     f'{b["seconds"]:.0f} seconds of one core for each run')
    reasons = {why: [f'`{n}`' for n, w in record.refused.items() if w == why] for why in record.refused.values()}
    lines += [f'- {note}' for note in record.notes]
    lines += [f'- not run: {", ".join(names)}: {why}' for why, names in reasons.items()]
    if cells_of(record): lines += ['', record_table(record).markdown]
    return Shown('\n'.join(lines))


def record_table(
    record:BenchRecord
)->Table: # `rows` have trick, length, effect, interval, word, p, cost, saved, seeds, rate
    "Every cell of a bench in full"
    def number(x, form): return '' if math.isnan(x) else form.format(x)
    rows = [dict(trick=f'`{c.arm}`', length=in_epochs(c.epochs), effect=signed_points(c.difference),
                 interval=f'{signed_points(c.low)} to {signed_points(c.high)}', word=c.verdict, p=f'{c.holm:.2g}',
                 cost=number(c.cost, '× {:.2f}'), saved=number(c.saved, '{:+.0f}').replace('-', '−'), seeds=c.seeds,
                 rate=f'{record.recipes[c.arm]["lr"]:g}' + ' (tuned)'*(c.arm in record.found))
            for c in cells_of(record)]
    return Table(rows, dict(trick='trick', length='length', effect='points', interval='95% interval', word='',
                            p='p (Holm)', cost='a step costs', saved='seconds saved to the target', seeds='seeds',
                            rate='learning rate'))
