"""What `cnn_tricks audit` does with photographs: the same audit with several seeds, as the command runs it.

    python scripts/bench/audit_photos.py FOLDER --out ~/audits              # ten seeds of fifteen minutes
    python scripts/bench/audit_photos.py FOLDER --out ~/audits --show       # the table of what there is

Each seed has a folder of its own in --out; one that was stopped goes on. With FOLDER's test images, each audit checks what
it recommends; the table has those differences. Writes results/bench/audit_photos.json when all seeds are done.
"""
import argparse, json, subprocess, sys
from pathlib import Path

from cnn_tricks.base.files import atomic_write
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.studies.audit_result import Audit

ROOT = Path(__file__).resolve().parents[2]


def row(folder):
    a = Audit.load(folder/'ledger.json')
    took = a.recipe != Recipe.from_dict(a.asked['base'])
    return dict(seed=a.asked['seed'], minutes=round(a.spent/60, 2), asked=a.asked['minutes'], tried=len(a.comparisons),
                rounds=a.rounds, helping=a.helping, recommended=[t.name for t in a.recipe.tricks]*took, took=took,
                head_only=len(a.heads.get('rows', ())), gain=a.check and round(a.check.difference, 5),
                verdict=a.check and str(a.check.verdict), machine=a.base.machine)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder')
    p.add_argument('--out', type=Path, required=True)
    p.add_argument('--minutes', type=float, default=15)
    p.add_argument('--seeds', type=int, default=10)
    p.add_argument('--show', action='store_true')
    a = p.parse_args()
    folders = [a.out.expanduser()/f'seed{s}' for s in range(a.seeds)]
    for s, f in enumerate(folders):
        if a.show or (f/'recipe.json').exists() and not (f/'run.json').exists(): continue
        going = ['--resume'] if (f/'run.json').exists() else [a.folder, '--minutes', str(a.minutes), '--seed', str(10_000*s)]
        subprocess.run([sys.executable, '-m', 'cnn_tricks', 'audit', *going, '--out', str(f)], check=True)
    rows = [row(f) for f in folders if (f/'ledger.json').exists()]
    for r in rows: print({k: v for k, v in r.items() if k != 'machine'})
    took = [r for r in rows if r['took']]
    gains = [r['gain'] for r in took]
    print(f'{len(rows)} audits, {len(took)} recommend something; mean gain on test images '
          f'{100*sum(gains)/max(len(gains), 1):+.2f} points; longest {max((r["minutes"]/r["asked"] for r in rows), default=0):.2f} of its time')
    if len(rows) == a.seeds and not a.show:
        with atomic_write(ROOT/'results'/'bench'/'audit_photos.json') as f: f.write(json.dumps(rows, indent=1).encode())


if __name__ == '__main__': main()
