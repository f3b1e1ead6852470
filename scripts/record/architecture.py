"""Make the recorded runs of lesson 26, on parts of Fashion-MNIST's embedded part.

    python scripts/record/architecture.py                       # all, into results/records/: about 11 minutes on one thread
    python scripts/record/architecture.py architecture_filters  # one of them
    python scripts/record/architecture.py --quick               # small and short, into build/quick/: to try the script

`architecture_shapes`: six residual networks with about the same multiply-adds, each at the best of three rates, against
the course's own shape: at equal steps, and three of them at equal seconds.
`architecture_filters`: the article's network with half of its filters, with all, and both with an L2 penalty; 1,000
images, so that there is something to overfit; and all against half at equal seconds.
`architecture_search`: eight random shapes and eight random recipes, each trained from three seeds: what a search sees,
how much of it is noise, and what the two winners are worth, alone and together, on new seeds and on test images.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.tricks.architecture import ScaleNetwork, match_macs
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import ledger, repeat
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.tools.successive_halving import sample
from recording import main

DELTA = 0.01  # one point: declared before any run
BAR = sys.stdout.isatty()
MACS = 890_000  # multiply-adds of one image that every shape is matched to
RATES = 0.006, 0.018, 0.054
SHAPES = dict(base=dict(), deep=dict(blocks=[3, 3, 3]), wide=dict(blocks=[0, 1, 0]), early=dict(blocks=[0, 1, 2]),
              late=dict(stem_stride=1), flat=dict(blocks=[3, 0, 0]))
L2 = 0.002  # Keras's l2(0.001): its penalty lacks the half
CHOICES = dict(lr=[3e-4, 1e-3, 3e-3, 1e-2, 3e-2], schedule=['fixed', 'cosine', 'one_cycle'],
               optimizer=['adam', 'adamw', 'sgd'], loss_args=[{}, {'label_smoothing': 0.1}])
LAYOUTS = dict(one=[0, 1, 2, 3], two=[0, 1, 2, 3], three=[1, 2, 3], stem_stride=[1, 2], grid=[1, 2])


def shapes(data, quick):
    start = recipes['fast'].replace(network='resnet', steps=20 if quick else 120)
    nets = {k: match_macs(start.replace(network_args=a), data, MACS) for k, a in SHAPES.items()}
    data = data.subset(200 if quick else 2000, parts=('test',))
    seeds, lrs = range(2 if quick else 5), RATES[:1] if quick else RATES
    base = nets.pop('base')
    steps = ledger(base, nets, data, seeds, delta=DELTA, lrs=lrs, part='test', progress=BAR)
    lr = {c.trick.name: c.trick.recipe['lr'] for c in steps.comparisons}
    best = base.replace(lr=steps.comparisons[0].base.recipe['lr'])
    few = {k: nets[k].replace(lr=lr[k]) for k in ('deep', 'wide', 'early')}
    seconds = ledger(best, few, data, seeds, delta=DELTA, equal='seconds', part='test', progress=BAR)
    return dict(steps=steps, seconds=seconds)


def filters(data, quick):
    data, seeds = data.subset(200 if quick else 1000), range(2 if quick else 5)
    half = Recipe(network='article_shaped', network_args=dict(widths=[16, 32, 32]), steps=20 if quick else 160)
    l2, more = dict(optimizer_args=dict(weight_decay=L2)), ScaleNetwork(width=2.)
    arms = {'more filters': half + more, 'L2': half.replace(**l2), 'both': half.replace(**l2) + more}
    steps = ledger(half, arms, data, seeds, delta=DELTA, part='test', progress=BAR)
    seconds = ledger(half, {'more filters': half + more}, data, seeds, delta=DELTA, equal='seconds', part='test',
                     progress=BAR)
    return dict(steps=steps, seconds=seconds)


def search(data, quick):
    data = data.subset(200 if quick else 2000, parts=('test',))
    start = Recipe(network='resnet', network_args=dict(width=9), steps=20 if quick else 80)  # adam at 0.001, fixed
    n, seeds, new = (3, (0, 1), range(10, 12)) if quick else (8, range(3), range(10, 15))
    def shape(one, two, three, **rest): return dict(blocks=[one, two, three], **rest)
    laid = [match_macs(start.replace(network_args=shape(**c)), data, MACS) for c in sample(LAYOUTS, n)]
    tuned = [start.replace(**c) for c in sample(CHOICES, n)]
    arms = {f'{kind} {i}': repeat(r, data, seeds, name=f'{kind} {i}', progress=BAR)
            for kind, rs in (('shape', laid), ('recipe', tuned)) for i, r in enumerate(rs)}
    first = lambda kind: max((a for k, a in arms.items() if k.startswith(kind)), key=lambda a: a.runs[0].valid)
    s, r = Recipe.from_dict(first('shape').recipe), Recipe.from_dict(first('recipe').recipe)
    todo = dict(shape=s, recipe=r, both=r.replace(network_args=s.network_args))
    return arms | dict(found=ledger(start, todo, data, new, delta=DELTA, equal='seconds', part='test', progress=BAR))


RECORDS = dict(architecture_shapes=shapes, architecture_filters=filters, architecture_search=search)


def prepare(quick):
    data = embedded().subset(3000).subset(1000, parts=('valid',))
    return data.subset(200, parts=('train', 'valid', 'test')) if quick else data, quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
