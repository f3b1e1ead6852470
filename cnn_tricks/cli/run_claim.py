"""One command at a time in a run's folder: a claim that ends with the process that made it"""
import json
import os
import shlex
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch

from .. import __version__
from ..base.files import atomic_write
from ..core.train import writable_folder
from .errors import UsageError
from .run_options import ARM_FOLDERS, TRAIN_FOLDER, files_of_run, run_folder

__all__ = ['Taken', 'RunClaim', 'claimed', 'writing_to', 'place_of_run', 'claim_for', 'how_to_resume']


class Taken(UsageError):
    "Another command has claimed the folder first"


@contextmanager
def writing_to(
    folder:Path # that something is written to
):
    "Raises `OSError` that names the folder where a write fails"
    try: yield
    except OSError as e: raise OSError(f'cannot write to {folder}: {e.strerror or e}') from e


def _locked(folder):
    "A lock that ends with the process; None where the system has none for folders"
    try: import fcntl
    except ImportError: return None
    lock = os.open(folder, os.O_RDONLY)
    try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f'{folder}: another command is at work there; wait for it, or give another --out') from None
    except OSError: pass  # a file system without locks
    return lock


class RunClaim:
    """A run's folder, held by one command; `with` it, an error before `began` is set leaves the folder free.

    To look whether a folder is free and then to write would let two commands in. So the folder is made, and in it
    `run.json`, in a way that fails if the file is there already: the system lets one of them do that. While a command
    works it holds a lock on the folder, which the system releases however the process ends."""

    def __init__(self,
        out:Path, # the folder; it need not exist
        going_on:bool=False # does the run that is there go on?
    ):
        self.out, self.going_on, self.began = Path(out), going_on, going_on
        self.ours, self.lock = going_on, None
        self.made = [p for p in (self.out, *self.out.parents) if not p.exists()]

    def __enter__(self): return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception) and not self.began: self.free()
        self.release()

    def take(self,
        options:dict, # of the run, as plain values
        command:str='train' # whose run it is
    ):
        """Claim the folder and note the options.

        Raises `Taken` where another command was faster, `OSError` where it cannot."""
        note = {'command': command, 'options': options, 'threads': torch.get_num_threads(), 'cnn_tricks': __version__}
        try:
            with writing_to(self.out):
                if not self.going_on: self._first()
                self.lock = _locked(self.out)
                writable_folder(self.out)
                free = shutil.disk_usage(self.out).free
                if free < 2**25: raise OSError(f'only {free/2**20:.1f} MB are free there')
                with atomic_write(self.out/'run.json') as f: f.write(json.dumps(note, indent=1).encode())
        except BaseException:
            if not self.going_on: self.free()
            self.release()
            raise

    def _first(self):
        "Make the folder and the note in it: of several commands that do this, one succeeds"
        self.out.mkdir(parents=True, exist_ok=True)
        try: (self.out/'run.json').touch(exist_ok=False)
        except FileExistsError: raise Taken(f'{self.out} holds an unfinished run') from None
        self.ours = True
        if found := [n for n in files_of_run(self.out) if n != 'run.json']:
            (self.out/'run.json').unlink()
            self.ours = False
            raise Taken(f'{self.out} holds results ({found[0]})')

    def free(self):
        "Remove what an unfinished run has written, and the folders that were made for it"
        if self.ours:
            for n in ARM_FOLDERS: shutil.rmtree(self.out/n, ignore_errors=True)
            for n in ('run.json', 'checkpoint.pt'): (self.out/n).unlink(missing_ok=True)
        for p in self.made or [self.out]*self.going_on:
            try: p.rmdir()
            except OSError: break  # something else is in it, or it was never made

    def release(self):
        "Let go of the lock"
        if self.lock is not None: os.close(self.lock)
        self.lock = None


def claimed(
    out:str, # the folder that was asked for; None: `default`, or one like it that is free
    folder:Path, # the folder that was found for it
    options:dict, # of the run
    going_on:bool=False, # does the run that is there go on?
    default:str=TRAIN_FOLDER, # the folder that is meant where none was asked for
    command:str='train' # whose run it is
)->RunClaim: # of `folder`, or of the next free one
    """A folder for this command alone, however many start at the same moment.

    Raises `UsageError` where the folder that was asked for is taken, `OSError` where it cannot be written."""
    while True:
        claim = RunClaim(folder, going_on)
        if out is None: claim.made = claim.made or [claim.out]  # a name of ours: if it is empty again, it can go
        try:
            claim.take(options, command)
            return claim
        except Taken: folder = run_folder(out, default=default)


def place_of_run(
    a, # what argparse made of the command line: `out`, `resume`
    said, # console
    default:str=TRAIN_FOLDER, # the folder that is meant where none was asked for
    done:str='metrics.json', # the file that a finished run has
    what:str='run' # what to call it
)->tuple: # (folder, does an unfinished run go on there?); None in place of the second: it is finished
    "Where a command works; what `--resume` finds there is said. Raises `UsageError` as `run_folder` does"
    out = run_folder(a.out, a.resume, default)
    there = a.resume and (out/'run.json').exists()
    if a.resume and not there:
        if (out/done).exists():
            said.print(f'the {what} in {out} is finished: open {out}/report.html; '
                       f'for another {what} leave out --resume')
            return out, None
        said.print(f'nothing to go on with in {out}: a new {what} starts')
    return out, there


def claim_for(
    a, # what argparse made of the command line: `out`
    said, # console
    out:Path, # of `place_of_run`
    options:dict, # of the run
    there:bool, # does the run that is there go on?
    default:str=TRAIN_FOLDER, # the folder that is meant where none was asked for
    what:str='run', # what to call it
    command:str='train' # whose run it is
)->RunClaim:
    "The folder, for this command alone; where it is not the usual one, that is said. Raises as `claimed` does"
    claim = claimed(a.out, out, options, there, default, command)
    if a.out is None and not there and claim.out.name != default:
        said.print(f'{default} holds a {what}: this one goes to {claim.out}')
    return claim


def how_to_resume(
    a, # what argparse made of the command line: `out`
    out:Path, # the folder of the run
    command:str='train', # whose run it is
    default:str=TRAIN_FOLDER # the folder that is meant where none was asked for
)->str: # 'cnn_tricks train --resume'
    "The command that goes on with a stopped run, to be pasted into a shell"
    named = a.out if a.out is not None else str(out) if out.name != default else None
    return f'cnn_tricks {command} --resume' + (f' --out {shlex.quote(named)}' if named else '')
