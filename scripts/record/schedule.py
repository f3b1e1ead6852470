"""Make the recorded runs of lesson 23, on Fashion-MNIST's embedded part.

    python scripts/record/schedule.py                  # both, into results/records/: about 6 minutes on one thread
    python scripts/record/schedule.py schedule_sweep   # one of them
    python scripts/record/schedule.py --quick          # small and short, into build/quick/: to try the script

`schedule`: five schedules against a fixed rate at one declared budget, each with its own best rate, on test images.
`schedule_sweep`: accuracy after 120 steps at many rates, for three pairs of network and optimiser: what `lr_find`'s
suggestions are checked against, and how a fixed rate and one-cycle differ in the rates that they bear.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import ledger, repeat
from cnn_tricks.core.recipe import recipes
from cnn_tricks.tricks.schedule import OneCycle
from recording import main

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


def prepare(quick):
    return embedded().subset(300, parts=('train', 'valid', 'test')) if quick else embedded().subset(2000, parts=('valid',)), quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
