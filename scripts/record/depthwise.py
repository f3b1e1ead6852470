"""Make the recorded runs of lesson 14, on Fashion-MNIST's embedded part.

    python scripts/record/depthwise.py                   # both, into results/records/: about 4 minutes on one thread
    python scripts/record/depthwise.py depthwise_steps   # one of them
    python scripts/record/depthwise.py --quick           # small and short, into build/quick/: to try the script

`depthwise_steps`: the residual network with its convolutions replaced in three forms, at equal steps.
`depthwise_seconds`: the separable form at equal seconds, in the network as it is and in one three times as wide.
Each arm gets the best of the same learning rates, chosen on another seed and on validation images. Seconds are part of
what is recorded: let nothing else run beside it.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.depthwise import Depthwise
from cnn_tricks.measure.compare import compare, ledger
from cnn_tricks.core.recipe import Recipe
from recording import main

DELTA = 0.01  # one point: declared before any run
RATES = 0.01, 0.03, 0.1
BASE = Recipe(network='resnet', optimizer='adamw', schedule='one_cycle', channels_last=True, epochs=2)
SECONDS = {16: 2., 48: 5.}  # of training, by the network's width


def depthwise_steps(data, quick):
    tricks = [Depthwise(), Depthwise('mobilenet'), Depthwise('convnext')]
    return ledger(BASE, tricks, data, range(3 if quick else 5), budget={'epochs': 1 if quick else 2.5}, **kept(quick))


def depthwise_seconds(data, quick):
    base = {w: BASE.replace(network_args={'width': w}) for w in SECONDS}
    return {f'width {w}': compare(base[w], Depthwise(), data, range(3 if quick else 5), equal='seconds',
                                  budget={'seconds': 0.3 if quick else s}, **kept(quick)) for w, s in SECONDS.items()}


def kept(quick): return dict(lrs=RATES[:2] if quick else RATES, delta=DELTA, part='test', progress=sys.stdout.isatty())


RECORDS = dict(depthwise_steps=depthwise_steps, depthwise_seconds=depthwise_seconds)


def prepare(quick):
    data = embedded().subset(1000, parts=('valid',)).subset(2000, parts=('test',))
    return data.subset(300 if quick else 3000), quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
