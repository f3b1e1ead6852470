"""`cnn_tricks train`: the baseline and a recipe side by side on a folder of images, resumable, with a report"""
import json
import os
from dataclasses import fields
from pathlib import Path

from fastai.callback.core import Callback
from rich.table import Table

from ..base.files import atomic_write
from ..base.machine import Machine
from ..core.result import Result, load_trained
from ..core.run_control import Interrupted, TrainingDiverged
from ..core.train import train, writable_folder
from ..report.training import Entry, side_by_side, write_report
from .console import console
from .errors import UsageError
from .preflight import images_for_run, tell_images, try_recipes
from .progress import RunBar
from .run_claim import claim_for, how_to_resume, place_of_run, writing_to
from .run_options import TRAIN_FOLDER, given_options, options_of, planned, run_folder, same_seconds, tried_device
from .run_options import use_threads

__all__ = ['load_result', 'train_all', 'stopped_line', 'train_command', 'train_on_several']


# the runs

def load_result(
    folder:Path, # with the `model.safetensors`, `recipe.json` and `metrics.json` of a finished run
    data # the `ImageData` that it was trained on
)->Result: # as `train` returned it
    "A finished run, read back; raises `UsageError` where the images have changed since"
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


def _train_arm(label, recipe, data, o, folder, console, resume, device, fit, claim):
    "One run, in its folder; one that is finished there is read back"
    if (folder/'metrics.json').exists(): return load_result(folder, data)
    with writing_to(folder): writable_folder(folder)
    with RunBar(label, console) as bar:
        cbs = [bar, _Began(claim)]
        return fit(recipe, data, o['seed'], out=folder, resume=resume, progress=False, cbs=cbs, device=device)


def train_all(
    arms:list, # (label, `Recipe`) pairs
    data, # `ImageData`
    o:dict, # options
    claim, # `RunClaim` of the folder
    console, # where progress is shown
    device:str,
    entries:list, # fills with those that are done, and with one that was stopped
    fit=train # trains one recipe
):
    """Train every arm, the last one into the folder itself.

    Raises what `train` raises, and `OSError` where it cannot write."""
    for label, recipe in arms:
        folder = claim.out if label == arms[-1][0] else claim.out/label
        if entries and same_seconds(o): recipe = recipe.replace(seconds=entries[0].result.seconds)
        how = folder, console, claim.going_on, device, fit, claim
        try: entries.append(Entry(label, _train_arm(label, recipe, data, o, *how)))
        except Interrupted as e:
            entries.append(Entry(label, e.result))
            raise
        if folder != claim.out:
            with writing_to(folder): entries[-1].result.save(folder)
            (folder/'checkpoint.pt').unlink(missing_ok=True)


# the results

def _metrics(e, entries):
    "What `metrics.json` holds: the run's own record, its test accuracy and how the baseline fared"
    first, more = entries[0], dict(label=e.label, test_accuracy=e.test, parameters=e.parameters)
    if e is not first:
        more['baseline'] = dict(accuracy=first.result.accuracy, test_accuracy=first.test, seconds=first.result.seconds,
                                parameters=first.parameters,
                                seconds_to_its_accuracy=e.result.time_to(first.result.accuracy))
    return json.dumps(e.result.metrics() | more, indent=1).encode()


def _finish(out, entries):
    "Read the test part, once, and write the results; `metrics.json` comes last and says that all is there"
    for e in entries: e.test = e.result.test()
    with writing_to(out):
        entries[-1].result.trained.save(out)
        write_report(out/'report.html', entries, where=str(out))
        for e in entries:
            folder = out if e is entries[-1] else out/e.label
            with atomic_write(folder/'metrics.json') as f: f.write(_metrics(e, entries))
    for n in ('checkpoint.pt', 'run.json'): (out/n).unlink(missing_ok=True)


def _show(out, entries, said):
    "Print the table, and where the results are"
    t = Table(box=None, pad_edge=False, header_style='bold')
    t.add_column('')
    for e in entries: t.add_column(e.label, justify='right', style='bold' if e is entries[-1] else None)
    for row in side_by_side(entries): t.add_row(*row)
    said.print(t)
    said.print(f'{out} holds model.safetensors, recipe.json, metrics.json; open {out}/report.html in a browser')


def stopped_line(
    out:Path, # the folder of the run
    entries:list, # `Entry`s that are done, and the one that was stopped
    how:str # the command that goes on
)->str:
    "What to say after Ctrl-C; writes a report of what there is, where it can be written"
    if not entries or not entries[-1].result.steps: return f'stopped before the first step; go on with: {how}'
    e = entries[-1]
    said = f'{e.label} {"is done; stopped after" if e.result.finished else "stopped at"} step {e.result.steps:,}'
    note = f'{said}, before all was trained. To go on: {how}'
    try: write_report(out/'report.html', entries, stopped=note, where=str(out))
    except OSError as error: return f'{said} (no report: {error.strerror}); go on with: {how}'
    return f'{said}; {out}/report.html shows how far it is; go on with: {how}'


# the command

def _trained(a, o, claim, arms, data, device, fit):
    "The entries; a run that was stopped or lost says how to go on"
    entries, how = [], how_to_resume(a, claim.out)
    try: train_all(arms, data, o, claim, console(stderr=True), device, entries, fit)
    except KeyboardInterrupt: raise KeyboardInterrupt(stopped_line(claim.out, entries, how)) from None
    except TrainingDiverged:
        claim.began = False  # nothing there is worth going on with
        raise
    return entries


def train_command(
    a, # what argparse made of the command line
    fit=train, # trains one recipe; `train_together` where several processes do it
    first:bool=True # is this the first process? The others leave no results
)->int: # exit code
    """`cnn_tricks train`: the baseline, then the recipe, on the same images; results in a folder that can be resumed.

    Whatever can be wrong comes first: the words, the folder, the images, both networks and three steps of each. Only
    then is a folder claimed and does anything train.

    Raises `UsageError` (exit code 2), `ValueError` and `OSError` (1)."""
    said = console()
    out, there = place_of_run(a, said)
    if there is None: return 0
    o = options_of(out, given_options(a), there)
    use_threads(a.threads, out, there)
    device, data = tried_device(a.device), images_for_run(o, a.folder)
    tell_images(data, said)
    arms = planned(o, data)
    try_recipes(arms, data, o['seed'], device)
    with claim_for(a, said, out, o, there) as claim:
        entries = _trained(a, o, claim, arms, data, device, fit)
        if first: _finish(claim.out, entries)
    if first: _show(claim.out, entries, said)
    return 0


def train_on_several(
    a # what argparse made of the command line
)->int: # exit code
    """`cnn_tricks train` in one of several processes that a launcher has started, on one machine or on many. The first
    one writes and speaks; the others work in a passing copy of its folder. Raises `ProcessLost` where one ends."""
    from ..distributed.process_group import ProcessLost, mirrored, process_group
    from ..distributed.train_together import train_together
    how = how_to_resume(a, Path(a.out or TRAIN_FOLDER))
    try:
        with process_group(cpu=a.device == 'cpu', one_voice=True) as (rank, _):
            with mirrored(None if rank else run_folder(a.out, a.resume)) as folder:
                if rank: a.out = str(folder)
                return train_command(a, train_together, first=rank == 0)
    except (Exception, KeyboardInterrupt) as e:
        os.environ['RANK'] = '0'  # of all processes, this one is to say it
        if not isinstance(e, ProcessLost): raise
        raise ProcessLost(f'{e}; go on from the last checkpoint with: {how}') from e
