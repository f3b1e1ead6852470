"""Make the recorded runs of lesson 20: activations and initial weights, on Fashion-MNIST's embedded part.

    python scripts/record/activations.py                   # all, into results/records/: about 5 minutes on one thread
    python scripts/record/activations.py activations_deep  # one of them
    python scripts/record/activations.py --quick           # small and short, into build/quick/: to try the script

`init`: torch's own start against Kaiming's and LSUV, ten convolutions with ReLU and nothing that normalises.
`activations_deep`: ReLU against sigmoid, tanh and GELU in the same network, each of them started by LSUV.
`activations`: ReLU against five others in a network of two convolutions with batch norm, the recipe `fast`.

One epoch each; every arm gets the best of a short grid of learning rates, chosen on another seed and on valid. `init` has
eight seeds and a narrower grid, since torch's own start scatters widely: at 0.01 it learned on the seed that chose the rate,
and not on most others.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.tricks.activations import LSUV, ChangeActivation, KaimingInit
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import ledger
from cnn_tricks.core.recipe import Recipe, recipes
from recording import main

DELTA = 0.005  # half a point: declared before any run
BAR = sys.stdout.isatty()
DEEP = Recipe(network='conv_stack', optimizer='adamw', schedule='one_cycle', channels_last=True)
RATES, DEEP_RATES, INIT_RATES = (0.003, 0.01), (0.003, 0.01, 0.03), (0.001, 0.002, 0.004)


def run(base, others, data, quick, lrs, seeds=5):
    return ledger(base, others, data, range(3 if quick else seeds), delta=DELTA, part='test',
                  budget={'steps': 5} if quick else {'epochs': 1}, lrs=lrs[:1] if quick else lrs, progress=BAR)


def init(data, quick): return run(DEEP, [KaimingInit(), LSUV()], data, quick, INIT_RATES, seeds=8)


def activations_deep(data, quick):
    others = {act: DEEP + ChangeActivation(act=act) + LSUV() for act in ('sigmoid', 'tanh', 'gelu')}
    return run(DEEP + LSUV(), others, data, quick, DEEP_RATES)


def activations(data, quick):
    others = {act: ChangeActivation(act=act) for act in ('sigmoid', 'tanh', 'leaky_relu', 'gelu', 'silu')}
    return run(recipes['fast'], others, data, quick, RATES)


RECORDS = dict(init=init, activations_deep=activations_deep, activations=activations)


def prepare(quick):
    return embedded().subset(300, parts=('train', 'valid', 'test')) if quick else embedded().subset(2000, parts=('valid',)), quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
