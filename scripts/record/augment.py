"""Make the recorded runs of lesson 30, on a few images of Fashion-MNIST's embedded part: where augmentation matters most.

    python scripts/record/augment.py                   # all, into results/records/: about 5 minutes on one quiet thread
    python scripts/record/augment.py augment_balance   # one of them
    python scripts/record/augment.py --quick           # small and short, into build/quick/: to try the script

`augment`: ten changes against none, 500 training images, for 4 and for 30 epochs, on test images.
`augment_length`: the two that move the images, for 75 epochs.
`augment_balance`: 500 T-shirts and 50 shirts, with flips, and with each shirt ten times. The test images are all shirts,
the validation images half and half; there are few of them, so the difference that matters is two points here.
`augment_seen`: trained with one change, tested with each; and with several views of each image.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from dataclasses import asdict

import torch

from cnn_tricks.measure.repeated_runs import Arm, Run, repeat
from cnn_tricks.tricks.augment import Augment, CutMix, MixUp
from cnn_tricks.data.augmentations import affine, noise
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import ledger
from cnn_tricks.core.recipe import recipes
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.core.train import train
from cnn_tricks.tools.tta import one_view, predict_tta
from recording import main

DELTA = 0.005  # half a point: declared before any run
BAR = sys.stdout.isatty()
BASE = recipes['fast'].replace(network_args={'widths': [12, 24]})
SHORT, LONG, LONGEST = 4, 30, 75


def only(**kw): return Augment(**dict(flip=0., degrees=0., zoom=1., translate=0.) | kw)


MOVES = FlipShift(p=0., pixels=2)
CHANGES = {'mirror': only(flip=0.5), 'move (pad and crop)': MOVES, 'turn': only(degrees=10.), 'zoom': only(zoom=1.15),
           'noise': only(noise=0.1), 'erase': only(erase=0.5), 'mixup': MixUp(), 'cutmix': CutMix(),
           'turn, zoom, move': Augment(), 'all but mixing': Augment(flip=0.5, noise=0.1, erase=0.5)}


def light(made):
    "An arm or a ledger without the validations after each epoch but the last: they would be most of the file."
    pairs = getattr(made, 'comparisons', [])
    for arm in (pairs[0].base, *(c.trick for c in pairs)) if pairs else [made]:
        for run in arm.runs: run.history = run.history[-1:]
    return made


def compared(changes, data, seeds, epochs):
    return light(ledger(BASE, changes, data, seeds, delta=DELTA, part='test', budget={'epochs': epochs}, progress=BAR))


def augment(data, seeds, quick):
    return {f'{n} epochs': compared(CHANGES, data, seeds, n) for n in (SHORT, 1 if quick else LONG)}


def augment_length(data, seeds, quick):
    few = {name: CHANGES[name] for name in ('move (pad and crop)', 'turn, zoom, move')}
    n = 1 if quick else LONGEST
    return {f'{n} epochs': compared(few, data, seeds, n)}


def augment_balance(data, seeds, quick):
    whole, names = embedded(), {0: 'T-shirt', 6: 'shirt'}

    def take(part, many, rare, times=1):
        a, b = (part.x[part.y == c][:n] for c, n in ((0, many), (6, rare)))
        b = b.repeat(times, 1, 1, 1)
        return Part(torch.cat([a, b]), torch.cat([torch.zeros(len(a)), torch.ones(len(b))]).long())

    def rare(times):
        return ImageData(take(whole.train, 500, 50, times), take(whole.valid, 400, 400), take(whole.test, 0, 400),
                         list(names.values()), 'T-shirts and shirts of Fashion-MNIST')

    todo = {'500 to 50': (BASE, rare(1)), 'with flips': (BASE + only(flip=0.5), rare(1)),
            'shirts ten times': (BASE, rare(10))}
    steps = 10 if quick else 150
    return {name: light(repeat(r.replace(steps=steps), d, seeds, name=name, part='test', progress=BAR))
            for name, (r, d) in todo.items()}


def augment_seen(data, seeds, quick):
    g = torch.Generator().manual_seed(0)
    x, y = data.test.x.float()/255, data.test.y

    def tested(f): return (f(x, y, g)[0]*255).round().to(torch.uint8)
    tests = {'as they are': data.test.x, 'moved': tested(affine(translate=3/28)), 'turned': tested(affine(degrees=20.)),
             'noisy': tested(noise(0.15)), 'mirrored': data.test.x.flip(-1)}
    trained = {'nothing': BASE, 'moves': BASE + MOVES, 'turns': BASE + only(degrees=20.), 'noise': BASE + only(noise=0.15),
               'mirrors': BASE + only(flip=0.5)}
    views = {'2 views': ([one_view(), one_view(mirror=True)], None),
             '6 views': ([one_view(s, s, m) for m in (False, True) for s in (0, -1, 1)], [2, 1, 1]*2)}
    arms = {}
    for seed in seeds:
        for t, recipe in trained.items():
            run = train(recipe.replace(epochs=1 if quick else LONG), data, seed, progress=False)
            p = {name: run.trained.predict(images) for name, images in tests.items()}
            p |= {name: predict_tta(run.trained, data.test.x, v, w) for name, (v, w) in views.items()}
            about = {'name': data.name, 'fingerprint': data.fingerprint, **{k: len(v) for k, v in data.parts.items()}}
            for name, probs in p.items():
                key = f'{t}: {name}'
                arm = arms.setdefault(key, Arm(key, run.recipe.to_dict(), [], 'test', about, asdict(run.machine)))
                right = (probs.argmax(1) == y).float().mean().item()
                arm.runs.append(Run(seed, right, run.accuracy, run.steps, run.seconds))
    return arms


RECORDS = dict(augment=augment, augment_length=augment_length, augment_balance=augment_balance, augment_seen=augment_seen)


def prepare(quick):
    return embedded().subset(500).subset(100, parts=('valid',)).subset(2000, parts=('test',)), range(2 if quick else 5), quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
