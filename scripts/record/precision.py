"""Make the recorded runs of lesson 11: does training in bfloat16 cost accuracy, and what does it save?

    python scripts/record/precision.py                  # both, into results/records/: about five minutes on 2 quiet cores
    python scripts/record/precision.py precision_fast   # one of them
    python scripts/record/precision.py --quick          # small data, short runs, into build/quick/: to try the script

`precision`: the baseline recipe with and without bfloat16, over the same seeds, on test images, for equal steps.
`precision_fast`: the same for the fast recipe, for equal steps and for equal seconds.
float16 is left out: on a processor it takes dozens of times as long.

Seconds are part of what is recorded: let nothing else run beside it.
"""
import os, sys, warnings
from functools import partial

os.environ.setdefault('OMP_NUM_THREADS', '2')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import compare
from cnn_tricks.tricks.precision import Precision
from cnn_tricks.core.recipe import recipes
from recording import main

DELTA = 0.005  # half a point: declared before any run


def runs(recipe, equals, data, seeds):
    return {f'equal {equal}': compare(recipes[recipe], Precision('bfloat16'), data, seeds, equal=equal, delta=DELTA,
                                      budget={'epochs': 2}, part='test', progress=sys.stdout.isatty()) for equal in equals}


RECORDS = dict(precision=partial(runs, 'baseline', ['steps']), precision_fast=partial(runs, 'fast', ['steps', 'seconds']))


def prepare(quick):
    return embedded().subset(300, parts=('train', 'valid', 'test')) if quick else embedded(), range(3 if quick else 6)


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
