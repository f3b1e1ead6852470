"""Where the commands print: plain text, with colours and bars on a terminal alone"""
import sys

from rich.console import Console

__all__ = ['console']


def console(
    stderr:bool=False # print on stderr?
)->Console:
    "A console that takes text as it is; a kernel's FORCE_COLOR makes no terminal of it"
    terminal = (sys.stderr if stderr else sys.stdout).isatty() and 'ipykernel' not in sys.modules
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True, force_jupyter=False,
                   force_terminal=terminal)
