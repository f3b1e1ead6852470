"""Make the recorded runs of lesson 25.

    python scripts/record/transfer.py                    # both: about 6 minutes on 1 thread
    python scripts/record/transfer.py transfer           # one of them
    python scripts/record/transfer.py --quick            # few steps and seeds, into build/quick/: to try the script

`transfer`: ten labels a class of four classes that the pretrained networks never saw; from scratch against fine_tune
from a network trained on labels of other classes, and from one trained on quarter turns; and fine_tune against the same
weights trained all at once (no frozen phase, one learning rate for all layers).
`transfer_labels`: from scratch against fine_tune with 5, 50 and 500 labels a class.

Each seed draws its own labelled images. Learning rates come from one grid for all arms; the number of steps is the one
that is best for training from scratch. Both are chosen on 200 validation images with draws that are not used again;
that many would be a luxury with 40 labels, and it is the same luxury for every arm. Accuracy is that on test images.
"""
import os, warnings
from dataclasses import dataclass
from statistics import mean

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported: batches this small gain nothing from two
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.measure.repeated_runs import repeat
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.data.datasets import embedded
from cnn_tricks.nets.pretrained import pretrained
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.tricks.transfer import TARGET, FineTune
from recording import main

DELTA = 0.02  # two points: declared before any run


@dataclass
class Size:
    "How much is run: all, or a taste."
    seeds: int = 5
    lrs: tuple = (0.001, 0.003, 0.01, 0.03)
    tuning: int = 2  # draws on which the transfer record tunes
    steps: tuple = (50, 100, 200)  # tried from scratch at ten labels
    labels: tuple = ((5, 10, 100), (50, 32, 200), (500, 32, 500))  # labels a class, batch size, steps


QUICK = Size(seeds=3, tuning=1, lrs=(0.01,), steps=(10,), labels=((5, 10, 10),))


def draws(labels, size, tuning=1):
    "The target data with so many labels a class, another draw for each seed; those after the seeds' are for tuning"
    data = embedded().take_classes(TARGET).subset(200, parts=('valid',))
    return [data.subset(len(TARGET)*labels, seed=s) for s in range(size.seeds + tuning)]


def scratch(batch_size, steps):
    net = pretrained['fashion']()
    return Recipe(network=net.network, network_args=net.network_args, optimizer='adamw', schedule='one_cycle',
                  batch_size=batch_size, steps=steps, channels_last=True)


def tune(recipes, data, size):
    "The best of these recipes at its best lr, by validation images and draws of their own; [lr, accuracy] of those tried"
    def score(r): return mean(repeat(r, data[s], (s,), progress=False).mean for s in range(size.seeds, len(data)))
    tried = [(score(r.replace(lr=lr)), r.replace(lr=lr)) for r in recipes for lr in size.lrs]
    best = max(tried, key=lambda t: t[0])[1]
    return best, [[r.lr, a] for a, r in tried if r.steps == best.steps]


def arm(name, tuned, data, size):
    "Runs on test images: seed s trains on draw s"
    recipe, tried = tuned
    runs = [repeat(recipe, data[s], (s,), name=name, part='test', progress=False) for s in range(size.seeds)]
    for r in runs[1:]: runs[0].runs += r.runs
    runs[0].lrs = tried
    return runs[0]


def transfer(size):
    data = draws(10, size, size.tuning)
    first = tune([scratch(10, n) for n in size.steps], data, size)
    base = arm('from scratch', first, data, size)
    tricks = {'fine_tune': FineTune(), 'fine_tune, rotation': FineTune('rotation'),
              'all at once': FineTune(freeze_epochs=0., lr_mult=1.)}
    arms = {n: arm(n, tune([scratch(10, first[0].steps) + t], data, size), data, size) for n, t in tricks.items()}
    return {'fine_tune': Comparison(base, arms['fine_tune'], DELTA),
            'rotation': Comparison(base, arms['fine_tune, rotation'], DELTA),
            'schedule': Comparison(arms['all at once'], arms['fine_tune'], DELTA)}


def transfer_labels(size):
    found = {}
    for labels, batch_size, steps in size.labels:
        data, base = draws(labels, size), scratch(batch_size, steps)
        arms = [arm(n, tune([r], data, size), data, size)
                for n, r in {'from scratch': base, 'fine_tune': base + FineTune()}.items()]
        found[f'{labels} labels'] = Comparison(*arms, DELTA)
    return found


RECORDS = dict(transfer=transfer, transfer_labels=transfer_labels)


if __name__ == '__main__': main(__file__, __doc__, RECORDS, lambda quick: (QUICK if quick else Size(),))
