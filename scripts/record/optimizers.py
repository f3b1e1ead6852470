"""Make the recorded runs of lesson 22, on Fashion-MNIST's embedded part.

    python scripts/record/optimizers.py                    # all, into results/records/: about 4 minutes on one quiet thread
    python scripts/record/optimizers.py optimizers_bands   # one of them
    python scripts/record/optimizers.py --quick            # small and short, into build/quick/: to try the script

`optimizers_bands`: nine optimisers on the fast recipe, each at five learning rates or more, a factor of √10 apart, from
a tenth of its best to ten times its best; equal seconds, by the step costs that the script measures first.
`optimizers_article`: four of them on the article's network (no batch norm), at a fixed rate.
`optimizers`: the trick, as a user adds it to the fast recipe, each optimiser at its best rate of three.
"""
import os, sys, warnings
from dataclasses import replace

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.measure.cost import time_in_turns
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import ledger, repeat
from cnn_tricks.tricks.optimizers import SwapOptimizer
from cnn_tricks.core.recipe import recipes
from cnn_tricks.core.training_step import recipe_step
from recording import main

DELTA = 0.01  # one point: declared before any run
BAR = sys.stdout.isatty()
# name: its name in the registry, its arguments, its momentum (which the schedule must leave alone), a rate to start from
NINE = {'SGD': ('sgd', dict(momentum=0., nesterov=False), 0., 0.2), 'momentum': ('sgd', dict(nesterov=False), 0.9, 0.02),
        'Nesterov': ('sgd', {}, 0.9, 0.02), 'AdaGrad': ('adagrad', {}, 0., 0.02),
        'RMSprop': ('rmsprop', dict(momentum=0.), 0., 0.003), 'Adam': ('adam', {}, 0.9, 0.006),
        'AdamW': ('adamw', {}, 0.9, 0.006), 'Lion': ('lion', {}, 0.9, 0.001), 'Muon': ('muon', {}, 0.95, 0.01)}
FIXED = {'SGD': 0.05, 'AdaGrad': 0.01, 'RMSprop': 0.001, 'Adam': 0.002}  # where to start on the article's network


def bands(todo, data, quick, base, steps):
    "Arms for `{name: (recipe, rate to start from)}`; `base` gets `steps`, the others as many as take the same time."
    steps_of = {name: recipe_step(r, data) for name, (r, _) in todo.items()}
    clock = time_in_turns(steps_of, rounds=3 if quick else 11, calls=2)
    arms = {}
    for name, (r, centre) in todo.items():
        n = round(steps*clock.ratio(name, base))
        for lr, arm in band(name, r.replace(steps=n), centre, data, quick).items():
            arms[f'{name}, {lr:.2g}'] = replace(arm, step_seconds=clock.median(name))
    return arms


def band(name, recipe, centre, data, quick, seeds=3, most=7):
    "An arm for each rate: the best on validation images has two others on either side, unless that takes too many."
    def arm(k):
        lr = float(f'{centre*10**(k/2):.3g}')
        return repeat(recipe.replace(lr=lr), data, range(seeds), name=f'{name}, {lr:.2g}', part='test', progress=BAR)
    arms = {k: arm(k) for k in ((-1, 0, 1) if quick else range(-2, 3))}
    while len(arms) < most and not quick:
        best = max(arms, key=lambda k: sum(r.valid for r in arms[k].runs))
        lacking = [k for k in (best - 2, best - 1, best + 1, best + 2) if k not in arms]
        if not lacking: break
        arms |= {k: arm(k) for k in lacking[:most - len(arms)]}
    return {arms[k].recipe['lr']: arms[k] for k in sorted(arms)}


def optimizers_bands(data, quick):
    fast = recipes['fast']
    todo = {name: (fast.replace(optimizer=o, optimizer_args=args, schedule_args={'moms': [mom]*3}), lr)
            for name, (o, args, mom, lr) in NINE.items()}
    return bands(todo, data, quick, 'AdamW', 10 if quick else 60)


def optimizers_article(data, quick):
    article = recipes['baseline'].replace(size=18)  # the smallest size that it takes, to save time
    todo = {name: (article.replace(optimizer=NINE[name][0], optimizer_args=NINE[name][1]), lr)
            for name, lr in FIXED.items()}
    return bands(todo, data, quick, 'Adam', 10 if quick else 75)


def optimizers(data, quick):
    swaps = {to: SwapOptimizer(to) for to in ('muon', 'lion', 'sgd')}
    return ledger(recipes['fast'], swaps, data, range(3 if quick else 5), delta=DELTA, part='test', equal='seconds',
                  budget={'steps': 20} if quick else {'epochs': 1},
                  lrs=(0.006, 0.02) if quick else (0.002, 0.006, 0.02), progress=BAR)


RECORDS = dict(optimizers_bands=optimizers_bands, optimizers_article=optimizers_article, optimizers=optimizers)


def prepare(quick):
    data = embedded().subset(1000, parts=('valid',)).subset(2000, parts=('test',))
    return data.subset(300, parts=('train', 'valid', 'test')) if quick else data, quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
