"""`cnn_tricks train`: the recipes side by side on a folder of images, resumable, with a report"""
import json, os, sys, time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

from fastai.callback.core import Callback
from fastcore.basics import patch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .errors import UsageError, _one_line
from ..core.run_control import Interrupted, TrainingDiverged
from ..data.datasets import embedded
from ..core.fitting import FitCallback
from ..data.image_folder import read_folder
from ..base.machine import Machine
from .run_options import _default, given_options, options_of, planned, run_folder, same_seconds
from .run_options import tried_device, use_threads
from ..base.files import atomic_write
from ..report.training import Entry, side_by_side, write_report
from ..core.result import Result, load_trained
from .run_claim import _claimed, _how, _place, _writing
from ..core.train import learner, train, writable_folder

__all__ = ['RunBar', 'load_result', 'train_command', 'train_on_several']


def _console(stderr=False):
    "A console that takes text as it is, with colours and bars on a terminal alone (a kernel's FORCE_COLOR is none)"
    terminal = (sys.stderr if stderr else sys.stdout).isatty() and 'ipykernel' not in sys.modules
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True, force_jupyter=False,
                   force_terminal=terminal)


class RunBar(FitCallback):
    "How far a run is: a bar on a terminal (epoch, loss, accuracy, time left), else a line now and then"
    order = 70
    def __init__(self,
        label:str, # what is trained
        console:Console # where to show it
    ):
        self.label, self.console, self.shown, self.told, self.scored = label, console, 0., 0., ''
        columns = TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[now]}'), TimeRemainingColumn()
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task(label, total=None, now='starting')

    def __enter__(self): self.bar.start(); return self
    def __exit__(self, *args): self.bar.stop()

    def _now(self):
        s, n = self._place(), len(self.dls.train)
        loss = f'loss {float(self.recorder.smooth_loss.value):.3f}' if self.recorder.smooth_loss.count else ''
        return f'epoch {s.step/n:.1f} of {s.total/n:.1f}  {loss}{self.scored}'


@patch
def _place(self:RunBar): # that of the run, or what any `Learner` knows of its fit
    if hasattr(self, 'run_control'): return self.run_control.state
    return SimpleNamespace(step=self.train_iter, total=self.n_epoch*len(self.dls.train), pending=None, history=[])

@patch
def __getstate__(self:RunBar): return dict(label=self.label, learn=self.learn) # a console cannot be pickled
@patch
def __setstate__(self:RunBar, s): self.__init__(s['label'], Console(quiet=True)); self.learn = s['learn']


@patch
def after_batch(self:RunBar):
    if not self.training or time.monotonic() - self.shown < 0.2: return
    s, self.shown = self._place(), time.monotonic()
    self.bar.update(self.task, total=s.total, completed=s.step, now=self._now())

@patch
def after_epoch(self:RunBar):
    s = self._place()
    if not self.fitting or s.pending: return  # steps that a checkpoint has done already
    if s.history: self.scored = f'  accuracy {100*s.history[-1]["accuracy"]:.1f} %'
    if self.console.is_terminal or s.step < self.told + s.total/10 and s.step < s.total: return
    self.told = s.step
    self.console.print(f'{self.label}: {self._now()}')


def load_result(
    folder:Path, # with the `model.safetensors`, `recipe.json` and `metrics.json` of a finished run
    data # the `ImageData` that it was trained on
)->Result: # as `train` returned it
    "A finished run, read back"
    m, trained = json.loads((folder/'metrics.json').read_text(encoding='utf-8')), load_trained(folder)
    data = data.resize(trained.size)
    if m['data']['fingerprint'] != data.fingerprint:
        raise UsageError(f'cannot resume {folder}: the images have changed since it was trained')
    known = {f.name for f in fields(Result)} - {'recipe', 'trained', 'data', 'machine'}
    return Result(trained.recipe, trained, data, machine=Machine(**m['machine']), **{k: m[k] for k in known & m.keys()})


class _Began(Callback):
    "Notes in the folder's claim that a step was trained: from then on there is something to go on with"
    def __init__(self, claim): self.claim = claim
    def after_batch(self): self.claim.began = True

def _arm(label, recipe, data, o, folder, console, resume, device, fit, claim):
    "One run, in its folder; one that is finished there is read back"
    if (folder/'metrics.json').exists(): return load_result(folder, data)
    with _writing(folder): writable_folder(folder)
    with RunBar(label, console) as bar:
        cbs = [bar, _Began(claim)]
        return fit(recipe, data, o['seed'], out=folder, resume=resume, progress=False, cbs=cbs, device=device)

def _train_all(arms, data, o, claim, console, device, entries, fit=train):
    "Train every arm; `entries` fills with those that are done, and with one that was stopped"
    for label, recipe in arms:
        folder = claim.out if label == arms[-1][0] else claim.out/label
        if entries and same_seconds(o): recipe = recipe.replace(seconds=entries[0].result.seconds)
        how = folder, console, claim.going_on, device, fit, claim
        try: entries.append(Entry(label, _arm(label, recipe, data, o, *how)))
        except Interrupted as e:
            entries.append(Entry(label, e.result))
            raise
        if folder != claim.out:
            with _writing(folder): entries[-1].result.save(folder)
            (folder/'checkpoint.pt').unlink(missing_ok=True)


def _metrics(e, entries):
    "What `metrics.json` holds: the run's own record, its test accuracy and how the baseline fared"
    first, more = entries[0], dict(label=e.label, test_accuracy=e.test, parameters=e.parameters)
    if e is not first: more['baseline'] = dict(accuracy=first.result.accuracy, test_accuracy=first.test,
                                               seconds=first.result.seconds, parameters=first.parameters,
                                               seconds_to_its_accuracy=e.result.time_to(first.result.accuracy))
    return json.dumps(e.result.metrics() | more, indent=1).encode()

def _finish(out, entries):
    "Read the test part, once, and write the results; `metrics.json` comes last and says that all is there"
    for e in entries: e.test = e.result.test()
    with _writing(out):
        entries[-1].result.trained.save(out)
        write_report(out/'report.html', entries, where=str(out))
        for e in entries:
            folder = out if e is entries[-1] else out/e.label
            with atomic_write(folder/'metrics.json') as f: f.write(_metrics(e, entries))
    for n in ('checkpoint.pt', 'run.json'): (out/n).unlink(missing_ok=True)

def _show(entries, console):
    t = Table(box=None, pad_edge=False, header_style='bold')
    t.add_column('')
    for e in entries: t.add_column(e.label, justify='right', style='bold' if e is entries[-1] else None)
    for row in side_by_side(entries): t.add_row(*row)
    console.print(t)

def _told(out, entries, console):
    _show(entries, console)
    console.print(f'{out} holds model.safetensors, recipe.json, metrics.json; open {out}/report.html in a browser')
    return 0


def _stopped(out, entries, how):
    "What to say after Ctrl-C; a report of what there is, where it can be written"
    if not entries or not entries[-1].result.steps: return f'stopped before the first step; go on with: {how}'
    e = entries[-1]
    said = f'{e.label} {"is done; stopped after" if e.result.finished else "stopped at"} step {e.result.steps:,}'
    note = f'{said}, before all was trained. To go on: {how}'
    try: write_report(out/'report.html', entries, stopped=note, where=str(out))
    except OSError as error: return f'{said} (no report: {error.strerror}); go on with: {how}'
    return f'{said}; {out}/report.html shows how far it is; go on with: {how}'


def _read(o, folder=None):
    "The images, as the options say; `folder` is the same as theirs, in the user's words"
    if o['folder'] is not None: return read_folder(folder or o['folder'], size=o['size'])
    return embedded().resize(o['size']) if o['size'] else embedded()

def _tell(data, console):
    (h, w), n = data.size, {k: f'{len(p):,}' for k, p in data.parts.items()}
    console.print(f'{data.name}: {data.n_classes} classes, {h} x {w} pixels; {n["train"]} images to train on, '
                  f'{n["valid"]} to validate, {n["test"]} to test')
    for note in data.notes: console.print(f'  {note}')

def _steps(recipe, data, seed, device): # build it, and train three steps; raises what goes wrong, in one clear line
    learn = learner(recipe, data, seed, device)
    (h, w), n = learn.dls.train.dataset.x.shape[-2:], learn.dls.train.bs
    try: train(recipe.replace(steps=3), data, seed, progress=False, device=device)
    except TrainingDiverged: pass # the run itself will say at which step
    except Interrupted: raise KeyboardInterrupt('stopped before the first step') from None
    except MemoryError: raise
    except Exception as e:
        raise ValueError(f'no step can be trained with batch_size={n} on images of {h} x {w}: {_one_line(e)}') from e

def _try(arms, data, seed, device):
    "Train a few steps of every arm: what cannot work is said before a folder is claimed"
    for label, recipe in arms:
        try: _steps(recipe, replace(data, valid=data.valid[:1]), seed, device)
        except ValueError as e:
            hint = ' (another --size, or --no-baseline)' if len(arms) > 1 and label == 'baseline' else ''
            raise ValueError(f'{label}: {e}{hint}') from e


def _trained(a, o, claim, arms, data, device, fit): # -> the entries; stopped or lost, it says how to go on
    entries, how = [], _how(a, claim.out)
    try: _train_all(arms, data, o, claim, _console(stderr=True), device, entries, fit)
    except KeyboardInterrupt: raise KeyboardInterrupt(_stopped(claim.out, entries, how)) from None
    except TrainingDiverged:
        claim.began = False # nothing there is worth going on with
        raise
    return entries

def train_command(
    a, # what argparse made of the command line
    fit=train, # trains one recipe; `train_together` where several processes do it
    first:bool=True # is this the first process? The others leave no results
)->int: # exit code
    "`cnn_tricks train`: the baseline, then the recipe, on the same images; results in a folder that can be resumed"
    said = _console()
    out, there = _place(a, said)
    if there is None: return 0
    o = options_of(out, given_options(a), there)
    use_threads(a.threads, out, there)
    device, data = tried_device(a.device), _read(o, a.folder)
    _tell(data, said)
    arms = planned(o, data)
    _try(arms, data, o['seed'], device)
    with _claimed(a, said, out, o, there) as claim:
        entries = _trained(a, o, claim, arms, data, device, fit)
        if first: _finish(claim.out, entries)
    return _told(claim.out, entries, said) if first else 0


def train_on_several(
    a # what argparse made of the command line
)->int: # exit code
    "`cnn_tricks train` in one of several processes that a launcher has started, on one machine or on many"
    from cnn_tricks.distributed.train_together import train_together
    from cnn_tricks.distributed.process_group import ProcessLost, mirrored, process_group
    how = _how(a, Path(a.out or _default))
    try:
        with process_group(cpu=a.device == 'cpu', one_voice=True) as (rank, _):
            with mirrored(None if rank else run_folder(a.out, a.resume)) as folder:
                if rank: a.out = str(folder)
                return train_command(a, train_together, first=rank == 0)
    except (Exception, KeyboardInterrupt) as e:
        os.environ['RANK'] = '0'  # of all processes, this one is to say it
        if not isinstance(e, ProcessLost): raise
        raise ProcessLost(f'{e}; go on from the last checkpoint with: {how}') from e
