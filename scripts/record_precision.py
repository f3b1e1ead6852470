"""Make the recorded runs of lesson 11: does training in bfloat16 cost accuracy, and what does it save?

    python scripts/record_precision.py                  # both, into results/: about five minutes on 2 quiet cores
    python scripts/record_precision.py precision_fast   # one of them
    python scripts/record_precision.py --quick          # small data, short runs, into build/quick/: to try the script

`precision`: the baseline recipe with and without bfloat16, over the same seeds, on test images, for equal steps.
`precision_fast`: the same for the fast recipe, for equal steps and for equal seconds.
float16 is left out: on a processor it takes dozens of times as long.

Seconds are part of what is recorded: let nothing else run beside it.
"""
import argparse, os, sys, time, warnings
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '2')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.datasets import embedded
from cnn_tricks.measure import compare
from cnn_tricks.precision import Precision
from cnn_tricks.recipe import recipes
from cnn_tricks.records import record

ROOT = Path(__file__).resolve().parent.parent
DELTA = 0.005  # half a point: declared before any run
RECORDS = {'precision': ('baseline', 2, ('steps',)), 'precision_fast': ('fast', 2, ('steps', 'seconds'))}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f'any of {", ".join(RECORDS)}; none: all')
    p.add_argument('--quick', action='store_true', help='small and short, for a try; writes elsewhere')
    a = p.parse_args()
    if unknown := set(a.names) - set(RECORDS): p.error(f'unknown: {", ".join(sorted(unknown))}')
    data, seeds, folder = embedded(), range(3 if a.quick else 6), ROOT/('build/quick' if a.quick else 'results')
    if a.quick: data = data.subset(300, parts=('train', 'valid', 'test'))
    for name in a.names or RECORDS:
        start, (recipe, epochs, equals) = time.perf_counter(), RECORDS[name]
        result = {f'equal {equal}': compare(recipes[recipe], Precision('bfloat16'), data, seeds, equal=equal, delta=DELTA,
                                            budget={'epochs': epochs}, part='test', progress=sys.stdout.isatty())
                  for equal in equals}
        path = record(name, result, folder, made_by=f'python scripts/record_precision.py {name}')
        print(f'{path}: {time.perf_counter() - start:.0f} s')
        for c in result.values(): print(f'  {c!r} Seconds: {c.seconds[0]:.2f} and {c.seconds[1]:.2f}', flush=True)


if __name__ == '__main__': main()
