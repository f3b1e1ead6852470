"""Make the recorded runs of lesson 12: with and without `channels_last`, and with and without a fused optimiser.

    python scripts/record/hardware.py            # into results/records/: about 4 minutes on 2 quiet cores
    python scripts/record/hardware.py --quick    # small and short, into build/quick/: to try the script

At equal steps nothing should change but rounding; at equal seconds the faster arm takes more steps. Accuracy is that of
the test images. The optimiser is compared on the residual network, where it takes most of a step. Seconds are part of
what is recorded: let nothing else run beside it.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '2')  # before torch is imported
warnings.filterwarnings('ignore')

from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.hardware import ChannelsLast, FusedOptimizer
from cnn_tricks.measure.compare import compare
from cnn_tricks.core.recipe import recipes
from recording import main

DELTA = 0.005  # half a point: declared before any run


def twice(base, trick, data, seeds): # at equal steps and at equal seconds
    kept = dict(seeds=seeds, budget={'epochs': 1}, delta=DELTA, part='test', progress=sys.stdout.isatty())
    return {equal: compare(base, trick, data, equal=equal, **kept) for equal in ('steps', 'seconds')}


def channels_last(data, seeds): return twice(recipes['baseline'], ChannelsLast(), data, seeds)
def fused(data, seeds): return twice(recipes['baseline'].replace(network='resnet'), FusedOptimizer(), data, seeds)


RECORDS = dict(hardware_channels_last=channels_last, hardware_fused=fused)


def prepare(quick):
    return embedded().subset(200, parts=('train', 'valid', 'test')) if quick else embedded(), range(3 if quick else 6)


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
