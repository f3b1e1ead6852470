"""What the `fast` recipe is worth against the baseline, in seconds and in test accuracy, measured in one process.

    python scripts/bench/fast.py [--seeds 3] [--out results/bench/fast.json]

For each seed: the baseline; `fast` with a quarter of the seconds that this run took; `fast` with all of them. Bars: a
quarter of the seconds reaches the baseline's final test accuracy, and the same seconds end at least 2 points higher.
Seconds are those of training, without validation. A budget in seconds is turned into steps beforehand, so a run may
take a little more or less than it was given: `--margin` is kept in hand, and what was really used is reported.
Let nothing else run beside it.
"""
import argparse, json, os, warnings
from datetime import date
from pathlib import Path
from statistics import mean

os.environ.setdefault('OMP_NUM_THREADS', '2')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

import fastai, torch

from cnn_tricks.data.datasets import embedded
from cnn_tricks.base.machine import machine
from cnn_tricks.core.recipe import recipes
from cnn_tricks.core.train import train

BAR_SECONDS, BAR_POINTS = 0.25, 2.0
ROOT = Path(__file__).resolve().parents[2]


def one_seed(seed, data, margin):
    "Accuracies on test and seconds of the three runs of one seed"
    base = train(recipes['baseline'], data, seed, progress=False)
    runs = {'baseline': base}
    for name, part in (('quarter', BAR_SECONDS), ('same', 1.)):
        recipe = recipes['fast'].replace(seconds=base.seconds*part*(1 - margin))
        runs[name] = train(recipe, data, seed, progress=False)
    row = {name: dict(test=r.test(), valid=r.accuracy, seconds=r.seconds, steps=r.steps) for name, r in runs.items()}
    for name in ('quarter', 'same'):
        points = 100*(row[name]['test'] - row['baseline']['test'])
        row[name] |= dict(seconds_ratio=row[name]['seconds']/base.seconds, points=points)
    return row


def say(row): return f"baseline {100*row['test']:.2f}% in {row['seconds']:.1f} s"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--margin', type=float, default=0.05, help='part of each budget kept in hand')
    p.add_argument('--images', type=int, default=0, help='train, validate and test on so many images, for a try')
    p.add_argument('--out', type=Path, default=ROOT/'results'/'bench'/'fast.json')
    a = p.parse_args()
    data = embedded().subset(a.images, parts=('train', 'valid', 'test')) if a.images else embedded()
    train(recipes['fast'].replace(steps=20), data.subset(min(2000, len(data.train))), progress=False)  # warm up
    rows = []
    for seed in range(a.seeds):
        rows.append(r := one_seed(seed, data, a.margin))
        print(f"seed {seed}: {say(r['baseline'])}; " + '; '.join(
            f"fast {100*r[k]['test']:.2f}% ({r[k]['points']:+.2f} points) in {r[k]['seconds_ratio']:.3f} of that"
            for k in ('quarter', 'same')), flush=True)
    means = {k: {f: mean(r[k][f] for r in rows) for f in rows[0][k]} for k in rows[0]}
    quarter, same = means['quarter'], means['same']
    bars = {'quarter of the seconds': quarter['points'] >= 0 and quarter['seconds_ratio'] <= BAR_SECONDS,
            'two points in the same seconds': same['points'] >= BAR_POINTS and same['seconds_ratio'] <= 1}
    print(f"mean of {a.seeds} seeds, test accuracy: {say(means['baseline'])}")
    for row, seconds, points in ((quarter, BAR_SECONDS, 0), (same, 1, BAR_POINTS)):
        print(f"  fast in {row['seconds_ratio']:.3f} of the seconds (bar {seconds:g}): "
              f"{row['points']:+.2f} points (bar {points:+g})")
    for name, held in bars.items(): print(f"  {name}: {'reached' if held else 'NOT reached'}")
    about = dict(date=date.today().isoformat(), machine=vars(machine()), fastai=fastai.__version__,
                 torch=torch.__version__.split('+')[0], recipes={n: recipes[n].to_dict() for n in ('baseline', 'fast')},
                 data=dict(name=data.name, fingerprint=data.fingerprint))
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_text(json.dumps(dict(mean=means, bars=bars, seeds=rows, **about), indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
