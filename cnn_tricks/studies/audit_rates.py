"""Learning rates of an audit: tuned for the recipe and for tricks that move the best one, on images that judge nothing"""
from ..core.recipe import Recipe
from ..measure.repeated_runs import run_once

__all__ = ['FACTORS', 'SEEDS', 'RUNS', 'best_rate', 'tuned_rate']

FACTORS = 1/3, 1, 3 # times the recipe's own learning rate
SEEDS = 3 # runs at each rate
RUNS = len(FACTORS)*SEEDS # to tune one arm


def best_rate(
    tried:list # [rate, mean score] of each, None where a run diverged
)->float|None: # None where there is none
    "The rate with the best score; of several, the first"
    good = {lr: score for lr, score in tried if score is not None}
    return max(good, key=good.__getitem__) if good else None


def tuned_rate(
    recipe:Recipe, # it says how many steps
    data, # `ImageData` whose validation images decide
    seed:int, # the first of the seeds of these runs
    device=None, # torch device
    metric:str='accuracy', # what is best: a name in `metrics`
    tell=lambda lr: None, # is called with each rate before it is tried
    side_by_side=None # function of a list of (recipe, seed) -> `Run`s on these data; None: they are made here, in turns
)->tuple: # the best rate, None where runs diverged at each; [rate, mean score] of each, None where a run diverged
    "The rate with the best mean over the seeds; one at which any run diverges is out"
    tried: list = []
    rates = [recipe.lr*f for f in FACTORS]
    made = side_by_side([(recipe.replace(lr=r), seed + i) for r in rates for i in range(SEEDS)]) if side_by_side else []
    for lr in rates:
        tell(lr)
        runs, made = made[:SEEDS], made[SEEDS:]
        for i in range(len(runs), SEEDS):
            runs.append(run_once(recipe.replace(lr=lr), data, seed + i, 'valid', device, metric))
            if runs[-1].diverged: break
        tried.append([lr, None if any(r.diverged for r in runs) else sum(r.valid for r in runs)/SEEDS])
    return best_rate(tried), tried
