"""Make the recorded runs of lesson 15: progressive resizing at equal seconds and at equal steps.

    python scripts/record_resolution.py                       # all, into results/: about 6 minutes on a quiet core
    python scripts/record_resolution.py resolution_steps      # one of them
    python scripts/record_resolution.py --quick               # small data, short runs, into build/quick/: to try the script

Two schedules against none: the default one, and one that begins to grow after a quarter of the steps.
`resolution_seconds`: 5 seconds of training for each run, on the full Fashion-MNIST if it is on this machine (50,000 training
images; 5,000 of the test images), else on the embedded part; each arm with the better of two learning rates.
`resolution_steps`: the same steps for all, on the embedded part: what small images cost in accuracy, whatever a step costs.
`resolution_small`: the same for images of 16 pixels throughout, in training and in testing.

Seconds are part of what is recorded: let nothing else run beside `resolution_seconds`. One thread: with two, waiting for each
other takes longer than the work of so small a step, and small images save nothing.
"""
import argparse, os, sys, time, warnings
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported: two threads wait for each other in steps this small
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.datasets import embedded, fashion_mnist
from cnn_tricks.measure import ledger
from cnn_tricks.recipe import Recipe
from cnn_tricks.records import record
from cnn_tricks.resolution import SmallFirst

ROOT = Path(__file__).resolve().parent.parent
DELTA = 0.005  # half a point: declared before any run
BASE = Recipe(network='resnet', optimizer='adamw', lr=0.02, schedule='one_cycle', channels_last=True)
BAR = sys.stdout.isatty()


TRICKS = {'progressive_resizing': SmallFirst(), 'growing from a quarter on': SmallFirst(delay_fraction=0.25, finetune_fraction=0.25)}


def resolution_seconds(quick):
    data = embedded().subset(400, parts=('train', 'test')) if quick else full_or_embedded().subset(5000, parts=('test',))
    return ledger(BASE, TRICKS, data.subset(2000, parts=('valid',)), range(3 if quick else 5), equal='seconds',
                  budget={'seconds': 0.3 if quick else 5}, lrs=(0.01, 0.02), delta=DELTA, part='test', progress=BAR)


def full_or_embedded():
    try: return fashion_mnist()
    except RuntimeError as e: print(f'the embedded part instead of the full Fashion-MNIST: {e}')
    return embedded()


def resolution_steps(quick):
    data = embedded().subset(400) if quick else embedded()
    return ledger(BASE, TRICKS, data, range(3 if quick else 5), budget={'epochs': 2}, delta=DELTA, part='test', progress=BAR)


def resolution_small(quick):
    data = embedded().subset(400) if quick else embedded()
    return ledger(BASE, {'16 pixels throughout': BASE.replace(size=16)}, data, range(3 if quick else 5), budget={'epochs': 2},
                  delta=DELTA, part='test', progress=BAR)


RECORDS = dict(resolution_seconds=resolution_seconds, resolution_steps=resolution_steps, resolution_small=resolution_small)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f'any of {", ".join(RECORDS)}; none: all')
    p.add_argument('--quick', action='store_true', help='small and short, for a try; writes elsewhere')
    p.add_argument('--folder', type=Path, help='where to write; default: results/, with --quick build/quick/')
    a = p.parse_args()
    if unknown := set(a.names) - set(RECORDS): p.error(f'unknown: {", ".join(sorted(unknown))}')
    folder = a.folder or ROOT/('build/quick' if a.quick else 'results')
    for name in a.names or RECORDS:
        start = time.perf_counter()
        result = RECORDS[name](a.quick)
        path = record(name, result, folder, made_by=f'python scripts/record_resolution.py {name}')
        print(f'{path}: {time.perf_counter() - start:.0f} s\n{result!r}\n{result.table().markdown}', flush=True)
        for arm in (result.comparisons[0].base, *(c.trick for c in result.comparisons)):
            print(f'  {arm.name}: {arm.steps} steps, {arm.step_seconds or 0:.4f} s each, {arm.lrs}, valid '
                  f'{[round(r.valid, 4) for r in arm.runs]}')


if __name__ == '__main__': main()
