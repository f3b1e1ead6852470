"""Make the recorded runs of lesson 32, on Fashion-MNIST's embedded part.

    python scripts/record/penalties.py                    # both, into results/records/: about 4 minutes on one thread
    python scripts/record/penalties.py penalties          # one of them
    python scripts/record/penalties.py --quick            # small and short, into build/quick/: to try the script

`penalties`: 500 training images for 10 epochs without any penalty, against L1, decoupled decay and an L2 term in Adam's
gradient, two strengths each. Every arm takes the best of the same rates, by validation accuracy on a seed outside the
others. The last row of a run's history also holds `loss` (log loss on test images), `train_accuracy`, `zeros` (share of
the weights that are exactly zero) and `norm` (root of the sum of their squares).
`penalties_filters`: the article's network with half of its filters, with all, and all with an L2 term of two strengths.
"""
import os, sys, warnings
from dataclasses import asdict

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from torch.nn.functional import nll_loss

from cnn_tricks.measure.repeated_runs import Arm, Run, best_lr
from cnn_tricks.tricks.architecture import ScaleNetwork
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.data.datasets import embedded
from cnn_tricks.base.machine import machine
from cnn_tricks.measure.compare import Ledger, ledger
from cnn_tricks.tricks.penalties import L1Penalty, WeightDecay, share_zero
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.core.train import train
from recording import main

DELTA = 0.01  # one point: declared before any run
RATES = 0.003, 0.006, 0.012
BAR = sys.stdout.isatty()


def measured(recipe, data, seed):
    "One run, read once on the test images"
    res = train(recipe, data, seed, progress=False)
    probs, y, model = res.trained.predict(data.test.x), data.test.y, res.trained.model
    right = (res.trained.predict(data.train.x).argmax(1) == data.train.y).double().mean().item()
    norm = sum(p.square().sum().item() for p in model.parameters() if p.ndim > 1)**0.5
    facts = dict(loss=nll_loss(probs.clamp_min(1e-38).log(), y).item(), train_accuracy=right, norm=norm,
                 zeros=share_zero(model))
    history = [{k: round(h[k], 5) for k in ('step', 'seconds', 'accuracy', 'valid_loss')} for h in res.history]
    history[-1] |= {k: round(v, 5) for k, v in facts.items()}
    accuracy = (probs.argmax(1) == y).double().mean().item()
    return Run(seed, accuracy, res.accuracy, res.steps, res.seconds, history)


def penalties(quick):
    data = embedded().subset(60 if quick else 500).subset(60 if quick else 500, parts=('valid',))
    steps, seeds, rates = (20, range(3), ()) if quick else (150, range(5), RATES)
    free = recipes['fast'].replace(batch_size=32, steps=steps, optimizer_args=dict(weight_decay=0.))
    named = {'no penalty': free} | {f'L1, {s:g}': free + L1Penalty(s) for s in (0.1, 0.3)}
    named |= {f'decay, {s:g}': free + WeightDecay(s) for s in (1., 4.)}
    named |= {f'L2 in Adam, {s:g}': free.replace(optimizer='adam', optimizer_args=dict(weight_decay=s))
              for s in (0.01, 0.1)}
    about = {'name': data.name, 'fingerprint': data.fingerprint, **{k: len(p) for k, p in data.parts.items()}}
    arms = []
    for name, recipe in named.items():
        recipe, tried = best_lr(recipe, data, rates, max(seeds) + 1)
        arms.append((recipe, Arm(name, recipe.to_dict(), [], 'test', about, asdict(machine()), lrs=tried)))
    for seed in seeds:
        for recipe, arm in arms: arm.runs.append(measured(recipe, data, seed))
    base, *others = (arm for _, arm in arms)
    return Ledger([Comparison(base, a, DELTA) for a in others], {})


def filters(quick):
    data = embedded().subset(200 if quick else 1000).subset(200 if quick else 1000, parts=('valid',))
    data = data.subset(200 if quick else 2000, parts=('test',))
    half = Recipe(network='article_shaped', network_args=dict(widths=[16, 32, 32]), steps=20 if quick else 100)
    arms = {'all filters': half + ScaleNetwork(width=2.)}
    arms |= {f'all filters, L2 {s:g}': half.replace(optimizer_args=dict(weight_decay=s)) + ScaleNetwork(width=2.)
             for s in (0.0005, 0.01)}
    return ledger(half, arms, data, range(3 if quick else 5), delta=DELTA, part='test', progress=BAR)


RECORDS = dict(penalties=penalties, penalties_filters=filters)


def prepare(quick): return quick,


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
