"""Make the recorded runs of lesson 33, on Fashion-MNIST's embedded part.

    python scripts/record/stopping.py                  # all four, into results/records/: about 7 minutes on one thread
    python scripts/record/stopping.py stopping         # one of them
    python scripts/record/stopping.py --quick          # small and short, into build/quick/: to try the script

`stopping`: 500 training images for 20 epochs, which is far too long. A fixed rate against the same with early stopping;
one-cycle against the same with early stopping; and that against a one-cycle of as many steps as the stopped runs took.
`stopping_cycle`: the last comparison once more, at the rate that was best for the whole cycle, with ten seeds: what
happens to a recipe that was tuned without early stopping.
`overfitting`: the same 20 epochs at a fixed rate, against three cures: a smaller network, four times the images (equal
steps), another optimiser.
`label_smoothing`: no, little and much smoothing, on many images for a short time and on few for a long time.

Every other arm takes the best of the same rates, by validation accuracy on a seed outside the others. Accuracy is that
on test images. The last row of a run's history also holds, on test images: `loss` (log loss, without smoothing), `ece`,
`confidence` (mean of the top probability), and the first two after temperature scaling fitted on validation images
(`loss_scaled`, `ece_scaled`, `temperature`); and `train_accuracy`, on 500 training images.
"""
import os, sys, warnings
from dataclasses import asdict

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from torch.nn.functional import nll_loss

from cnn_tricks.measure.repeated_runs import Arm, Run, best_lr
from cnn_tricks.tools.calibration import expected_calibration_error, fit_temperature, temper
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.data.datasets import embedded
from cnn_tricks.base.machine import machine
from cnn_tricks.core.recipe import recipes
from cnn_tricks.tricks.stopping import EarlyStopping, LabelSmoothing
from cnn_tricks.core.train import train
from recording import main

DELTA = 0.01  # one point: declared before any run
RATES = 0.001, 0.003, 0.01
SAY = sys.stdout.isatty()


def scores(probs, y, end=''):
    "Log loss and calibration error of probabilities"
    return {f'loss{end}': nll_loss(probs.clamp_min(1e-38).log(), y).item(),
            f'ece{end}': expected_calibration_error(probs, y)}


def measured(recipe, data, seed):
    "One run, read once on the test images"
    res = train(recipe, data, seed, progress=False)
    probs, y = res.trained.predict(data.test.x), data.test.y
    t = fit_temperature(res.trained.predict(data.valid.x), data.valid.y)
    seen = data.train[:500]
    right = (res.trained.predict(seen.x).argmax(1) == seen.y).double().mean().item()
    facts = scores(probs, y) | scores(temper(probs, t), y, '_scaled') | {
        'temperature': t, 'confidence': probs.max(1).values.mean().item(), 'train_accuracy': right}
    history = [{k: round(h[k], 5) for k in ('step', 'seconds', 'accuracy', 'valid_loss')} for h in res.history]
    history[-1] |= {k: round(v, 5) for k, v in facts.items()}
    accuracy = (probs.argmax(1) == y).double().mean().item()
    return Run(seed, accuracy, res.accuracy, res.steps, res.seconds, history)


def arms(named, seeds, rates):
    "name -> (recipe, data): an `Arm` of each, seed by seed in turns"
    out = {}
    for name, (recipe, data) in named.items():
        recipe, tried = best_lr(recipe, data, rates, max(seeds) + 1)
        about = {'name': data.name, 'fingerprint': data.fingerprint, **{k: len(p) for k, p in data.parts.items()}}
        out[name] = Arm(name, recipe.to_dict(), [], 'test', about, asdict(machine()), lrs=tried), recipe, data
    for seed in seeds:
        for name, (arm, recipe, data) in out.items():
            arm.runs.append(measured(recipe, data, seed))
            if SAY: print(name, seed, arm.runs[-1].accuracy)
    return {name: arm for name, (arm, *_) in out.items()}


def long_run(quick, **kw):
    "Far too many epochs for 500 images, at a fixed rate"
    return recipes['fast'].replace(**{'schedule': 'fixed', 'schedule_args': {}, 'batch_size': 32,
                                      'steps': 30 if quick else 300} | kw)


def few(quick, n=500): return embedded().subset(60 if quick else n).subset(60 if quick else 500, parts=('valid',))


def shorter(stopped, cycle, data, rates):
    "A one-cycle of as many steps as the stopped runs took, on average"
    arm, = arms({'shorter one_cycle': (cycle.replace(steps=stopped.steps), data)}, stopped.seeds, rates).values()
    return Comparison(stopped, arm, DELTA)


def stopping(quick, seeds, rates):
    data, fixed, cycle = few(quick), long_run(quick), long_run(quick, schedule='one_cycle')
    named = {'fixed': fixed, 'fixed, stopped': fixed + EarlyStopping(),
             'one_cycle': cycle, 'one_cycle, stopped': cycle + EarlyStopping()}
    a = arms({n: (r, data) for n, r in named.items()}, seeds, rates)
    return {'fixed': Comparison(a['fixed'], a['fixed, stopped'], DELTA),
            'one_cycle': Comparison(a['one_cycle'], a['one_cycle, stopped'], DELTA),
            'shorter': shorter(a['one_cycle, stopped'], cycle, data, rates)}


def stopping_cycle(quick, seeds, rates):
    data, cycle = few(quick), long_run(quick, schedule='one_cycle', lr=0.01)
    stopped, = arms({'one_cycle, stopped': (cycle + EarlyStopping(), data)}, range(2*len(seeds)), ()).values()
    return {'shorter': shorter(stopped, cycle, data, ())}


def overfitting(quick, seeds, rates):
    data, fixed = few(quick), long_run(quick)
    named = {'fixed': (fixed, data), 'smaller network': (fixed.replace(network_args={'widths': [8, 16]}), data),
             'more images': (fixed, few(quick, 2000)), 'sgd': (fixed.replace(optimizer='sgd'), data)}
    base, *cures = arms(named, seeds, rates).values()
    return {a.name: Comparison(base, a, DELTA, differ=('data',)*(a.data != base.data)) for a in cures}


def label_smoothing(quick, seeds, rates):
    many = embedded().subset(500, parts=('valid',))
    short = recipes['fast'].replace(steps=30 if quick else 156)
    settings = {'short': (short, few(True) if quick else many),
                'long': (long_run(quick, schedule='one_cycle'), few(quick))}
    out = {}
    for name, (recipe, data) in settings.items():
        named = {'0': recipe} | {str(eps): recipe + LabelSmoothing(eps) for eps in (0.1, 0.2)}
        base, *others = arms({f'{name}, eps {k}': (r, data) for k, r in named.items()}, seeds, rates).values()
        out |= {a.name: Comparison(base, a, DELTA) for a in others}
    return out


RECORDS = dict(stopping=stopping, stopping_cycle=stopping_cycle, overfitting=overfitting,
               label_smoothing=label_smoothing)


def prepare(quick): return quick, range(3 if quick else 5), RATES[:2] if quick else RATES


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
