"""Make the recorded audit of lesson 80: the embedded part of Fashion-MNIST, the recipe `fast`, all tricks that apply.

    python scripts/record/audit.py            # into results/records/audit.json: the minutes below, on one thread
    python scripts/record/audit.py --quick    # half a minute and small images, into build/quick/: to try the script

The file is an audit's own `ledger.json`: it goes on where it was stopped, and `cnn_tricks.studies.audit_result.Audit.load` reads it.
"""
import argparse, os, warnings
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.studies.audit import audit
from cnn_tricks.data.datasets import embedded
from cnn_tricks.core.recipe import recipes

ROOT = Path(__file__).resolve().parents[2]
MINUTES, DELTA = 30, 0.01  # declared before any run


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='small and short, for a try; writes elsewhere')
    p.add_argument('--folder', type=Path, help='where to write; default: results/records/, with --quick build/quick/')
    a = p.parse_args()
    path = (a.folder or ROOT/('build/quick' if a.quick else 'results/records'))/'audit.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    data, minutes = embedded(), MINUTES
    if a.quick: data, minutes = data.resize(14).subset(500, parts=('train', 'valid', 'test')), 0.5
    found = audit(data, recipes['fast'], minutes=minutes, delta=DELTA, path=path, tell=lambda what, a: print(f'{a.spent:.0f} s: {what}', flush=True))
    print(f'{path}: {found.spent:.0f} s')
    print(found)


if __name__ == '__main__': main()
