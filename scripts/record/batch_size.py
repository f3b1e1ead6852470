"""Make the recorded runs that lesson 10 rests on.

    python scripts/record/batch_size.py                   # all of them, into results/records/: about 6 minutes on one core
    python scripts/record/batch_size.py batch_size_sgd    # some of them
    python scripts/record/batch_size.py --quick           # small data, short runs, into build/quick/: to try the script

`batch_size_epochs`, `batch_size_seconds`: batches of 16, 64 (the base), 256 and 1024, each with its own best learning rate
of the same grid, at equal epochs and at equal seconds, on test images.
`batch_size_adamw`, `batch_size_sgd`: 4 and 16 times the batch, the learning rate left alone, times the root, times the
factor, at equal epochs; the base's own rate comes first, from a grid.
`accumulate`: the fast recipe (it has batch norm) with each batch in 4 parts, at equal steps.
"""
import os, sys, warnings
from dataclasses import dataclass
from functools import partial

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.measure.repeated_runs import measure_arms
from cnn_tricks.tricks.batch_size import Accumulate, BatchSize
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import compare, ledger
from cnn_tricks.core.recipe import recipes
from recording import main

DELTA = 0.01  # one point: declared before any run
BAR = sys.stdout.isatty()


@dataclass
class Size:
    "How much is run: all seeds, or a taste."
    seeds: int = 5
    epochs: float = 2
    images: int = 3072  # for training: a whole number of batches of each size
    lrs: tuple = (0.0015, 0.003, 0.006, 0.012, 0.024)  # around the fast recipe's
    sgd_lrs: tuple = (0.02, 0.04, 0.08, 0.16)


QUICK = Size(seeds=3, epochs=1, images=300, lrs=(0.003, 0.006), sgd_lrs=(0.04, 0.08))
FAST = recipes['fast']


def sizes(equal, data, size):
    arms = {f'batch {n}': FAST.replace(batch_size=n) for n in (16, 256, 1024) if n <= size.images}
    return ledger(FAST, arms, data, range(size.seeds), budget={'epochs': size.epochs}, equal=equal, lrs=size.lrs, delta=DELTA,
                  part='test', progress=BAR)


def rules(base, lrs, data, size):
    "The best rate of the base first, then every rule from there."
    tune = measure_arms({'base': base}, data, [0], {'epochs': size.epochs}, 'epochs', lrs, progress=False)[0]
    tricks = [BatchSize(float(k), rule) for k in (4, 16) for rule in ('none', 'sqrt', 'linear')]
    named = {f'×{t.factor:g}, lr {t.rule}': t for t in tricks}
    return ledger(base.replace(lr=tune.recipe['lr']), named, data, range(size.seeds), budget={'epochs': size.epochs},
                  equal='epochs', delta=DELTA, part='test', progress=BAR)


def accumulate(data, size):
    return compare(FAST, Accumulate(), data, range(size.seeds), budget={'epochs': size.epochs}, delta=DELTA, part='test',
                   progress=BAR)


RECORDS = dict(batch_size_epochs=partial(sizes, 'epochs'), batch_size_seconds=partial(sizes, 'seconds'),
               batch_size_adamw=lambda data, size: rules(FAST, size.lrs, data, size),
               batch_size_sgd=lambda data, size: rules(FAST.replace(optimizer='sgd'), size.sgd_lrs, data, size),
               accumulate=accumulate)


def prepare(quick):
    size = QUICK if quick else Size()
    data = embedded().subset(size.images).subset(2000, parts=('valid',))
    return data.subset(300, parts=('valid', 'test')) if quick else data, size


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
