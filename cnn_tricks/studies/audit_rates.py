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
    tell=lambda lr: None # is called with each rate before it is tried
)->tuple: # the best rate, None where runs diverged at each; [rate, mean score] of each, None where a run diverged
    "The rate with the best mean over the seeds; one at which any run diverges is out"
    tried: list = []
    for factor in FACTORS:
        lr = recipe.lr*factor
        tell(lr)
        runs = []
        for i in range(SEEDS):
            runs.append(run_once(recipe.replace(lr=lr), data, seed + i, 'valid', device, metric))
            if runs[-1].diverged: break
        tried.append([lr, None if runs[-1].diverged else sum(r.valid for r in runs)/SEEDS])
    return best_rate(tried), tried
