"""Make the recorded runs of lesson 13, on Fashion-MNIST's embedded part: accuracy, and answers that stay when images move.

    python scripts/record/pooling.py                # both, into results/records/: about 5 minutes on one thread
    python scripts/record/pooling.py pooling_fast   # one of them
    python scripts/record/pooling.py --quick        # small and short, into build/quick/: to try the script

`pooling`: the article's network, whose max poolings are all that shrinks its maps, with five others in their place.
`pooling_fast`: the fast recipe, which shrinks the image by a strided convolution first and has one max pooling.

Each arm takes the better of two learning rates, chosen on another seed and on valid. A record holds four ledgers of the same
runs: `accuracy` on test images, and for `moved 1` to `moved 3` the shift consistency on 500 of them in place of accuracy.
"""
import os, sys, warnings
from dataclasses import replace

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.measure.repeated_runs import Run
from cnn_tricks.tools.shift_consistency import shift_test
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import Comparison, Ledger, repeat
from cnn_tricks.tricks.pooling import GlobalPool, Pooling
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.core.train import train
from recording import main

DELTA = 0.01  # one point, of accuracy and of consistency: declared before any run
SEEDS, TUNING_SEED = range(5), 5
OTHERS = {'average': Pooling('average'), 'stride': Pooling('stride'), 'blur': Pooling('blur'), 'global_pool': GlobalPool()}


def tuned(name, recipe, data, lrs):
    "An arm without runs, its recipe with the better learning rate."
    tried = [repeat(recipe.replace(lr=lr), data, (TUNING_SEED,), name=name, progress=False) for lr in lrs]
    best = max(tried, key=lambda arm: arm.mean)
    return replace(best, runs=[], part='test', lrs=[[lr, arm.mean] for lr, arm in zip(lrs, tried)])


def add_run(arm, data, seed):
    "Train once; the same run counts for accuracy and, at each distance, for consistency."
    res = train(Recipe.from_dict(arm['accuracy'].recipe), data, seed, progress=False)
    run = Run(seed, res.test(), res.accuracy, res.steps, res.seconds)
    arm['accuracy'].runs.append(run)
    for row in shift_test(res.trained.predict, data.test[:500])[1:]:
        arm[f"moved {row['pixels']}"].runs.append(replace(run, accuracy=row['consistency']))
    if sys.stdout.isatty(): print(arm['accuracy'].name, seed, f'{run.accuracy:.3f}, {run.seconds:.1f} s')


def measured(base, others, data, lrs, quick):
    "The four ledgers."
    todo = {'max': base} | {name: base + t for name, t in others.items()}
    chosen = {name: tuned(name, r, data, lrs) for name, r in todo.items()}
    parts = 'accuracy', 'moved 1', 'moved 2', 'moved 3'
    arms = {name: {p: replace(a, runs=[], part='test' if p == 'accuracy' else p) for p in parts} for name, a in chosen.items()}
    for seed in SEEDS[:2] if quick else SEEDS:
        for name in list(arms)[::1 if seed % 2 == 0 else -1]:  # in turns, so that a slow machine is slow for all
            add_run(arms[name], data, seed)
    return {p: Ledger([Comparison(arms['max'][p], arms[name][p], DELTA) for name in others]) for p in parts}


def pooling(data, quick):
    base = recipes['baseline'].replace(channels_last=True, epochs=1 if quick else 2)
    others = OTHERS | {'max of 3': Pooling('max', 3)}
    return measured(base, others, data if quick else data.subset(3000), (1e-3, 3e-3), quick)


def pooling_fast(data, quick):
    return measured(recipes['fast'].replace(epochs=1 if quick else 3), OTHERS, data, (0.006, 0.012), quick)


RECORDS = dict(pooling=pooling, pooling_fast=pooling_fast)


def prepare(quick):
    data = embedded()
    if quick: return data.subset(300, parts=('train', 'valid', 'test')), quick
    return data.subset(4000).subset(1000, parts=('valid',)).subset(2000, parts=('test',)), quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
