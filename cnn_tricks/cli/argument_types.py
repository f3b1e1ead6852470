"""What the words of all commands have in common: limits of numbers, help with examples; nothing heavy is imported"""
import argparse
import math

__all__ = ['OneLineParser', 'number', 'at_least_1', 'above_0', 'text', 'command', 'add_machine']


class OneLineParser(argparse.ArgumentParser):
    "A parser that complains in one line"
    def error(self, message): self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n')


def number(
    kind:type, # int or float
    least:float, # the least that is allowed
    above:bool=False, # is `least` itself refused?
    most:float=None # the most that is allowed; None: what fits into 64 bits
): # function: text -> number
    "A type for argparse: a finite number within limits. It raises `argparse.ArgumentTypeError` that names the limit"
    most = most or (2**63 - 1 if kind is int else math.inf)
    def parse(text):
        try: value = kind(text)
        except ValueError: value = math.nan
        if (value > least if above else value >= least) and value <= most and value != math.inf: return value
        limit = f'{"greater than" if above else "at least"} {least}' + f' and at most {most}'*(value > most)
        raise argparse.ArgumentTypeError(f'{text!r} is no {"whole " if kind is int else ""}number {limit}')
    return parse


def at_least_1(
    text:str # of the command line
)->int:
    "A type for argparse: a whole number of at least 1"
    return number(int, 1)(text)


def above_0(
    text:str # of the command line
)->float:
    "A type for argparse: a finite number greater than 0"
    return number(float, 0, above=True)(text)


def text(
    words:str # of the command line
)->str:
    "A type for argparse: words. An empty one is most often a variable of the shell that is not set"
    if words.strip(): return words
    raise argparse.ArgumentTypeError(f'{words!r} is empty; leave the argument out, or give it a value')


def command(
    commands, # of argparse
    name:str, # of the command
    help:str, # a line
    about:str, # some lines
    examples:list # words of a command line, each
)->argparse.ArgumentParser: # to add arguments to
    "Add a command; its help ends with examples"
    ending = 'examples:\n' + '\n'.join(f'  cnn_tricks {name} {e}'.rstrip() for e in examples)
    p = commands.add_parser(name, help=help, description=about, epilog=ending, prog=f'cnn_tricks {name}',
                            formatter_class=argparse.RawDescriptionHelpFormatter)
    p.set_defaults(command=name)
    return p


def add_machine(
    p:argparse.ArgumentParser # of a command
):
    "What train and audit say about the machine"
    p.add_argument('--threads', type=number(int, 1, most=1024), metavar='N',
                   help='processor threads (default: one for each core that other programs leave)')
    p.add_argument('--device', type=text, help='cpu, cuda, mps (default: the fastest there is)')
