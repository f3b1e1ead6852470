"""The words of `audit` and `bench`, which compare; nothing heavy is imported"""
import argparse

from .argument_types import above_0, add_machine, at_least_1, command, number, text

__all__ = ['add_audit', 'add_bench']


def _add_on(p):
    "What bench and audit say about a cluster"
    p.add_argument('--on', type=text, metavar='WORKERS', help='who makes the runs: dask or ray, or dask://HOST:PORT or '
                   'ray://HOST:PORT (default: this machine)')


_audit_about = '''Tries the tricks of the course on your images: each against the recipe
without it, over several seeds and for equal seconds of training. Says which
help, which hurt, which make no difference and which it could not decide in the
minutes given, and then checks all that help together on the test images. Each
seed splits the images to train and validate on anew. FOLDER.test_reads.json
counts how often the test images were read. Leaves a folder: report.html,
ledger.json and recipe.json (for `cnn_tricks train --recipe`: with what helped,
if the last check says that it helps). Ctrl-C stops; --resume goes on.

--on gives runs to the workers of a Dask scheduler or a Ray cluster, as
`cnn_tricks bench --help` says. What goes out together: the runs of one round
(the recipe and each trick that is still open, with one seed), the runs that
tune the learning rate of one of them, and a pair of the last check; so more
workers than tricks + 1 have little to do. What stays here, in turns and on one
thread: reading the images, the trial, and what a step costs with each trick,
since seconds of two machines cannot be compared. So the workers should be
machines like this one. Rounds follow each other: after each the audit looks at
the time, and at which tricks are decided.'''


def _delta(text):
    "A type for argparse: of --delta, in points"
    value = number(float, 0, above=True)(text)
    if value < 100: return value
    raise argparse.ArgumentTypeError(f'{text!r} is no number of points below 100')


def add_audit(
    commands # of argparse
):
    "The words of `cnn_tricks audit`"
    p = command(commands, 'audit', 'find out which tricks help on your images', _audit_about, [
        '', 'photos --minutes 30', 'photos --minutes 10 --tricks ema mixup label_smoothing --delta 0.5', '--resume'])
    p.add_argument('folder', nargs='?', type=text, metavar='FOLDER', help='as for train; without it, the clothes that '
                   'come with cnn_tricks')
    p.add_argument('--minutes', type=above_0, metavar='M', help='minutes for everything (default: 10)')
    p.add_argument('--recipe', type=text,
                   help='what the tricks are added to: fast (default), baseline, or a JSON file')
    p.add_argument('--tricks', nargs='+', type=text, metavar='NAME', help='tricks to try (default: all that can be '
                   'used here, the most promising first)')
    p.add_argument('--delta', type=_delta, metavar='POINTS', help='the smallest difference of accuracy that matters to '
                   'you, in points (default: 1)')
    p.add_argument('--metric', choices=('accuracy', 'balanced_accuracy', 'macro_f1'), help='what is compared: where '
                   'classes are uneven, balanced_accuracy counts each alike (default: accuracy)')
    p.add_argument('--size', type=at_least_1, metavar='PIXELS',
                   help='side of the images (default: as they are, up to 64)')
    p.add_argument('--out', type=text, metavar='DIR', help='folder for the results (default: cnn_tricks_audit, or '
                   'cnn_tricks_audit_2 and so on where that holds an audit)')
    p.add_argument('--resume', action='store_true', help='go on with the audit in --out')
    _add_on(p)
    p.add_argument('--seed', type=number(int, 0, most=2**62), help='the first of the seeds (default: 42)')
    add_machine(p)


_bench_about = '''Runs a bench: named images, a frozen base recipe, fixed lengths, five seeds.
Rates are tuned on validation images, by seeds of their own; test images are
read once for each run. Everything is kept in one JSON file after each run, so
a bench that was stopped goes on where it was, from a record of others, too.
NAME: clothes, fashion, cifar10, photos; all for --show and --dry-run.
Images: clothes has its own; the others are found as CNN_TRICKS_DATA says.

--on gives the runs to the workers of a Dask scheduler or a Ray cluster that is
there already: dask://HOST:PORT or ray://HOST:PORT, or dask or ray alone for the
one that DASK_SCHEDULER_ADDRESS or RAY_ADDRESS names, or that of this machine.
Each worker makes one run at a time, on one thread (so: dask worker HOST:PORT
--nworkers 8 --nthreads 1), with the same results as here on the same kind of
processor. It needs the same versions of cnn_tricks and torch as here, and no
images: those are read here and sent once. A run whose worker is lost is made
by another. pip install 'cnn_tricks[dask]' or 'cnn_tricks[ray]'.'''


def add_bench(
    commands # of argparse
):
    "The words of `cnn_tricks bench`"
    p = command(commands, 'bench', 'run or show the recorded evidence for the tricks', _bench_about, [
        'all --show', 'fashion --dry-run', 'clothes --tricks ema mixup --seeds 3 --minutes 20',
        'fashion --out results/benches/fashion.json --jobs 2', 'fashion --on dask://10.0.0.5:8786'])
    p.add_argument('bench', type=text, metavar='NAME', help='the bench, or all')
    p.add_argument('--tricks', nargs='+', type=text, metavar='NAME', help="arms or tricks (default: the bench's)")
    p.add_argument('--epochs', nargs='+', type=above_0, metavar='N', help="lengths of runs (default: the bench's)")
    p.add_argument('--seeds', type=number(int, 2, most=100), metavar='N', help="of each arm (default: the bench's)")
    p.add_argument('--minutes', type=above_0, metavar='M', help='begin no run that would end later')
    p.add_argument('--jobs', type=number(int, 1, most=64), metavar='N',
                   help='runs at a time, one thread each (default: 1)')
    _add_on(p)
    p.add_argument('--device', type=text, help='cpu, cuda, mps (default: the fastest there is)')
    p.add_argument('--out', type=text, metavar='FILE', help='the record (default: cnn_tricks_bench/NAME.json)')
    what = p.add_mutually_exclusive_group()
    what.add_argument('--show', action='store_true', help='print what was recorded (that of --out, if it is given)')
    what.add_argument('--dry-run', action='store_true', help='print arms, seeds and hours of what is left')
    what.add_argument('--costs', action='store_true', help='time a step of each arm, in turns, on a quiet machine')
    what.add_argument('--check', action='store_true', help='make one run again and say whether it agrees')
