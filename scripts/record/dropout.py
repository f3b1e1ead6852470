"""Make the recorded runs of lesson 31, on Fashion-MNIST's embedded part.

    python scripts/record/dropout.py                # all, into results/records/: about 4 minutes on one thread
    python scripts/record/dropout.py dropout_short  # one of them
    python scripts/record/dropout.py --quick        # small and short, into build/quick/: to try the script

`dropout`: three rates in the head, and whole channels left out, in a long run on 500 images.
`dropout_short`: dropout in the head in a run of one epoch of 5,000 images.
`dropout_article`: the article's network with its own dropout and without, in a long run on 500 images.
`stochastic_depth`: ten residual blocks of which later ones are left out more often, at equal steps and equal seconds.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.dropout import WithDropout, WithStochasticDepth
from cnn_tricks.measure.compare import compare, ledger
from cnn_tricks.core.recipe import recipes
from recording import main

DELTA = 0.01  # one point: declared before any run
BAR = sys.stdout.isatty()
RATES = 0.003, 0.006  # each arm gets the better of these, chosen on another seed and on valid
HOW = dict(delta=DELTA, part='test', progress=BAR)


def dropout(data, quick):
    arms = {f'head, {p:g}': WithDropout(p) for p in (0.2, 0.5, 0.8)}
    few = data.subset(300 if quick else 500)
    arms['channels, 0.2'] = WithDropout(0.2, 'channels')
    return ledger(recipes['fast'], arms, few, range(3 if quick else 5), budget={'epochs': 1 if quick else 12},
                  lrs=None if quick else RATES, **HOW)


def dropout_short(data, quick):
    arms = {f'head, {p:g}': WithDropout(p) for p in (0.2, 0.5)}
    return ledger(recipes['fast'], arms, data, range(3 if quick else 5), budget={'epochs': 1},
                  lrs=None if quick else RATES, **HOW)


def dropout_article(data, quick):
    article = recipes['baseline']
    own = compare(article + WithDropout(0.), article + WithDropout(0.5), data.subset(300 if quick else 500),
                  range(3 if quick else 5), budget={'epochs': 1 if quick else 15}, **HOW)
    own.base.name, own.trick.name = 'article, 0', 'article, 0.5'
    return own


def stochastic_depth(data, quick):
    deep = recipes['fast'].replace(network='resnet', network_args=dict(width=8, blocks=[4, 3, 3]))
    seeds, steps = range(3 if quick else 5), {'steps': 10 if quick else 80}
    return {equal: compare(deep, WithStochasticDepth(), data, seeds, equal=equal, budget=steps, **HOW)
            for equal in ('steps', 'seconds')}


RECORDS = dict(dropout=dropout, dropout_short=dropout_short, dropout_article=dropout_article,
               stochastic_depth=stochastic_depth)


def prepare(quick):
    data = embedded()
    if quick: return data.subset(300, parts=('train', 'valid', 'test')), quick
    return data.subset(5000).subset(500, parts=('valid',)), quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
