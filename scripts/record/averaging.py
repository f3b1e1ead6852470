"""Make the recorded runs of lesson 34, on Fashion-MNIST's embedded part.

    python scripts/record/averaging.py                 # both, into results/records/: about 3 minutes on one thread
    python scripts/record/averaging.py averaging       # one of them
    python scripts/record/averaging.py --quick         # small and short, into build/quick/: to try the script

`averaging`: 5,000 training images, two epochs. A fixed rate and one-cycle, each plain, with the exponential average and
with the mean of the last quarter: six arms, each at the best of the same five rates, chosen on validation images and a
seed outside the others. Averaging changes nothing in how a run trains, so arms that share a rate share their runs, and
`seconds` is that of the run with both averages beside it. Accuracy is that on test images.
`averaging_norm`: what batch norm uses after averaging, at a fixed rate of 0.003: the statistics of the last step, their
average, or statistics taken anew.
"""
import os, sys, warnings
from dataclasses import asdict

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.measure.repeated_runs import Arm, Run
from cnn_tricks.tricks.averaging import EMA, SWA, AverageWeights
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.data.datasets import embedded
from cnn_tricks.base.machine import machine
from cnn_tricks.core.recipe import recipes
from cnn_tricks.core.train import train
from recording import main

DELTA = 0.005  # half a point: declared before any run
RATES = 0.0003, 0.001, 0.003, 0.01, 0.03
TRICKS = {'': None, ', ema': EMA(), ', swa': SWA()}
SAY = sys.stdout.isatty()


class Beside(AverageWeights):
    "Averages and leaves the run alone; the average is put into the network later"
    def before_validate(self): pass
    def after_train(self): pass
    def after_fit(self): pass


class BesideToo(Beside): "A second one: fastai tells callbacks apart by their class"


def beside(trick, cls):
    "The trick's own callback, as one that waits"
    cb, = trick.callbacks()
    cb.__class__ = cls
    return cb


def accuracy(trained, part): return (trained.predict(part.x).argmax(1) == part.y).double().mean().item()


def scored(trained, data, test):
    "Accuracy on validation and (where it is asked for) on test images"
    return accuracy(trained, data.valid), accuracy(trained, data.test) if test else None


def measured(recipe, data, seed, test=True):
    "One run -> the `Result`, and for each of `TRICKS` its accuracies: plain, and with each average in place"
    cbs = [beside(t, c) for t, c in zip(list(TRICKS.values())[1:], (Beside, BesideToo))]
    res = train(recipe, data, seed, progress=False, cbs=cbs)
    found = {'': scored(res.trained, data, test)}
    for name, cb in zip(list(TRICKS)[1:], cbs):
        cb.place()
        found[name] = scored(res.trained, data, test)
        cb.exchange()
    return res, found


def new_arm(name, recipe, data, tried=()):
    about = {'name': data.name, 'fingerprint': data.fingerprint, **{k: len(p) for k, p in data.parts.items()}}
    return Arm(name, recipe.to_dict(), [], 'test', about, asdict(machine()), lrs=list(tried))


def averaging(quick, seeds, data):
    base = recipes['fast'].replace(epochs=0.5 if quick else 2, schedule_args={})
    base = base.replace(steps=round(base.epochs*len(data.loaders(base.batch_size).train)))
    arms, runs = {}, {}
    for s in ('fixed', 'one_cycle'):
        tried = {lr: measured(base.replace(schedule=s, lr=lr), data, max(seeds) + 1, test=False)[1] for lr in RATES}
        for end, t in TRICKS.items():
            lr = max(RATES, key=lambda lr: tried[lr][end][0])
            recipe = base.replace(schedule=s, lr=lr, tricks=(t,) if t else ())
            arms[s + end] = new_arm(s + end, recipe, data, [[lr, f[end][0]] for lr, f in tried.items()]), s, end, lr
    for seed in seeds:
        for arm, s, end, lr in arms.values():
            key = s, lr, seed
            if key not in runs: runs[key] = measured(base.replace(schedule=s, lr=lr), data, seed)
            res, found = runs[key]
            valid, test = found[end]
            arm.runs.append(Run(seed, test, valid, res.steps, res.seconds))
            if SAY: print(arm.name, lr, seed, test)
    a = {name: arm for name, (arm, *_) in arms.items()}
    pairs = [(s, s + end) for s in ('fixed', 'one_cycle') for end in (', ema', ', swa')]
    pairs += [('fixed', 'one_cycle'), ('one_cycle', 'fixed, ema'), ('one_cycle', 'fixed, swa')]
    return {f'{y} against {x}': Comparison(a[x], a[y], DELTA) for x, y in pairs}


def averaging_norm(quick, seeds, data):
    base = recipes['fast'].replace(epochs=0.5 if quick else 2, schedule='fixed', schedule_args={}, lr=0.003)
    base = base.replace(steps=round(base.epochs*len(data.loaders(base.batch_size).train)))
    ways, arms = ('last', 'averaged', 'anew'), {}
    for end, t in list(TRICKS.items())[1:]:
        for way in ways: arms[end, way] = new_arm(f'{t.name}, {way}', base + t, data)
    for seed in seeds:
        cbs = [beside(t, c) for t, c in zip(list(TRICKS.values())[1:], (Beside, BesideToo))]
        res = train(base, data, seed, progress=False, cbs=cbs)
        last = [b.clone() for b in res.trained.model.buffers()]
        for end, cb in zip(list(TRICKS)[1:], cbs):
            cb.exchange()  # weights and averaged statistics
            averaged = [b.clone() for b in res.trained.model.buffers()]
            for way in ways:
                if way == 'anew':
                    cb.exchange()
                    cb.place()
                else:
                    for b, v in zip(res.trained.model.buffers(), last if way == 'last' else averaged): b.copy_(v)
                valid, test = scored(res.trained, data, True)
                arms[end, way].runs.append(Run(seed, test, valid, res.steps, res.seconds))
            cb.exchange()
    return {f'{arms[end, w].name} against last': Comparison(arms[end, 'last'], arms[end, w], DELTA)
            for end in list(TRICKS)[1:] for w in ways[1:]}


RECORDS = dict(averaging=averaging, averaging_norm=averaging_norm)


def prepare(quick):
    data = embedded().subset(300, parts=('train', 'valid', 'test')) if quick else embedded().subset(5000)
    return quick, range(3 if quick else 5), data


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
