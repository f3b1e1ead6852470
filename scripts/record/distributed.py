"""Make the recorded runs of lesson 40: what more devices do to the accuracy in equal epochs.

    python scripts/record/distributed.py            # into results/records/distributed.json: about 4 minutes of one thread
    python scripts/record/distributed.py --quick    # small data, short runs, into build/quick/: to try the script

`tuned`: one device against eight, each at the best learning rate of the same grid.
`rules`: one device at that learning rate, against eight with the same one, and with it raised by the two rules.
"""
import os, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.distributed import MoreDevices
from cnn_tricks.measure.compare import compare, ledger
from cnn_tricks.core.recipe import Recipe
from recording import main

DELTA = 0.01  # one point: declared before any run
GRID = 0.02, 0.05, 0.1, 0.2, 0.4, 0.8
BASE = Recipe(network='resnet', network_args={'width': 8, 'blocks': [0, 1], 'grid': 2}, batch_size=32,
              optimizer='sgd', lr=0.05, epochs=3)
ARMS = {'8 devices, same lr': MoreDevices(devices=8, lr_rule='none', warmup=0.),
        '8 devices, lr x 8': MoreDevices(devices=8, lr_rule='linear', warmup=0.),
        '8 devices, lr x 8, warm-up': MoreDevices(devices=8, lr_rule='linear', warmup=0.2),
        '8 devices, lr x 2.8, warm-up': MoreDevices(devices=8, lr_rule='sqrt', warmup=0.2)}


def distributed(data, seeds, epochs):
    kept = dict(budget={'epochs': epochs}, equal='epochs', delta=DELTA, part='test', progress=False)
    tuned = compare(BASE, MoreDevices(devices=8, lr_rule='none', warmup=0.2), data, seeds, lrs=GRID, **kept)
    best = BASE.replace(lr=tuned.base.recipe['lr'])
    return {'rules': ledger(best, {n: best + t for n, t in ARMS.items()}, data, seeds, **kept), 'tuned': tuned}


RECORDS = dict(distributed=distributed)


def prepare(quick):
    if quick: return embedded().subset(1000, parts=('train', 'valid', 'test')), range(3), 1
    return embedded(), range(5), BASE.epochs


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
