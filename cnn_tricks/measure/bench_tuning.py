"""Learning rate and decay of an arm: a grid over three seeds that is widened until the best value lies inside it"""
from collections.abc import Callable
from dataclasses import dataclass

from ..core.recipe import Recipe

__all__ = ['Grid', 'search_rates', 'rate_of', 'with_rate']

_factor, _most = 3, 9 # between neighbours; values of one grid


def with_rate(
    recipe:Recipe,
    field:str, # 'lr' or 'weight_decay'
    value:float # greater than 0
)->Recipe:
    "The recipe with another rate, or another decay of its optimiser"
    if field == 'lr': return recipe.replace(lr=value)
    return recipe.replace(optimizer_args=recipe.optimizer_args | {field: value})


def rate_of(
    recipe:Recipe,
    field:str # 'lr' or 'weight_decay'
)->float|None: # None: its optimiser has none
    "A recipe's learning rate, or the decay of its optimiser where it names one"
    return recipe.lr if field == 'lr' else recipe.optimizer_args.get(field)


@dataclass
class Grid:
    "Values of one field around a recipe's own, a factor of 3 apart"
    recipe: Recipe # at the value in the middle
    field: str # 'lr' or 'weight_decay'
    low: int = -1 # the smallest is the middle times 3**low
    high: int = 1 # the largest

    def __getitem__(self, k): # a power of the factor -> recipe
        value = float(f'{(rate_of(self.recipe, self.field) or 0)*_factor**k:.3g}')
        return with_rate(self.recipe, self.field, value) if k else self.recipe

    @property
    def recipes(self): "All of them, the smallest value first"; return [self[k] for k in range(self.low, self.high + 1)]

    def best(self,
        score:Callable # `Recipe` -> validation accuracy
    )->int: # a power of the factor
        "Where the score is highest; of equal ones the nearest to the middle"
        return max(range(self.low, self.high + 1), key=lambda k: (score(self[k]), -abs(k)))

    def widen(self,
        score:Callable # `Recipe` -> validation accuracy
    )->bool: # was the best at an edge?
        "One value more beyond the best, where it lies at an edge"
        k = self.best(score)
        if self.low < k < self.high or self.high - self.low + 1 >= _most: return False
        self.low, self.high = min(self.low, k - 1), max(self.high, k + 1)
        return True


def search_rates(
    recipe:Recipe, # where to start
    fields:tuple, # ('lr',) or ('lr', 'weight_decay')
    measure:Callable, # list of recipes -> None: sees to it that they can be scored
    score:Callable # `Recipe` -> mean validation accuracy over the tuning seeds
)->Recipe: # at the best values
    """The best rate, then the best decay, and again until neither moves; each grid is widened until the best lies
    inside. What was measured before is not measured again, so that a search that was stopped goes on"""
    for _ in range(3):
        before = recipe
        for field in fields:
            if not rate_of(recipe, field): continue
            grid = Grid(recipe, field)
            measure(grid.recipes)
            while grid.widen(score): measure(grid.recipes)
            recipe = grid[grid.best(score)]
        if recipe == before or len(fields) == 1: return recipe
    return recipe
