"""`cnn_tricks bench`: runs a named bench, or shows its plan or what was recorded; a bench that was stopped goes on"""
import shlex
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

from ..base.files import only_writer
from ..data.download import DownloadError
from ..distributed.cluster import ClusterError
from ..measure.bench_costs import measure_step_costs
from ..measure.bench_driver import TOLERANCE, Driver, Progress, check_again
from ..measure.bench_matrix import base_rows, cells_of, matrix_table, recorded_benches
from ..measure.bench_plan import bench_plan
from ..measure.bench_record import BenchRecord, benches_path, session_now
from ..measure.benches import benches, in_epochs
from .audit import clock
from .console import console
from .errors import UsageError
from .on_cluster import on_cluster
from .run_options import tried_device

__all__ = ['BENCH_FOLDER', 'bench_command']

BENCH_FOLDER = 'cnn_tricks_bench'


def _names(name):
    "The benches that were asked for"
    if name == 'all': return benches.names()
    if name not in benches: raise UsageError(f'no bench {name!r}: one of {", ".join(benches.names())}, or all')
    return [name]


def _path(a, name):
    "The file of a record: as asked, else in a folder here"
    return Path(a.out) if a.out else Path(BENCH_FOLDER)/f'{name}.json'


def _begun(path, name):
    "A new record takes over the rates that were chosen when the package's own was made"
    kept = benches_path()/f'{name}.json'
    if path.exists() or not kept.exists() or path.resolve() == kept.resolve(): return
    record = BenchRecord.load(kept).tuning()
    record.check(benches[name])
    record.save(path)


# what is shown

def _table(rows, columns, said):
    t = Table(box=None, pad_edge=False, header_style='bold')
    for i, name in enumerate(columns.values()): t.add_column(name, justify='left' if i == 0 else 'right')
    for r in rows: t.add_row(*(str(r[k]) for k in columns))
    said.print(t)


def _show_one(record, said):
    said.print(f'{record.name}: {record.data["name"]}, {record.data["train"]:,} training images, '
               f'{record.data["test"]:,} judge; δ {100*record.delta:g} points')
    for b in base_rows(record):
        said.print(f'  base, {b["length"]}: {b["said"]}, {b["seeds"]} seed{"s"*(b["seeds"] > 1)}, '
                   f'{b["seconds"]:.0f} s of a core for each')
    for note in record.notes: said.print(f'  {note}')
    for name, why in record.refused.items(): said.print(f'  not run: {name}: {why}')
    if record.stale: said.print(f'  stale: since then the code of {", ".join(record.stale)} has changed')


def _show(a, said):
    "The matrix of what was recorded"
    found = {_path(a, n).stem: BenchRecord.load(_path(a, n)) for n in _names(a.bench) if a.out and _path(a, n).exists()}
    found = found or {n: r for n, r in recorded_benches().items() if a.bench in ('all', n)}
    if not found: raise UsageError(f'nothing is recorded of {a.bench}')
    for r in found.values(): _show_one(r, said)
    table = matrix_table(found, link='')
    _table(table.rows, {k: k for k in table.rows[0]}, said)
    said.print('points of accuracy, with minus without: ▲ helps, △ by less than δ, ▼ hurts (corrected p below 0.05), '
               '= no difference beyond δ, ? undecided, – the same runs as without it')
    for r in found.values():
        for c in (c for c in cells_of(r) if c.word.sure):
            said.print(f'  {c.bench}, {in_epochs(c.epochs)}: {c.arm} {c.word} ({100*c.difference:+.2f}, '
                       f'{100*c.low:+.2f} to {100*c.high:+.2f})')


def _plan(driver, said):
    "The plan and its hours"
    rows = bench_plan(driver)
    said.print(f'{driver.bench.name}: base {driver.bench.base!r}')
    for r in rows:
        said.print(f'  {r["what"]}: {r["runs"]} runs left, {r["hours"]:.1f} h on one thread; {r["seeds"]} seeds of '
                   f'{len(r["arms"])} arms: {", ".join(r["arms"])}')
    return sum(r['hours'] for r in rows)


def _dry_run(a, said):
    hours = 0.
    for name in _names(a.bench):
        path = _path(a, name)
        if not path.exists() and (benches_path()/f'{name}.json').exists(): path = benches_path()/f'{name}.json'
        try: hours += _plan(_driver(a, name, path), said)
        except DownloadError as e: said.print(f'{name}: cannot be planned here: {e}')
    said.print(f'in all {hours:.1f} h on one thread, about {hours/2:.1f} h for two runs at a time on two cores')


class _Bar:
    "A bar on a terminal with the time left, else a line for each run"

    def __init__(self,
        shown:Console # where to show it
    ):
        self.console = shown
        self.bar = Bars(TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[left]}'), console=shown,
                        transient=True, disable=not shown.is_terminal)
        self.task = self.bar.add_task('starting', total=None, left='')

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *args): self.bar.stop()

    def __call__(self,
        p:Progress
    ):
        "Show how far it is"
        left = f'{clock(p.seconds)} left' if p.seconds == p.seconds else ''
        self.bar.update(self.task, total=p.total, completed=p.done, description=p.text, left=left)
        if not self.console.is_terminal: self.console.print(f'{p.done} of {p.total}: {p.text}; {left}')


# the command

def _driver(a, name, path, **kwargs):
    try: return Driver(benches[name], path, tuple(a.tricks or ()), tuple(a.epochs or ()), a.seeds, a.jobs or 1,
                       tried_device(a.device), a.minutes, **kwargs)
    except ValueError as e: raise UsageError(str(e)) from None


def _run(a, name, said, on):
    path = _path(a, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with only_writer(path):
        _begun(path, name)
        start, again = time.monotonic(), f'cnn_tricks bench {name}' + f' --out {shlex.quote(str(path))}'*bool(a.out)
        again += f' --on {shlex.quote(a.on)}' if a.on else ''
        try:
            with _Bar(console(stderr=True)) as bar:
                driver = _driver(a, name, path, tell=bar, on=on)
                if a.costs: return _costs(driver, bar)
                if a.check: return _check(driver, said)
                done = driver()
        except KeyboardInterrupt: raise KeyboardInterrupt(f'stopped; go on with: {again}') from None
        except ClusterError as e: raise ClusterError(f'{e}; go on with: {again}') from None
    _show_one(driver.record, said)
    said.print(f'{path}: {driver.done} runs in {(time.monotonic() - start)/60:.1f} minutes'
               + ('' if done else f'; the rest goes on with: {again}'))


def _costs(driver, bar):
    session = driver.record.session(session_now(driver.device))
    measure_step_costs(driver.bench, driver.record, driver.device, session, tell=bar.console.print)
    driver.record.save(driver.path)


def _check(driver, said):
    c = check_again(driver)
    said.print(f'{driver.bench.name}: base, {in_epochs(c["epochs"])}, seed {c["seed"]}: was {100*c["was"]:.2f} %, now '
               f'{100*c["now"]:.2f} %: {"agrees" if c["agrees"] else "does not agree"} '
               f'(tolerance {100*TOLERANCE:g} points)')


def bench_command(
    a # what argparse made of the command line
)->int: # exit code
    """`cnn_tricks bench`: run, plan, show, time or check it. Raises `UsageError` (exit code 2) for an unknown bench or
    arm and for a record of another base, `OSError` (1) where images are missing or a file cannot be written,
    `ClusterError` and `ImportError` (1) where the workers of --on cannot be used"""
    said = console()
    if a.out and a.bench == 'all': raise UsageError('--out names one file: name one bench')
    here = [o for o in ('jobs', 'show', 'dry_run', 'costs', 'check') if getattr(a, o)]
    if a.on and here: raise UsageError(f'--on: not with --{here[0].replace("_", "-")}, which is about this machine')
    if a.show: _show(a, said)
    elif a.dry_run: _dry_run(a, said)
    else:
        names = _names(a.bench)
        with on_cluster(a, said) as on:
            for name in names: _run(a, name, said, on)
    return 0
