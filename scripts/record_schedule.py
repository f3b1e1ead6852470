"""Make the recorded runs of lesson 23, on Fashion-MNIST's embedded part.

    python scripts/record_schedule.py                  # both, into results/: about 6 minutes on one thread
    python scripts/record_schedule.py schedule_sweep   # one of them
    python scripts/record_schedule.py --quick          # small and short, into build/quick/: to try the script

`schedule`: five schedules against a fixed rate at one declared budget, each with its own best rate, on test images.
`schedule_sweep`: accuracy after 120 steps at many rates, for three pairs of network and optimiser: what `lr_find`'s
suggestions are checked against, and how a fixed rate and one-cycle differ in the rates that they bear.
"""
import argparse, os, sys, time, warnings
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.datasets import embedded
from cnn_tricks.measure import ledger, repeat
from cnn_tricks.recipe import recipes
from cnn_tricks.records import record
from cnn_tricks.schedule import OneCycle

ROOT = Path(__file__).resolve().parent.parent
DELTA = 0.005  # half a point: declared before any run
BAR = sys.stdout.isatty()
RATES = 0.002, 0.006, 0.02  # each schedule gets the best of these, chosen on another seed and on valid
LOW, HIGH = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.)


def schedule(data, quick):
    fixed = recipes['fast'].replace(schedule='fixed', schedule_args={})
    others = {name: fixed.replace(schedule=name) for name in ('step', 'exponential', 'cosine', 'wsd')}
    return ledger(fixed, others | {'one_cycle': OneCycle()}, data, range(3 if quick else 5), delta=DELTA, part='test',
                  budget={'epochs': 1 if quick else 2}, lrs=RATES[:2] if quick else RATES, progress=BAR)


def schedule_sweep(data, quick):
    fast, article = recipes['fast'].replace(schedule='fixed', schedule_args={}), recipes['baseline']
    todo = {'fast, adamw, fixed': (fast, LOW), 'fast, adamw, one_cycle': (fast + OneCycle(), LOW),
            'fast, sgd, fixed': (fast.replace(optimizer='sgd'), HIGH), 'article, adam, fixed': (article, LOW[:-1])}
    return {f'{name}, {lr:g}': repeat(r.replace(lr=lr, steps=120), data, range(2 if quick else 3), name=f'lr {lr:g}',
                                      progress=BAR)
            for name, (r, lrs) in todo.items() for lr in (lrs[::3] if quick else lrs)}


RECORDS = dict(schedule=schedule, schedule_sweep=schedule_sweep)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f'any of {", ".join(RECORDS)}; none: all')
    p.add_argument('--quick', action='store_true', help='small and short, for a try; writes elsewhere')
    a = p.parse_args()
    if unknown := set(a.names) - set(RECORDS): p.error(f'unknown: {", ".join(sorted(unknown))}')
    data = embedded().subset(300, parts=('train', 'valid', 'test')) if a.quick else embedded().subset(2000, parts=('valid',))
    for name in a.names or RECORDS:
        start = time.perf_counter()
        result = RECORDS[name](data, a.quick)
        path = record(name, result, ROOT/('build/quick' if a.quick else 'results'),
                      made_by=f'python scripts/record_schedule.py {name}')
        print(f'{path}: {time.perf_counter() - start:.0f} s')
        print(result if name == 'schedule' else {k: round(a.mean, 4) for k, a in result.items()})


if __name__ == '__main__': main()
