"""Make the recorded runs of lesson 24, on Fashion-MNIST's embedded part.

    python scripts/record/warmup.py                # all, into results/records/: about 8 minutes on one thread
    python scripts/record/warmup.py warmup_sweep   # one of them
    python scripts/record/warmup.py --quick        # small and short, into build/quick/: to try the script

`warmup`: a cosine schedule with and without warmup, each with its own best rate, on test images: the fast network with
batch norm and without, batches of 64 and AdamW; and one-cycle, which rises by itself.
`warmup_large`: the same two networks with batches of 500 and SGD with momentum.
`warmup_sweep`: these at one rate after another: which rates does warmup make bearable?
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.tricks.batchnorm import without_norm
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import compare, repeat
from cnn_tricks.nets.networks import networks
from cnn_tricks.core.recipe import recipes
from cnn_tricks.tricks.warmup import Warmup
from recording import main

DELTA = 0.005  # half a point: declared before any run
BAR = sys.stdout.isatty()
SMALL, LARGE = (0.002, 0.006, 0.02), (0.01, 0.03, 0.1)


@networks.register('no_norm')
def no_norm(in_channels, n_classes, size): return without_norm(networks['plain'](in_channels, n_classes, size))


FAST = recipes['fast'].replace(schedule='cosine', schedule_args={}, epochs=1)
BIG = FAST.replace(batch_size=500, optimizer='sgd', epochs=2)
BARE = {'network': 'no_norm'}


def compared(cases, lrs, data, quick):
    budget = {'steps': 10} if quick else None
    return {name: compare(r, Warmup(), data, range(3 if quick else 5), delta=DELTA, part='test', budget=budget,
                          lrs=lrs[:2] if quick else lrs, progress=BAR) for name, r in cases.items()}


def warmup(data, quick):
    cases = {'one-cycle, batch norm': FAST.replace(schedule='one_cycle'), 'batch norm': FAST, 'no norm': FAST.replace(**BARE)}
    return compared(cases, SMALL, data, quick)


def warmup_large(data, quick):
    return compared({'batch norm': BIG, 'no norm': BIG.replace(**BARE)}, LARGE, data, quick)


def warmup_sweep(data, quick):
    out = {}
    for name, r in {'batch norm': BIG, 'no norm': BIG.replace(**BARE)}.items():
        for lr in (0.01, 0.03, 0.1, 0.3)[::2 if quick else 1]:
            for how, recipe in (('at once', r), ('warmed up', r + Warmup(pct=0.2))):
                out[f'{name}, {how}, {lr:g}'] = repeat(recipe.replace(lr=lr), data, range(2 if quick else 3), name=f'lr {lr:g}',
                                                       progress=BAR)
    return out


RECORDS = dict(warmup=warmup, warmup_large=warmup_large, warmup_sweep=warmup_sweep)


def prepare(quick):
    return embedded().subset(300, parts=('train', 'valid', 'test')) if quick else embedded().subset(2000, parts=('valid',)), quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
