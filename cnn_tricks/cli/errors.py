"""Mistakes of a user, told in one line"""
import os
import sys

__all__ = ['UsageError', 'one_line', 'complain']


class UsageError(ValueError):
    "The command line has to be changed: exit code 2"


def one_line(
    e:Exception # what went wrong; a warning will do
)->str:
    "An exception in one line: a file's name and the system's reason, a message of our own as it is, else its kind, too"
    if isinstance(e, OSError) and e.strerror: text = f'{e.filename}: {e.strerror}' if e.filename else e.strerror
    elif isinstance(e, (ValueError, TypeError, OSError, RuntimeError, ImportError)) and str(e): text = str(e)
    else: text = f'{type(e).__name__}: {e}'
    return ' '.join(text.split())


def complain(
    text:str, # one line
    code:int=1 # the exit code that goes with it
)->int: # the same code
    "Print a line on stderr, from the first of several processes alone"
    if os.environ.get('RANK', '0') == '0': print(f'cnn_tricks: {text}', file=sys.stderr, flush=True)
    return code
