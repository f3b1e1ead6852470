"""Mistakes of a user, told in one line"""
import os, sys

__all__ = ['UsageError']


class UsageError(ValueError):
    "The command line has to be changed: exit code 2"

def _one_line(e):
    "An exception in one line"
    if isinstance(e, OSError) and e.strerror: text = f'{e.filename}: {e.strerror}' if e.filename else e.strerror
    elif isinstance(e, (ValueError, TypeError, OSError, RuntimeError, ImportError)) and str(e): text = str(e)
    else: text = f'{type(e).__name__}: {e}'
    return ' '.join(text.split())

def _complain(text, code=1):
    "One line on stderr, from one process of several; returns the exit code"
    if os.environ.get('RANK', '0') == '0': print(f'cnn_tricks: {text}', file=sys.stderr, flush=True)
    return code
