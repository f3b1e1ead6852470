"""Make the recorded run of lesson 35.

    python scripts/record/imbalance.py             # into results/records/: about 2 minutes on one thread
    python scripts/record/imbalance.py --quick     # small and short, into build/quick/: to try the script

`imbalance`: four kinds of clothes, 600, 300, 30 and 15 images to train on. As they come, with class weights, drawn all
alike, and drawn by the square root, each at its own best learning rate of one grid, chosen by balanced accuracy on a
validation part that is as uneven. Balanced accuracy on 400 test images of each class.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

import torch

from cnn_tricks.core.recipe import Recipe
from cnn_tricks.data.datasets import embedded
from cnn_tricks.data.images import ImageData
from cnn_tricks.measure.compare import ledger
from cnn_tricks.tricks.imbalance import BalancedSampling, ClassWeights
from recording import main

DELTA = 0.02  # two points: declared before any run
CLASSES = 'Coat', 'Sandal', 'Shirt', 'Ankle boot'
BASE = Recipe(network='plain', optimizer='adamw', schedule='one_cycle', lr=0.006, batch_size=32, steps=100,
              channels_last=True)
TRICKS = ClassWeights(), BalancedSampling(), BalancedSampling(power=0.5)


def first(part, counts):
    return part[torch.cat([(part.y == c).nonzero()[:n, 0] for c, n in enumerate(counts)])]


def imbalance(data, quick):
    return ledger(BASE, TRICKS, data, range(2 if quick else 5), budget={'steps': 10} if quick else None, delta=DELTA,
                  lrs=(0.006,) if quick else (0.002, 0.006, 0.02), part='test', metric='balanced_accuracy',
                  progress=sys.stdout.isatty())


def prepare(quick):
    whole = embedded().take_classes(CLASSES)
    return ImageData(first(whole.train, (600, 300, 30, 15)), first(whole.valid, (200, 100, 10, 5)), whole.test, CLASSES,
                     name='uneven clothes'), quick


if __name__ == '__main__': main(__file__, __doc__, {'imbalance': imbalance}, prepare)
