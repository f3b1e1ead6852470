"""Make the recorded runs of lesson 52, on drawn pictures whose background can give the label away.

    python scripts/record/gradcam.py            # into results/records/: about 4 minutes on one thread
    python scripts/record/gradcam.py --quick    # small and short, into build/quick/: to try the script

`gradcam`: in colour (hue and direction of the stripes tell the class) and in grey (their direction alone does), a
network trained on pictures of which 95 in 100 have the background of their class; the same with every training picture
turned by any angle; one for which it is 60 in 100; and one trained on pictures whose background tells nothing (the rest
have any of the three backgrounds). Each seed draws pictures of its own.

Accuracy is that on test pictures whose background was exchanged for that of another class. The rows of a run's history
have `heat_share`, the share of heat on the object in 100 validation pictures after each epoch. The last row also holds,
on test pictures: `own` (accuracy on the same pictures with their own background), `heat_own` and `heat_other` (share of
heat on the object), `area` (the object's share of the picture), `tells` (chance that an answer that stands when the
background is exchanged had more heat on the object than one that falls; absent where no answer falls or none stands),
`deleted` and `deleted_random` (mean probability of the answer while pixels are deleted, by heat and at random), and
`random_weights` (mean rank correlation with the maps of the same network under random weights).
"""
import os, sys, warnings
from dataclasses import asdict

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

import numpy as np
import torch
from scipy.stats import spearmanr

from cnn_tricks.measure.repeated_runs import Arm, Run
from cnn_tricks.tricks.augment import Augment
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.tools.gradcam import WatchHeat, deletion_curve, grad_cam, heat_share, network_input
from cnn_tricks.base.machine import machine
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.measure.records import code_hashes
from cnn_tricks.core.result import build_network
from cnn_tricks.data.drawn_shapes import shapes
from cnn_tricks.core.train import train
from recording import main

DELTA = 0.05  # five points: declared before any run
SAY = sys.stdout.isatty()
RECIPE = Recipe(network='resnet', network_args=dict(width=8, blocks=[1, 1]), optimizer='adamw', lr=0.01,
                schedule='one_cycle', batch_size=32, channels_last=True, epochs=10)
ARMS = {'biased': (0.95, ()), 'biased, turned': (0.95, (Augment(degrees=180.),)), 'half biased': (0.6, ()), 'fair': (0., ())}


def pairs(bias, seed, n, channels):
    "Drawn data; its test pictures with their own background, and with that of another class"
    own, other = (shapes(n, background_bias=bias, test_bias=t, seed=seed, channels=channels) for t in (1., 0.))
    changed = (own.test.x != other.test.x).flatten(1).any(1)
    return own, own.test[changed], other.test[changed]


def stands_above_falls(share, stands):
    "Chance that one that stands has the larger share; None without both kinds"
    up, down = share[stands], share[~stands]
    if not len(up) or not len(down): return None
    return ((up[:, None] > down).float() + (up[:, None] == down).float()/2).mean().item()


def rank_agreement(a, b):
    "Mean rank correlation of maps"
    return float(np.nanmean([spearmanr(p.flatten(), q.flatten()).statistic for p, q in zip(a, b)]))


def facts(trained, own, other):
    "What the maps are worth, on pictures with both backgrounds"
    x, x2, model = network_input(trained, own.x), network_input(trained, other.x), trained.model
    said, said2 = model(x).argmax(1), model(x2).argmax(1)
    heat, right = grad_cam(model, x, said), said == own.y
    share = heat_share(heat, own.masks)
    torch.manual_seed(0)
    fresh = build_network(plan(trained.recipe).recipe, trained.channels, len(trained.classes), trained.size).eval()
    some, chance = slice(0, 100), torch.rand(heat.shape, generator=torch.Generator().manual_seed(0))
    out = {'own': right.float().mean().item(), 'heat_own': share.nanmean().item(),
           'heat_other': heat_share(grad_cam(model, x2, said2), own.masks).nanmean().item(),
           'area': own.masks.float().mean().item(),
           'tells': stands_above_falls(share.nan_to_num(0)[right], (said2 == own.y)[right]),
           'deleted': deletion_curve(model, x[some], heat[some], said[some]).mean().item(),
           'deleted_random': deletion_curve(model, x[some], chance[some], said[some]).mean().item(),
           'random_weights': rank_agreement(heat[some], grad_cam(fresh, x[some], said[some]))}
    return (said2 == own.y).float().mean().item(), {k: None if v is None else round(v, 4) for k, v in out.items()}


def measured(recipe, bias, channels, seed, n):
    "One run, on pictures of its own"
    data, own, other = pairs(bias, seed, n, channels)
    res = train(recipe, data, seed, progress=False, cbs=[WatchHeat(n=100)])
    with torch.no_grad(): accuracy, more = facts(res.trained, own, other)
    history = [{k: round(h[k], 4) for k in ('step', 'seconds', 'accuracy', 'heat_share')} for h in res.history]
    history[-1] |= more
    return data, Run(seed, accuracy, res.accuracy, res.steps, res.seconds, history)


def gradcam(seeds, n, recipe):
    out = {}
    for channels, colour in ((3, 'colour'), (1, 'grey')):
        arms = {}
        for seed in seeds:
            for name, (bias, more) in ARMS.items():
                r = recipe.replace(tricks=more)
                data, run = measured(r, bias, channels, seed, n)
                if name not in arms:
                    about = {'name': 'drawn shapes, anew for each seed', 'fingerprint': data.fingerprint,
                             **{k: len(p) for k, p in data.parts.items()}, 'gradcam': code_hashes({'tools.gradcam'})['tools.gradcam']}
                    arms[name] = Arm(f'{colour}, {name}', r.to_dict(), [], 'test', about, asdict(machine()))
                arms[name].runs.append(run)
                if SAY: print(colour, name, seed, run.accuracy, run.history[-1])
        base, *others = arms.values()
        out |= {a.name: Comparison(base, a, DELTA, differ=('data',)*(a.data != base.data)) for a in others}
    return out


RECORDS = dict(gradcam=gradcam)


def prepare(quick): return (range(3), 300, RECIPE.replace(epochs=2)) if quick else (range(5), 2000, RECIPE)


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
