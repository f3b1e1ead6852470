"""`cnn_tricks audit`: its options, its plan, its line of progress, and how a stopped audit goes on"""
import shlex
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from ..base.files import atomic_write
from ..base.machine import default_device
from ..core.recipe import Recipe, tricks
from ..distributed.cluster import ClusterError
from ..measure.test_reads import log_beside
from ..report.audit import write_audit_report
from ..studies.audit import Audit, TooShort, audit
from ..studies.audit_heads import head_rows
from .base_network import choose_base, scratch_recipe, tuning_recipe
from .console import console
from .errors import UsageError
from .on_cluster import on_cluster
from .preflight import images_for_run, tell_images, try_recipes
from .pretrained_run import EPOCHS
from .run_claim import claim_for, how_to_resume, place_of_run, writing_to
from .run_options import (given_options, one_thread_on_workers, options_of, read_recipe, tried_device, use_threads,
                          with_budget)

__all__ = ['AUDIT_FOLDER', 'clock', 'plan_lines', 'AuditBar', 'audit_command']

AUDIT_FOLDER = 'cnn_tricks_audit'
_asked = 'minutes', 'tricks', 'delta', 'size', 'seed', 'metric'


# what is said while it runs

def clock(
    seconds:float # less than 0 counts as 0
)->str: # '1:01'
    "Minutes and seconds"
    return f'{max(0, int(seconds))//60}:{max(0, int(seconds)) % 60:02}'


def plan_lines(
    a:Audit # with its plan made
): # yields lines
    "What an audit is going to do"
    p, k = a.plan, len(a.arms) - 1
    yield (f'plan: {k} trick{"s"*(k != 1)} against the recipe, {p["rounds"]} seeds each, up to '
           f'{p["most"]} where some leave early, each seed on a split of its own;')
    yield (f'      runs of {p["seconds"]:.1f} s of training (the recipe\'s own: {p["full"]:.1f} s), '
           f'{p["pairs"]} more of each side at the end, of {p["last"]:.1f} s, on test images')
    yield f'tries: {", ".join(arm.name for arm in a.arms[1:])}'
    for why, names in a.reasons().items(): yield f'not {", ".join(names)}: {why}'
    for r in head_rows(a.heads, a.delta):
        yield f'head only: {r["what"]} {r["difference"]} ({r["interval"]}): {r["verdict"]}'
    yield from a.notes()


class _Left(ProgressColumn):
    "The time left, by the clock"

    def render(self, task): return Text(f'{clock(task.fields["ends"] - time.monotonic())} left')


class AuditBar:
    "How far an audit is: a bar on a terminal with what runs now and the time left, else a line for each round"

    def __init__(self,
        console:Console, # where to show it
        said:Console # where to print the plan
    ):
        self.console, self.said = console, said
        self.bar = Progress(TextColumn('{task.description}'), BarColumn(), _Left(), console=console, transient=True,
                            disable=not console.is_terminal)
        self.task = self.bar.add_task('starting', total=None, ends=0)

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *args): self.bar.stop()

    def tell(self,
        what:str, # what is about to happen
        a:Audit # as it stands
    ):
        "Show it"
        total, left = 60*a.asked['minutes'], 60*a.asked['minutes'] - a.spent
        self.bar.update(self.task, total=total, completed=a.spent, description=what, ends=time.monotonic() + left)
        if what == 'the plan': self.plan(a)
        if self.console.is_terminal or not what.startswith('round'): return
        open_ = sum(arm.name not in a.left for arm in a.arms[1:])
        self.console.print(f'{what}: {open_} of {len(a.arms) - 1} tricks are open, {clock(left)} left')

    def plan(self,
        a:Audit # with its plan made
    ):
        "Print the plan, or where an audit that goes on stands"
        show = self.bar.console if self.console.is_terminal else self.said  # the bar makes room for its own console
        if not a.rounds:
            for line in plan_lines(a): show.print(line)
        else: show.print(f'going on after round {a.rounds}, {a.spent/60:.1f} of {a.asked["minutes"]:g} minutes used')


# the results

def _show(a, said):
    t = Table(box=None, pad_edge=False, header_style='bold')
    for name in 'trick', 'points', 'interval', 'verdict', 'seeds', 'a step costs':
        t.add_column(name, justify='left' if name in ('trick', 'verdict') else 'right')
    for r in a.rows():
        t.add_row(r['trick'], r['difference'], r['interval'], r['verdict'], str(r['seeds']), f'× {r["step"]}')
    said.print(t)
    said.print(a.answer('{}'))
    for note in a.notes(): said.print(note)


def _write(out, a, data, folder, **kwargs):
    with writing_to(out):
        kwargs |= dict(where=str(out), folder=folder or '')
        write_audit_report(out/'report.html', a, data, **kwargs)
        with atomic_write(out/'recipe.json') as f: f.write(a.recipe.to_json().encode())


def _stopped_line(out, a, data, folder, how):
    "What to say after Ctrl-C; writes a report of what there is"
    if a is None or not a.arms: return f'stopped before the first run; go on with: {how}'
    said = f'stopped in round {a.rounds + 1}' if not a.final else 'stopped in the last check'
    try: _write(out, a, data, folder, stopped=f'{said[0].upper()}{said[1:]}. To go on: {how}')
    except OSError as error: return f'{said} (no report: {error}); go on with: {how}'
    return f'{said}; {out}/report.html shows how far it is; go on with: {how}'


# the command

def _known(names):
    "The tricks that --tricks names"
    for name in names or ():
        try: tricks[name]
        except ValueError as e: raise UsageError(f'--tricks: {e}') from None
    return names


def _choose(o, folder, own_recipe, device, said):
    "The network that `train` would choose for these images, said in a line"
    asked = o | dict(folder=folder or o['folder'], network=None, weights=None, from_scratch=None)
    o['base'], why = choose_base(asked, own_recipe, device or str(default_device()))
    if why: said.print(why.removesuffix(' (--from-scratch: without)'), soft_wrap=True)


def _base(o, data):
    "The recipe that the tricks are added to"
    if base := o.get('base'):
        own = dict(lr=None, batch_size=None)
        return tuning_recipe(base, own).replace(epochs=EPOCHS) if base['weights'] else scratch_recipe(base, own)
    return with_budget(Recipe.from_dict(o['recipe']['fields']), dict.fromkeys(('epochs', 'steps', 'minutes')), data,
                       o['recipe']['own_budget'])


def _audited(o, data, base, claim, device, bar, on):
    "Run it; what can be wrong with the options is a `UsageError`"
    path = claim.out/'ledger.json'
    options = dict(delta=o['delta']/100, seed=o['seed'], metric=o.get('metric', 'accuracy'), path=path, tell=bar.tell,
                   device=device, on=on)
    if o['folder'] is not None: options['log'] = log_beside(o['folder'])
    try:
        with writing_to(claim.out): return audit(data, base, o['tricks'], o['minutes'], **options)
    except TooShort as e: raise UsageError(f'--{str(e).replace("=", " ", 1)}') from None
    finally: claim.began = claim.began or path.exists()  # from then on there is something to go on with


def _run(a, o, data, base, claim, device, said, on):
    "The audit, in its folder; stopped, it says how to go on"
    out, path = claim.out, claim.out/'ledger.json'
    try:
        with AuditBar(console(stderr=True), said) as bar: found = _audited(o, data, base, claim, device, bar, on)
    except (KeyboardInterrupt, ClusterError) as e:
        kept, how = Audit.load(path) if path.exists() else None, how_to_resume(a, out, 'audit', AUDIT_FOLDER)
        how += f' --on {shlex.quote(a.on)}' if a.on else ''
        said = _stopped_line(out, kept, data, a.folder, how)
        raise type(e)(f'{e}; {said}' if isinstance(e, ClusterError) else said) from None
    _write(out, found, data, a.folder)
    (out/'run.json').unlink(missing_ok=True)
    _show(found, said)
    said.print(f'{out} holds ledger.json, recipe.json; open {out}/report.html in a browser')


def audit_command(
    a # what argparse made of the command line
)->int: # exit code
    """`cnn_tricks audit`: which tricks help these images on this machine; results in a folder that can be resumed.

    Raises `UsageError` (exit code 2), `ValueError` and `OSError` (1) before a folder is claimed, where it can;
    `ClusterError` and `ImportError` (1) where the workers of --on cannot be used."""
    said = console()
    out, there = place_of_run(a, said, AUDIT_FOLDER, 'ledger.json', 'audit')
    if there is None: return 0
    fresh = dict(folder=None, minutes=10., tricks=None, delta=1., size=None, seed=42, metric='accuracy',
                 recipe=read_recipe('fast'))
    o = options_of(out, given_options(a, _asked), there, fresh, 'audit')
    _known(o['tricks'])
    (one_thread_on_workers if a.on else use_threads)(a.threads, out, there, 'audit')
    device = tried_device(a.device)
    with on_cluster(a, said) as on: return _begin(a, o, out, there, device, said, on)


def _begin(a, o, out, there, device, said, on): # what was asked for fits together: read the images, claim the folder
    if not there: _choose(o, a.folder, a.recipe is not None, device, said)
    data = images_for_run(o, a.folder)
    tell_images(data, said)
    if o['folder'] is None: said.print('no FOLDER was named: these are the clothes that come with cnn_tricks')
    base = _base(o, data)
    try_recipes([(o['recipe']['label'], base)], data, o['seed'], device)
    with claim_for(a, said, out, o, there, AUDIT_FOLDER, 'audit', 'audit') as claim:
        _run(a, o, data, base, claim, device, said, on)
    return 0
