"""`cnn_tricks audit`: its options, its plan, its line of progress, and how a stopped audit goes on"""
import time

from fastcore.basics import patch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from ..studies.audit import Audit, TooShort, audit
from ..report.audit import write_audit_report
from .errors import UsageError
from .run_options import _budgeted, given_options, options_of, read_recipe, tried_device, use_threads
from ..core.recipe import Recipe, tricks
from ..base.files import atomic_write
from .run_claim import _claimed, _how, _place, _writing
from .train import _console, _read, _tell, _try

__all__ = ['AuditBar', 'audit_command']


def _clock(seconds): return f'{max(0, int(seconds))//60}:{max(0, int(seconds)) % 60:02}'

class _Left(ProgressColumn): # the time left, by the clock
    def render(self, task): return Text(f'{_clock(task.fields["ends"] - time.monotonic())} left')

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

    def __enter__(self): self.bar.start(); return self
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
        open_ = sum(arm.name not in a.left for arm in a.arms[2:])
        self.console.print(f'{what}: {open_} of {len(a.arms) - 2} tricks are open, {_clock(left)} left')


def _plan_lines(a): # what an audit is going to do
    p, k = a.plan, len(a.arms) - 2
    yield (f'plan: {k} trick{"s"*(k != 1)} and a control (the recipe against itself), {p["rounds"]} seeds each, up to '
           f'{p["most"]} where some leave early;')
    yield (f'      runs of {p["seconds"]:.1f} s of training (the recipe\'s own: {p["full"]:.1f} s), '
           f'{p["pairs"]} more of each side at the end, on test images')
    yield f'tries: {", ".join(arm.name for arm in a.arms[2:])}'
    for why, names in a.reasons().items(): yield f'not {", ".join(names)}: {why}'

@patch
def plan(self:AuditBar, a): # the `Audit`
    "Print the plan, or where an audit that goes on stands"
    show = self.bar.console if self.console.is_terminal else self.said # the bar makes room for its own console alone
    if not a.rounds:
        for line in _plan_lines(a): show.print(line)
    else: show.print(f'going on after round {a.rounds}, {a.spent/60:.1f} of {a.asked["minutes"]:g} minutes used')


def _show_audit(a, said):
    t = Table(box=None, pad_edge=False, header_style='bold')
    for name in 'trick', 'points', 'interval', 'verdict', 'seeds', 'a step costs': t.add_column(
        name, justify='left' if name in ('trick', 'verdict') else 'right')
    for r in a.rows():
        t.add_row(r['trick'], r['difference'], r['interval'], r['verdict'], str(r['seeds']), f'× {r["step"]}')
    said.print(t)
    said.print(a.answer('{}'))

def _write(out, a, data, folder, **kwargs):
    with _writing(out):
        kwargs |= dict(where=str(out), folder=folder or '')
        write_audit_report(out/'report.html', a, data, **kwargs)
        with atomic_write(out/'recipe.json') as f: f.write(a.recipe.to_json().encode())

def _halted(out, a, data, folder, how):
    "What to say after Ctrl-C; a report of what there is"
    if a is None or not a.arms: return f'stopped before the first run; go on with: {how}'
    said = f'stopped in round {a.rounds + 1}' if not a.final else 'stopped in the last check'
    try: _write(out, a, data, folder, stopped=f'{said[0].upper()}{said[1:]}. To go on: {how}')
    except OSError as error: return f'{said} (no report: {error}); go on with: {how}'
    return f'{said}; {out}/report.html shows how far it is; go on with: {how}'


_asked, _home = ('minutes', 'tricks', 'delta', 'size', 'seed'), 'cnn_tricks_audit'

def _known(names): # the tricks that --tricks names
    for name in names or ():
        try: tricks[name]
        except ValueError as e: raise UsageError(f'--tricks: {e}') from None
    return names

def _base(o, data): # the recipe that the tricks are added to
    return _budgeted(Recipe.from_dict(o['recipe']['fields']), dict.fromkeys(('epochs', 'steps', 'minutes')), data,
                     o['recipe']['own_budget'])

def _audited(o, data, base, claim, device, bar): # runs it; what can be wrong with the options is said so
    path = claim.out/'ledger.json'
    options = dict(delta=o['delta']/100, seed=o['seed'], path=path, tell=bar.tell, device=device)
    try:
        with _writing(claim.out): return audit(data, base, o['tricks'], o['minutes'], **options)
    except TooShort as e: raise UsageError(f'--{str(e).replace("=", " ", 1)}') from None
    finally: claim.began = claim.began or path.exists() # from then on there is something to go on with


def _held(a, o, data, base, claim, device, said): # the audit, in its folder; stopped, it says how to go on
    out, path = claim.out, claim.out/'ledger.json'
    try:
        with AuditBar(_console(stderr=True), said) as bar: found = _audited(o, data, base, claim, device, bar)
    except KeyboardInterrupt:
        kept = Audit.load(path) if path.exists() else None
        raise KeyboardInterrupt(_halted(out, kept, data, a.folder, _how(a, out, 'audit', _home))) from None
    _write(out, found, data, a.folder)
    (out/'run.json').unlink(missing_ok=True)
    _show_audit(found, said)
    said.print(f'{out} holds ledger.json, recipe.json; open {out}/report.html in a browser')
    return 0

def audit_command(
    a # what argparse made of the command line
)->int: # exit code
    "`cnn_tricks audit`: which tricks help these images on this machine; results in a folder that can be resumed"
    said = _console()
    out, there = _place(a, said, _home, 'ledger.json', 'audit')
    if there is None: return 0
    fresh = dict(folder=None, minutes=10., tricks=None, delta=1., size=None, seed=42, recipe=read_recipe('fast'))
    o = options_of(out, given_options(a, _asked), there, fresh, 'audit')
    _known(o['tricks'])
    use_threads(a.threads, out, there, 'audit')
    device, data = tried_device(a.device), _read(o, a.folder)
    _tell(data, said)
    if o['folder'] is None: said.print('no FOLDER was named: these are the clothes that come with cnn_tricks')
    base = _base(o, data)
    _try([(o['recipe']['label'], base)], data, o['seed'], device)
    with _claimed(a, said, out, o, there, _home, 'audit', 'audit') as claim:
        return _held(a, o, data, base, claim, device, said)
