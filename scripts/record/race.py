"""Make the recorded runs of lesson 60, on Fashion-MNIST's embedded part.

    python scripts/record/race.py                  # both, into results/records/: about 9 minutes on one thread
    python scripts/record/race.py race_ablation    # one of them; it comes first: the other takes its learning rates
    python scripts/record/race.py --quick          # small and short, into build/quick/: to try the script

`race_ablation`: the baseline, `fast` and the stack at equal seconds, with each change of the stack alone on the baseline
and the stack without each change: all arms over the same seeds in turns, each at the best of the same three rates.
`race_target`: the first three at several lengths, for the time until a stated accuracy is reached.

Seconds are part of what is recorded: let nothing else run beside it.
"""
import os, sys, warnings

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

from cnn_tricks.measure.repeated_runs import measure_arms
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.compare import Ledger, repeat
from cnn_tricks.tricks.race import CHANGES, add_one, leave_one_out
from cnn_tricks.core.recipe import recipes
from cnn_tricks.measure.records import recorded
from recording import ROOT, main

DELTA = 0.005  # half a point: declared before any run
BAR = sys.stdout.isatty()
RATES = 0.001, 0.003, 0.01  # every arm gets the best of these, chosen on another seed and on valid
SECONDS = 3.  # of training
LENGTHS = {'baseline': (9.,), 'fast': (0.5, 1., 2.), 'stack': (0.5, 1., 2.)}
RACERS = 'baseline', 'fast', 'stack'


def three(arms): return {'fast': Comparison(arms['baseline'], arms['fast'], DELTA, 'seconds'),
                         'stack': Comparison(arms['baseline'], arms['stack'], DELTA, 'seconds'),
                         'stack against fast': Comparison(arms['fast'], arms['stack'], DELTA, 'seconds')}


def race_ablation(data, quick):
    few, base = data.subset(min(2000, len(data.valid)), parts=('valid',)), recipes['baseline']
    named = {n: recipes[n] for n in RACERS} | add_one(base, CHANGES)
    named |= {f'stack without {n}': r for n, r in leave_one_out(base, CHANGES).items()}
    seconds, rates = (0.2, RATES[:2]) if quick else (SECONDS, RATES)
    done = measure_arms(named, few, range(3 if quick else 5), {'seconds': seconds}, 'seconds', rates, 'test', BAR)
    arms = dict(zip(named, done))
    first = Ledger([Comparison(arms['baseline'], arms[n], DELTA, 'seconds') for n in CHANGES])
    last = {f'{n}, last': Comparison(arms[f'stack without {n}'], arms['stack'], DELTA, 'seconds') for n in CHANGES}
    return three(arms) | {'first': first} | last


def tuned(quick):
    "The three recipes, each at the rate that it had in `race_ablation`"
    kept = recorded('race_ablation', ROOT/'build/quick' if quick else None)
    arms = kept['fast'].base, kept['fast'].trick, kept['stack'].trick
    return {n: recipes[n].replace(lr=a.recipe['lr']) for n, a in zip(RACERS, arms)}


def race_target(data, quick):
    return {f'{n}, {s:g} s': repeat(r.replace(seconds=s/10 if quick else s), data, range(3 if quick else 5), name=n,
                                    progress=BAR)
            for n, r in tuned(quick).items() for s in LENGTHS[n]}


RECORDS = dict(race_ablation=race_ablation, race_target=race_target)


def prepare(quick): return embedded().subset(300, parts=('train', 'valid', 'test')) if quick else embedded(), quick


if __name__ == '__main__': main(__file__, __doc__, RECORDS, prepare)
