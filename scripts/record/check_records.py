"""See whether stale records still hold: run one (arm, seed) of each again, and stamp what agrees with today's code.

    python scripts/record/check_records.py                     # every stale record in results/: some minutes on one thread
    python scripts/record/check_records.py flip_shift dropout  # these, stale or not
    python scripts/record/check_records.py --dry-run           # say which run would be made, and train nothing

Of a record that run is taken whose modules hold most of what has changed; then one with tricks, then the quickest.
Only plain runs can be made again: `train` on the recipe, scored on validation or test images. The data are looked for by
their fingerprint: those of the script that made the record (`prepare`), and the embedded ones; resized, cut to classes,
to the numbers of images in the record, or to the first fold. Of a run that its script made in another way, the plain one
takes the place if it agrees; otherwise the record is listed, and stays stale.

It agrees if the two accuracies differ by no more than the largest of
- 3 standard deviations between the arm's own seeds, divided by the root of the number of runs. On the same processor the same code gives the same run to the last
  bit. Elsewhere the last bits differ, and a run that is long enough ends as another seed would (lesson 03): such a
  difference has a standard deviation of at most sqrt(2) times that between seeds, which 3 leaves alone 29 times in 30;
- 2 standard errors of the accuracy on that many images: with few seeds the standard deviation itself is a rough guess;
- one image.
Where one run does not agree, up to two more seeds are run, and the means are compared: one run in thirty is far off by chance,
and one that stops early may stop elsewhere on another processor. So a change that costs more than that is found, and a
smaller one is not: for that, make the record anew.

What agrees gets today's hashes and a note `checked`: when, on which machine, which run, both accuracies, the tolerance.
The exit status is 1 if a record stays stale.
"""
import argparse, importlib, json, math, os, re, sys, warnings
from datetime import date
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.core.run_control import TrainingDiverged
from cnn_tricks.data.images import ImageData
from cnn_tricks.data.datasets import embedded
from cnn_tricks.base.machine import machine
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.measure.records import all_arms, code_hashes, modules_used, recorded
from cnn_tricks.base.files import atomic_write
from cnn_tricks.core.train import train

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PARTS = ROOT/'results'/'records', ('train', 'valid', 'test')


def sources(made_by):
    "The data that the script of a record prepares, and the embedded ones."
    script = re.search(r'(\w+)\.py', made_by)
    given = getattr(importlib.import_module(script[1]), 'prepare', lambda quick: ())(False) if script else ()
    return [d for d in given if isinstance(d, ImageData)] + [embedded()]


def candidates(source, counts):
    "Data with so many images in each part, as the scripts make them."
    for size in (None, 14, 7):
        for k in (None, 6, 3):
            data = source.resize(size) if size else source
            data = data.take_classes(k) if k else data
            if any(len(data.parts[p]) < n for p, n in counts.items()): continue
            for p, n in counts.items(): data = data.subset(n, parts=(p,)) if 0 < n < len(data.parts[p]) else data
            yield data
            if 0 < counts['valid'] < counts['train']: yield data.kfold(round(counts['train']/counts['valid']) + 1, 0)[0]


_known = {}  # fingerprint -> data


def data_of(arm, made_by):
    "The data with the arm's fingerprint, or None."
    wanted, counts = arm.data['fingerprint'], {p: arm.data[p] for p in PARTS}
    if wanted not in _known:
        each = (d for s in sources(made_by) for d in candidates(s, counts))
        _known[wanted] = next((d for d in each if d.fingerprint == wanted), None)
    return _known[wanted]


def choose(kept):
    "(arm, data), or None: nothing of the record can be run again this way."
    stale = set(kept.stale)
    def worth(arm): return len(stale & set(code_hashes(modules_used(arm)))), len(arm.recipe['tricks']), -arm.runs[0].seconds
    plain = [a for a in all_arms(kept.result) if a.part in PARTS[1:] and not a.runs[0].diverged]
    return next(((a, d) for a in sorted(plain, key=worth, reverse=True) if (d := data_of(a, kept.made_by))), None)


def tolerance(arm, runs):
    "How far the means of so many runs may lie apart, in accuracy."
    a, n = arm.mean, arm.data[arm.part]
    return max(0 if math.isnan(arm.sd) else 3*arm.sd/math.sqrt(runs), 2*math.sqrt(a*(1 - a)/n), 1/n)


def again(arm, run, data):
    "Its accuracy today; nan if it diverges."
    try: result = train(Recipe.from_dict(arm.recipe), data, run.seed, progress=False, device='cpu')
    except TrainingDiverged: return math.nan
    return result.test() if arm.part == 'test' else result.accuracy


def stamp(name, kept, checked, folder):
    "Give the record today's hashes and the note."
    told = json.loads((folder/f'{name}.json').read_text(encoding='utf-8'))
    told |= {'code': code_hashes(modules_used(kept.result)), 'checked': checked, 'result': told.pop('result')}
    with atomic_write(folder/f'{name}.json') as f: f.write(json.dumps(told, indent=1).encode() + b'\n')


def check(name, folder, dry):
    "One record: does it hold?"
    made_by = json.loads((folder/f'{name}.json').read_text(encoding='utf-8')).get('made_by', '')
    if script := re.search(r'(\w+)\.py', made_by): importlib.import_module(script[1])  # it may register a network
    kept = recorded(name, folder)
    if not (found := choose(kept)): return print(f'{name}: stays stale, no plain run on data that can be found') or False
    (arm, data), now = found, []
    what = f'{name}: {arm.name}, {arm.runs[0].steps:,} steps, {arm.runs[0].seconds:.0f} s'
    if dry: return print(what) or True
    for run in arm.runs[:3]:
        now.append(again(arm, run, data))
        was, limit = sum(r.accuracy for r in arm.runs[:len(now)])/len(now), tolerance(arm, len(now))
        holds = abs(sum(now)/len(now) - was) <= limit
        print(f'{what}, {len(now)} of its seeds: {100*was:.2f}% recorded, {100*sum(now)/len(now):.2f}% now, '
              f'±{100*limit:.2f}: {"holds" if holds else "no"}', flush=True)
        if holds: break
    if holds: stamp(name, kept, dict(date=date.today().isoformat(), machine=str(machine('cpu')), arm=arm.name,
                                     seeds=len(now), recorded=was, now=sum(now)/len(now), tolerance=limit), folder)
    return holds


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help='of records; none: all that are stale')
    p.add_argument('--dry-run', action='store_true', help='train nothing and change nothing')
    p.add_argument('--folder', type=Path, default=RESULTS, help='where the records lie; default: results/records/')
    a = p.parse_args()
    every = [f.stem for f in sorted(a.folder.glob('*.json')) if 'result' in json.loads(f.read_text(encoding='utf-8'))]
    if unknown := set(a.names) - set(every): p.error(f'no such record: {", ".join(sorted(unknown))}')
    names = a.names or [n for n in every if recorded(n, a.folder).stale]
    stale = [n for n in names if not check(n, a.folder, a.dry_run)]
    print(f'{len(names)} looked at, {len(names) - len(stale)} hold' + f'; stale: {", ".join(stale)}'*bool(stale))
    return 1 if stale else 0


if __name__ == '__main__': sys.exit(main())
