"""Make the recorded runs of lesson 51, on Fashion-MNIST's embedded part.

    python scripts/record/validate.py                      # all four, into results/records/: about 4 minutes on one thread
    python scripts/record/validate.py validate_kfold       # one of them
    python scripts/record/validate.py --quick              # small and short, into build/quick/: to try the script

`validate_sources`: one recipe, 1,600 training and 400 validation images of 14 x 14, 16 runs for each source of spread: the first
weights, the order of the images, both (a new seed), the split into training and validation images, and all of these.
Accuracy is that on 4,000 test images, `valid` that on the 400.
`validate_kfold`: `fast` against itself with mirrored images, 2,500 images in 5 folds, 3 rounds. Each run is one fold;
the interval is the corrected one.
`validate_intervals`: how often intervals miss. Each run is one *pool*: a data set of 250 images of its own, no image in
two pools, in 5 folds and 2 rounds; `folds` in its history holds the accuracies of all folds. `A/A` is one recipe
against itself with other seeds, `A/B` two networks with the same seeds.
`validate_membership`: 500 training images of 14 x 14 and ways to train on them; the last row of a run's history holds the
advantage of a guess by the loss who was trained on, and the accuracy on the 500. Accuracy is that on test images.
"""
import os, warnings
from dataclasses import asdict

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from fastai.callback.core import Callback

from cnn_tricks.measure.repeated_runs import Arm, Run
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.data.images import ImageData
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.dropout import WithDropout
from cnn_tricks.tools.membership import image_losses, membership_advantage
from cnn_tricks.base.machine import machine
from cnn_tricks.core.recipe import recipes
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.core.train import train
from cnn_tricks.measure.cross_validation import kfold_compare
from recording import main

DELTA = 0.01  # one point: declared before any run


class OrderSeed(Callback):
    "The order of the images from a seed of its own."
    order = -9
    def __init__(self, seed): self.seed = seed
    def before_fit(self): self.dls.train.seed = self.seed


def empty(name, recipe, data, part='test'):
    "An arm without runs"
    about = {'name': data.name, 'fingerprint': data.fingerprint, **{k: len(p) for k, p in data.parts.items()}}
    return Arm(name, recipe.to_dict(), [], part, about, asdict(machine()))


def right(trained, part): return (trained.predict(part.x).argmax(1) == part.y).double().mean().item()


def validate_sources(quick):
    pool = embedded().resize(14).subset(64 if quick else 1600).subset(16 if quick else 400, parts=('valid',))
    recipe, runs = recipes['fast'].replace(epochs=3), 3 if quick else 16
    sources = {'first weights': lambda i: (pool, i, 0), 'order': lambda i: (pool, 0, i),
               'weights and order': lambda i: (pool, i, i), 'split': lambda i: (pool.split(0.2, i), 0, 0),
               'all of them': lambda i: (pool.split(0.2, i), i, i)}
    arms = {name: empty(name, recipe, pool) for name in sources}
    for i in range(1, runs + 1):
        for name, source in sources.items():
            data, weights, order = source(i)
            res = train(recipe, data, weights, progress=False, cbs=[OrderSeed(order)])
            arms[name].runs.append(Run(i, res.test(), res.accuracy, res.steps, res.seconds))
    return arms


def validate_kfold(quick):
    pool = embedded().subset(80 if quick else 2000).subset(20 if quick else 500, parts=('valid',))
    return kfold_compare(recipes['fast'].replace(epochs=3), FlipShift(pixels=0), pool, 5, 1 if quick else 3, delta=DELTA)


def validate_intervals(quick):
    pools = [fold.valid for fold in embedded().resize(14).kfold(56)][:2 if quick else 30]
    small = recipes['fast'].replace(network_args={'widths': [8, 16]}, batch_size=64, steps=5 if quick else 24)
    other = small.replace(network_args={'widths': [16]})
    return arms_of_pools(pools, {'A': (small, 0), 'A again': (small, 1), 'B': (other, 0)}, 1 if quick else 2)


def arms_of_pools(pools, named, repeats):
    "Every pool in 5 folds, `repeats` times: an arm whose runs are the pools"
    data, arms = embedded().resize(14), {}
    for number, part in enumerate(pools):
        pool = ImageData(part, part[:0], part[:0], data.classes, data.name)
        folds = [f for r in range(repeats) for f in pool.kfold(5, r)]
        for name, (recipe, other) in named.items():
            arms.setdefault(name, empty(name, recipe, folds[0], 'valid')).data['valid'] = len(part)  # what a run is scored on
            res = [train(recipe, f, 10_000*number + 100*other + i, progress=False) for i, f in enumerate(folds)]
            scores, mean = [round(r.accuracy, 6) for r in res], sum(r.accuracy for r in res)/len(res)
            arms[name].runs.append(Run(number, mean, mean, res[0].steps, sum(r.seconds for r in res),
                                       [{'step': res[0].steps, 'folds': scores}]))
    return {'A/A': Comparison(arms['A'], arms['A again'], DELTA), 'A/B': Comparison(arms['A'], arms['B'], DELTA)}


def validate_membership(quick):
    data = embedded().resize(14).subset(100, parts=('valid',))
    few = data.subset(60 if quick else 500)
    long = recipes['fast'].replace(batch_size=32, steps=10 if quick else 300)
    named = {'20 epochs': (long, few), '3 epochs': (long.replace(steps=5 if quick else 45), few),
             'mirrored and moved': (long + FlipShift(), few), 'dropout 0.5': (long + WithDropout(p=0.5), few),
             'decay 0.3': (long.replace(optimizer_args={'weight_decay': 0.3}), few),
             '2,000 images': (long, data.subset(80 if quick else 2000))}
    arms = {name: empty(name, recipe, data) for name, (recipe, data) in named.items()}
    for seed in range(3 if quick else 5):
        for name, (recipe, data) in named.items():
            res = train(recipe, data, seed, progress=False)
            seen, unseen = data.train[:500], data.test[:500]
            found = membership_advantage(image_losses(res.trained, seen), image_losses(res.trained, unseen))
            facts = {'step': res.steps, 'advantage': found.advantage, 'train_accuracy': right(res.trained, seen)}
            arms[name].runs.append(Run(seed, res.test(), res.accuracy, res.steps, res.seconds, [facts]))
    base, *others = arms.values()
    return {a.name: Comparison(base, a, DELTA, differ=('data',)*(a.data != base.data)) for a in others}


RECORDS = dict(validate_sources=validate_sources, validate_kfold=validate_kfold, validate_intervals=validate_intervals,
               validate_membership=validate_membership)


def prepare(quick): return quick,


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
