"""Make the recorded run of lesson 12: the baseline with and without `channels_last`, at equal steps and at equal seconds.

    python scripts/record_hardware.py            # into results/: about 1.5 minutes on 2 quiet cores
    python scripts/record_hardware.py --quick    # small and short, into build/quick/: to try the script

At equal steps nothing should change but rounding; at equal seconds the faster arm takes more steps. Accuracy is that of
the test images. Seconds are part of what is recorded: let nothing else run beside it.
"""
import argparse, os, sys, time, warnings
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '2')  # before torch is imported
warnings.filterwarnings('ignore')

from cnn_tricks.datasets import embedded
from cnn_tricks.hardware import ChannelsLast
from cnn_tricks.measure import compare
from cnn_tricks.recipe import recipes
from cnn_tricks.records import record

ROOT = Path(__file__).resolve().parent.parent
DELTA = 0.005  # half a point: declared before any run
NAME = 'hardware_channels_last'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='small and short, for a try; writes elsewhere')
    p.add_argument('--folder', type=Path, help='where to write; default: results/, with --quick build/quick/')
    p.add_argument('--seeds', type=int, default=4)
    p.add_argument('--epochs', type=float, default=1)
    a = p.parse_args()
    data = embedded().subset(200, parts=('train', 'valid', 'test')) if a.quick else embedded()
    kept = dict(seeds=range(3 if a.quick else a.seeds), budget={'epochs': a.epochs}, delta=DELTA, part='test',
                progress=sys.stdout.isatty())
    start = time.perf_counter()
    result = {equal: compare(recipes['baseline'], ChannelsLast(), data, equal=equal, **kept) for equal in ('steps', 'seconds')}
    folder = a.folder or ROOT/('build/quick' if a.quick else 'results')
    path = record(NAME, result, folder, made_by='python scripts/record_hardware.py')
    print(f'{path}: {time.perf_counter() - start:.0f} s')
    for key, r in result.items(): print(f'  {key}: {r!r}')


if __name__ == '__main__': main()
