"""Make the recorded runs of lesson 21, on Fashion-MNIST's embedded part.

    python scripts/record/batchnorm.py                  # all, into results/records/: about 4 minutes on one thread
    python scripts/record/batchnorm.py batchnorm_tiny   # one of them
    python scripts/record/batchnorm.py --quick          # small and short, into build/quick/: to try the script

`batchnorm`: the article's network without norm, with batch norm, and with batch norm whose output is shaken at random,
at equal steps; and batch norm at equal seconds. Each arm has its own best rate; accuracy on test images.
`batchnorm_rates`: accuracy after 60 steps of SGD at many rates, with and without batch norm.
`batchnorm_tiny`: batch norm against group norm at four batch sizes.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.tricks.batchnorm import WithBatchNorm, WithGroupNorm
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import compare, ledger, repeat
from cnn_tricks.core.recipe import Recipe, recipes
from recording import main

DELTA = 0.005  # half a point: declared before any run
BAR = sys.stdout.isatty()
RATES = 0.001, 0.003, 0.01  # each arm gets the best of these, chosen on another seed and on valid
SGD_RATES = 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.
JITTER = 0.3


def batchnorm(data, quick):
    base, n = recipes['baseline'], 20 if quick else 80
    arms = {'batch norm': WithBatchNorm(), 'batch norm, shaken': WithBatchNorm(jitter=JITTER)}
    how = dict(delta=DELTA, part='test', budget={'steps': n}, lrs=RATES[:2] if quick else RATES, progress=BAR)
    seeds = range(3 if quick else 5)
    return {'steps': ledger(base, arms, data, seeds, **how),
            'seconds': compare(base, WithBatchNorm(), data, seeds, equal='seconds', **how)}


def batchnorm_rates(data, quick):
    sgd = Recipe(network='article', optimizer='sgd', steps=60)
    return {f'{name}, {lr:g}': repeat(r.replace(lr=lr), data, range(2 if quick else 3), name=f'lr {lr:g}', progress=BAR)
            for name, r in (('without', sgd), ('batch norm', sgd + WithBatchNorm()))
            for lr in (SGD_RATES[::3] if quick else SGD_RATES)}


def batchnorm_tiny(data, quick):
    fast = recipes['fast']
    def pair(n):
        steps = {2: 400, 4: 300, 16: 150, 64: 75}[n] // (10 if quick else 1)
        return compare(fast.replace(batch_size=n, steps=steps), WithGroupNorm(), data, range(3 if quick else 5),
                       delta=DELTA, part='test', lrs=(0.001,) if quick else (0.001, 0.003), progress=BAR)
    return {f'batch {n}': pair(n) for n in (2, 4, 16, 64)}


RECORDS = dict(batchnorm=batchnorm, batchnorm_rates=batchnorm_rates, batchnorm_tiny=batchnorm_tiny)


def prepare(quick):
    data = embedded()
    if quick: return data.subset(300, parts=('train', 'valid', 'test')), quick
    return data.subset(5000).subset(1000, parts=('valid',)).subset(2000, parts=('test',)), quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
