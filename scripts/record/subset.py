"""Make the recorded runs of lesson 50, on Fashion-MNIST's embedded part.

    python scripts/record/subset.py                  # all, into results/records/: about 8 minutes on one thread
    python scripts/record/subset.py subset_whole     # one of them
    python scripts/record/subset.py --quick          # small and short, into build/quick/: to try the script

Nine recipes, each a whole candidate with its own learning rate, five seeds. The base is the course's fast recipe with a
network of half the width, so that all of this can be paid.
`subset_whole`: 10,000 training images, 216 steps; accuracy on test images, and on validation images beside.
`subset_steps`, `subset_images`, `subset_classes`, `subset_pixels`: the same candidates on proxies, judged on their
validation images: fewer steps (a third, a ninth); a third of the steps on fewer images (300), on fewer classes (6; 3),
on smaller pictures (14 pixels).
`subset_passes`: four of the changes on 300 images with the steps of the whole, so that each image is seen 46 times.
`subset_rates`: the base with a fixed learning rate, at several rates, on the whole and on two of the proxies.
"""
import os, sys, warnings
from dataclasses import asdict, replace

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.tricks.activations import ChangeActivation
from cnn_tricks.tricks.architecture import ScaleNetwork
from cnn_tricks.measure.repeated_runs import Arm, Run
from cnn_tricks.tricks.augment import MixUp
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.dropout import WithDropout
from cnn_tricks.base.machine import machine
from cnn_tricks.measure.compare import Ledger
from cnn_tricks.tricks.optimizers import SwapOptimizer
from cnn_tricks.core.recipe import recipes
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.tricks.stopping import LabelSmoothing
from cnn_tricks.core.train import train
from recording import main

DELTA = 0.01  # one point: declared before any run
STEPS = 216   # of the whole: 1.4 passes over the images
SAY = sys.stdout.isatty()
BASE = recipes['fast'].replace(network_args={'widths': [12, 24]}, steps=STEPS)
FIXED = BASE.replace(schedule='fixed', schedule_args={}, lr=0.003)
ARMS = {'base': BASE, 'flip_shift': BASE + FlipShift(), 'mixup': BASE + MixUp(), 'dropout': BASE + WithDropout(p=0.3),
        'label_smoothing': BASE + LabelSmoothing(), 'gelu': BASE + ChangeActivation(), 'fixed rate': FIXED,
        'sgd': BASE + SwapOptimizer(to='sgd'), 'wider': BASE + ScaleNetwork(width=2.)}
RATES = 0.0005, 0.002, 0.008, 0.03


def accuracy(trained, part): return (trained.predict(part.x).argmax(1) == part.y).double().mean().item()


def one(recipe, data, seed, part):
    "A run that is validated once, at its end: short runs on few images would spend their time on validating"
    res = train(recipe, replace(data, valid=data.valid[:1]), seed, progress=False)
    valid = accuracy(res.trained, data.valid)
    if SAY: print(data.name, len(data.train), recipe.steps, seed, valid, round(res.seconds, 2))
    return Run(seed, accuracy(res.trained, data.test) if part == 'test' else valid, valid, res.steps, res.seconds)


def arms_of(recipes, data, seeds, part='valid'):
    "An `Arm` for each recipe, its runs made in turns"
    about = {'name': data.name, 'fingerprint': data.fingerprint, **{k: len(p) for k, p in data.parts.items()}}
    arms = [Arm(name, r.to_dict(), [], part, about, asdict(machine())) for name, r in recipes.items()]
    for k, seed in enumerate(seeds):
        turn = list(zip(arms, recipes.values()))[::1 if k % 2 == 0 else -1]
        for arm, r in turn: arm.runs.append(one(r, data, seed, part))
    return arms


def ledger_of(data, seeds, steps, part='valid', names=tuple(ARMS)):
    base, *others = arms_of({name: ARMS[name].replace(steps=steps) for name in names}, data, seeds, part)
    return Ledger([Comparison(base, a, DELTA) for a in others])


def whole(data, seeds, rates, cut): return ledger_of(data, seeds, STEPS//cut, 'test')


def steps(data, seeds, rates, cut): return {str(n): ledger_of(data, seeds, n//cut) for n in (72, 24)}


def images(data, seeds, rates, cut): return {'300': ledger_of(data.subset(300), seeds, 72//cut)}


def classes(data, seeds, rates, cut): return {str(n): ledger_of(data.take_classes(n), seeds, 72//cut) for n in (6, 3)}


def pixels(data, seeds, rates, cut): return {'14': ledger_of(data.resize(14), seeds, 72//cut)}


def passes(data, seeds, rates, cut):
    return ledger_of(data.subset(300), seeds, STEPS//cut, names=('base', 'flip_shift', 'mixup', 'dropout', 'wider'))


def rates(data, seeds, rates, cut):
    proxies = {'whole': (data, STEPS), '72 steps': (data, 72), '300 images': (data.subset(300), 72)}
    return {f'{name}, {a.name}': a for name, (d, n) in proxies.items()
            for a in arms_of({f'{lr:g}': FIXED.replace(lr=lr, steps=n//cut) for lr in rates}, d, seeds[:3])}


RECORDS = dict(subset_whole=whole, subset_steps=steps, subset_images=images, subset_classes=classes,
               subset_pixels=pixels, subset_passes=passes, subset_rates=rates)


def prepare(quick):
    data = embedded().subset(1000).subset(300, parts=('valid', 'test')) if quick else embedded()
    return data, range(2 if quick else 5), RATES[::2] if quick else RATES, 10 if quick else 1


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
