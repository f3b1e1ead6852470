"""`cnn_tricks train`: the baseline and a recipe side by side on a folder of images, resumable, with a report"""
import json
import os
from dataclasses import fields
from pathlib import Path

from fastai.callback.core import Callback
from rich.table import Table

from ..base.files import atomic_write
from ..base.machine import Machine, default_device
from ..core.plan import plan
from ..core.result import Result, load_trained
from ..core.run_control import Interrupted, TrainingDiverged
from ..core.train import train, writable_folder
from ..measure.test_reads import log_beside, log_read
from ..report.training import Entry, side_by_side, write_report
from .base_network import choose_base, tuning_recipe
from .console import console
from .errors import UsageError, complain
from .preflight import images_for_run, tell_images, try_recipes
from .pretrained_run import Clock, train_pretrained
from .progress import RunBar
from .run_claim import claim_for, how_to_resume, place_of_run, writing_to
from .run_options import TRAIN_FOLDER, arm_folder, given_options, options_of, planned, run_folder, same_seconds
from .run_options import tried_device, use_threads, with_budget

__all__ = ['load_result', 'train_all', 'stopped_line', 'train_command', 'train_on_several']


# the runs

def load_result(
    folder:Path, # with the `model.safetensors`, `recipe.json` and `metrics.json` of a finished run
    data # the `ImageData` that it was trained on
)->Result: # as `train` returned it
    "A finished run, read back; raises `UsageError` where the images have changed since"
    m, trained = json.loads((folder/'metrics.json').read_text(encoding='utf-8')), load_trained(folder)
    data = plan(trained.recipe, data).data.resize(trained.size)
    if m['data']['fingerprint'] != data.fingerprint:
        raise UsageError(f'cannot resume {folder}: the images have changed since it was trained')
    known = {f.name for f in fields(Result)} - {'recipe', 'trained', 'data', 'machine'}
    return Result(trained.recipe, trained, data, machine=Machine(**m['machine']), **{k: m[k] for k in known & m.keys()})


class _Began(Callback):
    "Notes in the folder's claim that a step was trained: from then on there is something to go on with"

    def __init__(self, claim): self.claim = claim

    def after_batch(self): self.claim.began = True


def _train_arm(label, recipe, data, o, folder, console, resume, device, fit, claim, more=()):
    "One run, in its folder; one that is finished there is read back"
    if (folder/'metrics.json').exists(): return load_result(folder, data)
    with writing_to(folder): writable_folder(folder)
    with RunBar(label, console) as bar:
        cbs = [bar, _Began(claim), *more]
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


def _tuned(o, data, claim, console, said, device, entries, fit, clock):
    "What `train_pretrained` trains, each run in a folder of its own"
    def done(label):
        folder = claim.out/arm_folder(label)
        return load_result(folder, data) if (folder/'metrics.json').exists() else None

    def keep(label, result):
        folder = claim.out/arm_folder(label)
        with writing_to(folder): result.save(folder)
        (folder/'checkpoint.pt').unlink(missing_ok=True)
        claim.began = True

    def run(label, recipe, cbs):
        how = claim.out/arm_folder(label), console, claim.going_on, device, fit, claim, cbs
        try: result = _train_arm(label, recipe, data, o, *how)
        except Interrupted as e:
            entries.append(Entry(label, e.result))
            raise
        keep(label, result)
        return result

    train_pretrained(o, data, done, run, keep, entries, console, said, device, clock)


# the results

def _metrics(e, entries):
    "What `metrics.json` holds: the run's own record, its test accuracy and how the baseline fared"
    first, more = entries[0], dict(label=e.label, test_accuracy=e.test, parameters=e.parameters)
    more |= {f'test_{k}': v for k, v in e.scores.items()}
    if first.label != 'baseline':
        more['beside'] = {f.label: dict(accuracy=f.result.accuracy, test_accuracy=f.test, seconds=f.result.seconds)
                          for f in entries if f is not e}
    elif e is not first:
        more['baseline'] = dict(accuracy=first.result.accuracy, test_accuracy=first.test, seconds=first.result.seconds,
                                parameters=first.parameters,
                                seconds_to_its_accuracy=e.result.time_to(first.result.accuracy))
    return json.dumps(e.result.metrics() | more, indent=1).encode()


def _finish(out, entries, folder):
    "Read the test part, once, and write the results; `metrics.json` comes last and says that all is there"
    for e in entries: e.read_test()
    if folder is not None:  # so that an audit of these images knows
        log = log_beside(folder)
        try: log_read(log, entries[-1].result.data, 'train')
        except OSError as error: complain(f'warning: {log} cannot be written ({error.strerror}): this read is not logged')
    with writing_to(out):
        entries[-1].result.trained.save(out)
        write_report(out/'report.html', entries, where=str(out))
        for e in entries:
            own, said = out/arm_folder(e.label), _metrics(e, entries)
            for folder in [own]*own.is_dir() + [out]*(e is entries[-1]):
                with atomic_write(folder/'metrics.json') as f: f.write(said)
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
    if not entries or not (entries[-1].result.steps or entries[-1].result.history):
        return f'stopped before the first step; go on with: {how}'
    e = entries[-1]
    said = f'{e.label} {"is done; stopped after" if e.result.finished else "stopped at"} step {e.result.steps:,}'
    note = f'{said}, before all was trained. To go on: {how}'
    try: write_report(out/'report.html', entries, stopped=note, where=str(out))
    except OSError as error: return f'{said} (no report: {error.strerror}); go on with: {how}'
    return f'{said}; {out}/report.html shows how far it is; go on with: {how}'


# the command

def _plan(o, data, fit):
    "The runs, or none where each depends on the one before it; and what to try of them before a folder is claimed"
    if not (base := o.get('base')) or not base['weights']: return (planned(o, data),)*2
    recipe = tuning_recipe(base, o)
    if fit is train: return [], [('fine-tuned', recipe)]
    # several processes agree on steps, not on what each of them measures
    arms = [('fine-tuned', with_budget(recipe.replace(epochs=5), o, data))]
    return arms, arms


def _trained(a, o, claim, arms, data, device, fit, said, clock):
    "The entries; a run that was stopped or lost says how to go on"
    entries, how, shown = [], how_to_resume(a, claim.out), console(stderr=True)
    try:
        if arms: train_all(arms, data, o, claim, shown, device, entries, fit)
        else: _tuned(o, data, claim, shown, said, device, entries, fit, clock)
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
    With a pretrained network: a head on frozen features, then all layers.

    Whatever can be wrong comes first: the words, the folder, the images, both networks and three steps of each. Only
    then is a folder claimed and does anything train.

    Raises `UsageError` (exit code 2), `ValueError` and `OSError` (1)."""
    clock, said = Clock(), console()
    out, there = place_of_run(a, said)
    if there is None: return 0
    o = options_of(out, given_options(a), there)
    use_threads(a.threads, out, there)
    device = tried_device(a.device)
    if not there:
        asked = o | {'folder': a.folder or o['folder']}  # in the user's words, for complaints
        o['base'], why = choose_base(asked, a.recipe is not None, device or str(default_device()))
        if why: said.print(why, soft_wrap=True)
    data = images_for_run(o, a.folder)
    tell_images(data, said)
    arms, trial = _plan(o, data, fit)
    try_recipes(trial, data, o['seed'], device)
    with claim_for(a, said, out, o, there) as claim:
        entries = _trained(a, o, claim, arms, data, device, fit, said, clock)
        if first: _finish(claim.out, entries, o['folder'])
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
