"""Make the recorded runs of lesson 15: progressive resizing at equal seconds and at equal steps.

    python scripts/record/resolution.py                       # all, into results/records/: about 6 minutes on a quiet core
    python scripts/record/resolution.py resolution_steps      # one of them
    python scripts/record/resolution.py --quick               # small data, short runs, into build/quick/: to try the script

Two schedules against none: the default one, and one that begins to grow after a quarter of the steps.
`resolution_seconds`: 5 seconds of training for each run, on the full Fashion-MNIST if it is on this machine (50,000 training
images; 5,000 of the test images), else on the embedded part; each arm with the better of two learning rates.
`resolution_steps`: the same steps for all, on the embedded part: what small images cost in accuracy, whatever a step costs.
`resolution_small`: the same for images of 16 pixels throughout, in training and in testing.

Seconds are part of what is recorded: let nothing else run beside `resolution_seconds`. One thread: with two, waiting for each
other takes longer than the work of so small a step, and small images save nothing.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported: two threads wait for each other in steps this small
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.data.datasets import embedded, fashion_mnist
from cnn_tricks.measure.compare import ledger
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.tricks.resolution import SmallFirst
from recording import main

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


if __name__ == '__main__': main(__file__, __doc__, RECORDS, lambda quick: (quick,))
