"""How often audits err whose truth is known: many small audits on images of Fashion-MNIST that nothing else here uses.

    python scripts/record/audit_calibration.py                     # 200 audits into results/records/audit_calibration.json
    python scripts/record/audit_calibration.py --audits 1000       # go on to more
    python scripts/record/audit_calibration.py --summary           # what there is so far, in words

An audit takes some seconds of one thread. It goes on where it was stopped: each audit, and each run that finds a truth,
is kept at once. Each audit has one of 40 parts of 1,000 images, which share no image; 200 audits use each part five
times, with other seeds. So intervals are Wilson's, and beside it a bootstrap by part, which is one by image.

Two tricks do exactly nothing: they mirror all images, or turn them upside down, those of training and those that are
scored. The network is as symmetric as its start, so accuracy has the same distribution with and without them. The worth
of the real tricks is measured on the 10,000 official test images, by networks trained as the audits train them. All
runs have equal steps, and no learning rate is tuned. Needs the full Fashion-MNIST (Debian: dataset-fashion-mnist).
"""
import argparse, gc, json, os, time, warnings
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

import numpy as np
import torch
from torch import nn

from cnn_tricks.base.files import atomic_write
from cnn_tricks.base.machine import machine
from cnn_tricks.core.recipe import Card, Recipe, Trick, trick, tricks
from cnn_tricks.core.train import train
from cnn_tricks.data.datasets import embedded, fashion_mnist
from cnn_tricks.data.images import ImageData
from cnn_tricks.measure.records import code_hashes
from cnn_tricks.measure.statistics import accuracy_interval, paired_t
from cnn_tricks.studies.audit import audit
from cnn_tricks.studies.audit_splits import Splits

ROOT = Path(__file__).resolve().parents[2]
SIZE, IMAGES, PARTS, TESTED, ROUNDS, TRUTHS, DELTA = 14, 1000, 40, 500, 8, 200, 0.01  # declared before any run
BASE = Recipe(network='resnet', network_args=dict(width=8, blocks=[1], stem_stride=1, grid=2), optimizer='adamw', lr=0.01,
              schedule='one_cycle', batch_size=64, steps=40)
NULLS = 'mirrored', 'upside_down'
REAL = 'flip_shift', 'label_smoothing', 'dropout', 'twice_as_wide', 'mixup', 'half_as_wide'


class Turned(nn.Module):
    "The network sees every image turned"
    def __init__(self, model, axis):
        super().__init__()
        self.model, self.axis = model, axis
    def forward(self, x): return self.model(x.flip(self.axis))


def null_trick(name, axis):
    @trick(name, Card(tldr='Turns all images: worth exactly nothing.', when='To calibrate.', when_not='Else.',
                      cost='A copy of each batch.', suggested='None.'))
    class Null(Trick):
        def structure(self, m): return Turned(m, axis)


def width_trick(name, width):
    @trick(name, Card(tldr='Another number of channels.', when='To calibrate.', when_not='Else.', cost='Another network.',
                      suggested='None.'))
    class Width(Trick):
        def recipe(self, r): return r.replace(network_args=r.network_args | dict(width=width))


for _name, _axis in zip(NULLS, (3, 2)): null_trick(_name, _axis)
for _name, _width in (('twice_as_wide', 16), ('half_as_wide', 4)): width_trick(_name, _width)


def images():
    "Forty parts that share no image, images for the last checks, and those that find the truth"
    full, used = fashion_mnist(valid=1), embedded()
    pool = full.train.join(full.valid)
    known = {x.numpy().tobytes() for p in (used.train, used.valid) for x in p.x}
    free = torch.tensor([i for i, x in enumerate(pool.x) if x.numpy().tobytes() not in known])
    free = free[torch.randperm(len(free), generator=torch.Generator().manual_seed(12))]
    small = ImageData(pool[free], pool[:0], full.test, full.classes, 'Fashion-MNIST').resize(SIZE)
    n = PARTS*IMAGES
    return small.train[:n], small.train[n:], small.test, full.classes


def part_of(found, k):
    "The images of audit `k`: part `k` mod 40, and 500 for its last check"
    pool, tests, _, classes = found
    i, order = k % PARTS*IMAGES, torch.randperm(len(tests), generator=torch.Generator().manual_seed(k))
    part = pool[i:i + IMAGES]
    return ImageData(part[:4*IMAGES//5], part[4*IMAGES//5:], tests[order[:TESTED]], classes, f'part {k % PARTS}')


def one_audit(found, k):
    "Both nulls and two real tricks, which ones depends on `k`"
    names = [*NULLS, *np.random.default_rng(k).choice(REAL, 2, replace=False).tolist()]
    start = time.process_time()
    a = audit(part_of(found, k), BASE, names, minutes=1e4, rounds=ROUNDS, delta=DELTA, seed=10_000*(k + 1), equal='steps')
    rows = {c.trick.name: dict(verdict=str(c.verdict), difference=round(c.difference, 5), seeds=len(c.base), sd=round(c.sd, 5),
                               interval=[round(v, 5) for v in c.interval]) for c in a.comparisons}
    return dict(audit=k, part=k % PARTS, tricks=rows, dropped=a.refused, adopted=[t.name for t in a.recipe.tricks],
                checked=a.check and dict(difference=round(a.check.difference, 5), verdict=str(a.check.verdict)),
                cpu=round(time.process_time() - start, 1))


def one_truth(found, k):
    "What each real trick adds on the 10,000 images, on the images and with the seed of one round"
    data = replace(Splits(part_of(found, k)).round(k), test=found[2])
    def right(recipe):
        r = train(recipe, data, 5_000_000 + k, progress=False)
        return (r.trained.predict(data.test.x).argmax(1) == data.test.y).float().mean().item()
    base = right(BASE)
    return {name: round(right(BASE + tricks[name]()) - base, 5) for name in REAL}


# what came out

def calls(row, truth, words, wrong):
    "Tricks of an audit of which a word was said wrongly"
    return [n for n, c in row['tricks'].items() if c['verdict'] in words and wrong(0. if n in NULLS else truth[n])]


def rate(rows, bad):
    "How many audits erred, Wilson's interval, and a bootstrap by part"
    by_part = [[bad(r) for r in rows if r['part'] == p] for p in sorted({r['part'] for r in rows})]
    rng = np.random.default_rng(0)
    draws = [np.concatenate([by_part[i] for i in rng.integers(len(by_part), size=len(by_part))]).mean() for _ in range(2000)]
    n = sum(map(sum, by_part))
    return dict(audits=n, rate=round(n/len(rows), 5), interval=[round(v, 5) for v in accuracy_interval(n, len(rows))],
                by_image=[round(v, 5) for v in np.percentile(draws, [2.5, 97.5])])


def summary(record):
    "The record with what follows from its rows"
    rows, found = record['rows'], record['truths']
    worth = {n: [t[n] for t in found] for n in REAL} if len(found) > 1 else {}
    truth = {n: dict(zip(('mean', 'low', 'high'), (round(v, 5) for v in paired_t(d)[:3]))) for n, d in worth.items()}
    mean = {n: t['mean'] for n, t in truth.items()}
    helps, hurts = ('helps', 'helps, by less than δ'), ('hurts',)
    record |= dict(audits=len(rows), images=IMAGES, data='Fashion-MNIST', truth=truth)
    if not rows or not mean: return record
    record |= dict(false_helps=rate(rows, lambda r: bool(calls(r, mean, helps, lambda t: t <= 0))),
                   false_hurts=rate(rows, lambda r: bool(calls(r, mean, hurts, lambda t: t >= 0))),
                   null_helps=rate(rows, lambda r: any(r['tricks'].get(n, {}).get('verdict') in helps for n in NULLS)),
                   null_hurts=rate(rows, lambda r: any(r['tricks'].get(n, {}).get('verdict') in hurts for n in NULLS)),
                   adopted_worse=rate(rows, lambda r: bool(r['adopted']) and sum(mean.get(n, 0) for n in r['adopted']) <= 0))
    every = [(n, c) for r in rows for n, c in r['tricks'].items()]
    record['said'] = {n: {w: sum(m == n and c['verdict'] == w for m, c in every) for w in sorted({c['verdict'] for _, c in every})}
                      for n in (*NULLS, *REAL)}
    return record


def words(record):
    yield f'{record["audits"]} audits, {len(record["truths"])} runs for the truth'
    for name, t in record['truth'].items(): yield f'{name}: {100*t["mean"]:+.2f} points ({100*t["low"]:+.2f} to {100*t["high"]:+.2f})'
    for kind in 'false_helps', 'false_hurts', 'null_helps', 'null_hurts', 'adopted_worse':
        if r := record.get(kind):
            low, high, lo, hi = (100*v for v in (*r['interval'], *r['by_image']))
            yield f'{kind}: {r["audits"]} audits, {100*r["rate"]:.1f}% (Wilson {low:.1f} to {high:.1f}, by image {lo:.1f} to {hi:.1f})'
    for name, n in record.get('said', {}).items(): yield f'{name}: {n}'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--audits', type=int, default=200)
    p.add_argument('--truths', type=int, default=TRUTHS, help='runs of each real trick that find its worth')
    p.add_argument('--folder', type=Path, default=ROOT/'results/records', help='where to write')
    p.add_argument('--summary', action='store_true', help='print what there is')
    a = p.parse_args()
    path = a.folder/'audit_calibration.json'
    record = json.loads(path.read_text()) if path.exists() else dict(rows=[], truths=[])
    if a.summary: return print('\n'.join(words(summary(record))))
    a.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = images()
    one_truth(found, 0)  # imports what is imported late
    gc.collect()
    gc.freeze()  # what lives from here on is not searched again and again for garbage
    about = dict(date=date.today().isoformat(), machine=asdict(machine('cpu')), base=BASE.to_dict(), rounds=ROUNDS, delta=DELTA,
                 parts=PARTS, code=code_hashes({f'cnn_tricks.studies.{m}' for m in ('audit', 'audit_boundary', 'audit_job',
                                                'audit_prepare', 'audit_result', 'audit_splits')}))
    while (n := len(record['rows'])) < a.audits or len(record['truths']) < a.truths:
        if len(record['truths'])*a.audits <= n*a.truths and len(record['truths']) < a.truths:
            record['truths'].append(one_truth(found, len(record['truths'])))
        else: record['rows'].append(one_audit(found, n))
        with atomic_write(path) as f: f.write(json.dumps(summary(record) | about, indent=1, ensure_ascii=False).encode())
        if len(record['rows']) > n: print(f'{n + 1} of {a.audits}: {record["rows"][-1]["cpu"]} s', flush=True)
    print('\n'.join(words(record)))


if __name__ == '__main__': main()
