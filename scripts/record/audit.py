"""Make the recorded audit of lesson 80: the embedded part of Fashion-MNIST at 14 pixels, a constant learning rate, four tricks.

    python scripts/record/audit.py            # into results/records/audit.json: some minutes on one thread
    python scripts/record/audit.py --quick    # fewer images, into build/quick/: to try the script

The file is an audit's own `ledger.json`: it goes on where it was stopped, and `cnn_tricks.studies.audit_result.Audit.load`
reads it. It ends after six rounds, long before its minutes are over on a quiet machine.
"""
import argparse, os, warnings
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.core.recipe import recipes
from cnn_tricks.data.datasets import embedded
from cnn_tricks.studies.audit import audit

ROOT = Path(__file__).resolve().parents[2]
MINUTES, ROUNDS, DELTA = 30, 6, 0.01  # declared before any run, like what follows
BASE = recipes['fast'].replace(schedule='fixed', steps=80)
TRICKS = 'ema', 'label_smoothing', 'cutmix', 'flip_shift'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='small and short, for a try; writes elsewhere')
    p.add_argument('--folder', type=Path, help='where to write; default: results/records/, with --quick build/quick/')
    a = p.parse_args()
    path = (a.folder or ROOT/('build/quick' if a.quick else 'results/records'))/'audit.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    data = embedded().resize(14)
    if a.quick: data = data.subset(500, parts=('train', 'valid', 'test'))
    found = audit(data, BASE, list(TRICKS), minutes=MINUTES, rounds=ROUNDS, delta=DELTA, path=path,
                  tell=lambda what, a: print(f'{a.spent:.0f} s: {what}', flush=True))
    print(f'{path}: {found.spent:.0f} s')
    print(found)


if __name__ == '__main__': main()
