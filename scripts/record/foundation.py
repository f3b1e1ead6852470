"""Make the recorded runs that lesson 03 and the card of `flip_shift` rest on.

    python scripts/record/foundation.py                          # all of them, into results/records/: about 12 minutes on 2 quiet cores
    python scripts/record/foundation.py aa_baseline flip_shift   # some of them
    python scripts/record/foundation.py --quick                  # small data, short runs, into build/quick/: to try the script

`aa_baseline`: the baseline recipe over many seeds, nothing else changed: what noise looks like.
`flip_shift`: the baseline with and without mirroring and shifting, for a short and for a longer run.
`fast_vs_baseline`: the two named recipes at equal seconds and at equal steps, on test images.

Seconds are part of what is recorded: let nothing else run beside it.
"""
import os, sys, warnings
from dataclasses import dataclass

os.environ.setdefault('OMP_NUM_THREADS', '2')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import compare, repeat
from cnn_tricks.core.recipe import recipes
from cnn_tricks.tricks.flip_shift import FlipShift
from recording import main

DELTA = 0.005  # half a point: declared before any run
BAR = sys.stdout.isatty()


@dataclass
class Size:
    "How much is run: all seeds, or a taste."
    aa_seeds: int = 24
    aa_epochs: float = 2
    seeds: int = 6
    short: float = 2
    longer: float = 5
    epochs: float = 5
    fast_seeds: int = 4
    images: int = 0  # 0: all


QUICK = Size(aa_seeds=4, aa_epochs=1, seeds=3, short=1, longer=2, epochs=2, fast_seeds=3, images=200)


def aa_baseline(data, size):
    return repeat(recipes['baseline'].replace(epochs=size.aa_epochs), data, range(size.aa_seeds), name='baseline', part='test',
                  progress=BAR)


def flip_shift(data, size):
    kept = dict(seeds=range(size.seeds), delta=DELTA, progress=BAR)
    return {f'{epochs:g} epochs': compare(recipes['baseline'], FlipShift(), data, budget={'epochs': epochs}, **kept)
            for epochs in (size.short, size.longer)}


def fast_vs_baseline(data, size):
    kept = dict(seeds=range(size.fast_seeds), delta=DELTA, part='test', budget={'epochs': size.epochs}, progress=BAR)
    return {equal: compare(recipes['baseline'], recipes['fast'], data, equal=equal, **kept) for equal in ('seconds', 'steps')}


RECORDS = dict(aa_baseline=aa_baseline, flip_shift=flip_shift, fast_vs_baseline=fast_vs_baseline)


def prepare(quick):
    size = QUICK if quick else Size()
    return embedded().subset(size.images, parts=('train', 'valid', 'test')) if size.images else embedded(), size


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
