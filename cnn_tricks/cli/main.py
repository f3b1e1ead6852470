"""The command line: what is imported for each command, and one line for whatever goes wrong"""
import json
import os
import sys
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path

from ..tools.memory_allocator import kept_memory
from .arguments import parser
from .errors import UsageError, complain, one_line
from .wait_policy import set_waiting

__all__ = ['main']

_launch = 'accelerate launch --multi_gpu --num_processes 2 -m cnn_tricks train (on processors, too)'


def _several():
    "Has a launcher started this process as one of several?"
    text = os.environ.get('WORLD_SIZE') or '1'
    if not text.isdecimal(): raise UsageError(f'WORLD_SIZE={text!r}: must be a whole number of processes')
    n = int(text)
    if n > 1 and 'RANK' not in os.environ:
        raise UsageError(f'WORLD_SIZE={n} and no RANK: several processes are started with {_launch}')
    if n == 1 and {'MASTER_ADDR', 'ACCELERATE_USE_CPU'} <= set(os.environ):  # accelerate launch --cpu --num_processes 2
        complain(f'warning: accelerate has started one process alone; for several: {_launch}')
    return n > 1


@contextmanager
def _wait(text):
    "A line on the terminal while something takes its time; what is loaded meanwhile finds the machine looked at"
    tty = sys.stderr.isatty()
    if tty: print(f'{text} ...', end='\r', file=sys.stderr, flush=True)
    set_waiting()
    try: yield
    finally:
        if tty: print('\033[K', end='', file=sys.stderr, flush=True)


def _train(a):
    if a.folder is not None and not Path(a.folder).exists(): raise UsageError(f'{a.folder}: no such folder')
    several = _several()
    with _wait('loading torch and fastai'): from .train import train_command, train_on_several
    return (train_on_several if several else train_command)(a)


def _audit(a):
    if a.folder is not None and not Path(a.folder).exists(): raise UsageError(f'{a.folder}: no such folder')
    with _wait('loading torch and fastai'): from .audit import audit_command
    return audit_command(a)


def _bench(a):
    with _wait('loading torch and fastai'): from .bench import bench_command
    return bench_command(a)


def _predict(a):
    if not Path(a.model).exists(): raise UsageError(f'{a.model}: no such folder')
    with _wait('loading torch'):
        from ..core import result  # noqa: F401 (here, while the line says so)
        from .predict import predict_command
    return predict_command(a)


def _export(a):
    if not Path(a.model).exists(): raise UsageError(f'{a.model}: no such folder')
    with _wait('loading torch'): from .export import export_command
    with _wait('translating'): return export_command(a)


def _lessons(a):
    from .lessons import lessons_command
    return lessons_command(a)


def _doctor(a):
    with _wait('loading torch'): from .doctor import diagnosis, show_diagnosis
    with _wait('measuring for some seconds'): found = diagnosis(measure=not a.no_measure)
    print(json.dumps(found, indent=1)) if a.json else show_diagnosis(found)


_commands = {'train': _train, 'predict': _predict, 'export': _export, 'audit': _audit, 'bench': _bench,
             'lessons': _lessons, 'doctor': _doctor}


def _warn(message, category, filename, lineno, file=None, line=None): complain(f'warning: {one_line(message)}')


def _flush(code):
    "Write out what was printed; where that fails (a full disk, a closed pipe), keep Python from a second try"
    try: sys.stdout.flush()
    except OSError as e:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 1 if isinstance(e, BrokenPipeError) else complain(f'cannot print: {e.strerror}')
    return code


def _run(args):
    "Parse and run; every end but success is an exception"
    a = parser().parse_args(args)
    with warnings.catch_warnings(), kept_memory():  # warnings of the libraries say nothing to users
        warnings.simplefilter('ignore')
        warnings.filterwarnings('always', module=r'cnn_tricks\.')
        warnings.showwarning = _warn
        return _commands[a.command](a) or 0


def main(
    args:list=None # the words of the command line; None: those that Python was started with
)->int: # exit code: 0 done, 1 failed, 2 bad arguments, 130 stopped
    "Run one command; whatever goes wrong is one line on stderr (with CNN_TRICKS_DEBUG=1, Python's traceback too)"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'): stream.reconfigure(errors='replace')
    try: code = _run(args)
    except SystemExit as e: code = e.code or 0
    except KeyboardInterrupt as e: code = complain(str(e) or 'stopped', 130)
    except BrokenPipeError: code = 1
    except Exception as e:
        if os.environ.get('CNN_TRICKS_DEBUG'): traceback.print_exc()
        code = complain(f'error: {one_line(e)}', 2 if isinstance(e, UsageError) else 1)
    return _flush(code)
