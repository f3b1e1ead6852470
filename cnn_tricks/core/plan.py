"""The plan of a run: what its tricks make of the recipe, the images at its size, its number of steps"""
import dataclasses
from dataclasses import dataclass, fields

from ..data.images import ImageData
from .fitting import random_kept
from .recipe import Recipe

__all__ = ['RunPlan', 'plan', 'budget_steps']


@dataclass(frozen=True, eq=False)
class RunPlan:
    "What a run will do, made once by `plan`"
    asked:Recipe # as it was given: files and results hold this one
    recipe:Recipe # with what its tricks change of the core values; its budget is in steps where they are known
    data:ImageData = None # at the recipe's size; None: the images are not known
    steps:int|None = None # optimiser steps; None: not known without images, or without timing a budget of seconds

    def with_steps(self,
        steps:int # optimiser steps, at least 1
    ): # -> RunPlan
        "The same plan for so many steps; `ValueError` where there is not one"
        return dataclasses.replace(self, recipe=self.recipe.replace(steps=steps), steps=steps)

    def with_data(self,
        data:ImageData # of any size
    ): # -> RunPlan
        "The same plan for these images: framed as a trick wants them, and resized where the recipe has a size"
        for t in self.asked.tricks: data = t.images(data)
        r, sized = self.recipe, data.resize(self.recipe.size) if self.recipe.size else data
        steps = budget_steps(r, data)
        return dataclasses.replace(self, recipe=r.replace(steps=steps) if steps else r, data=sized, steps=steps)


def plan(
    recipe:Recipe, # as a file holds it
    data:ImageData=None # what to train on; None: only the recipe is asked for
)->RunPlan:
    "Let each trick's `recipe` hook act in turn; two tricks that set the same field raise `ValueError`"
    who, r = {}, recipe
    for t in recipe.tricks:
        new = t.recipe(r)
        for f in (f.name for f in fields(Recipe) if getattr(new, f.name) != getattr(r, f.name)):
            if f in who: raise ValueError(f'tricks {who[f]!r} and {t.name!r} both set {f}: use one of them')
            who[f] = t.name
        r = new
    made = RunPlan(recipe, r, steps=r.steps)
    return made if data is None else made.with_data(data)


@random_kept() # fastai's loaders draw from Python's random state when they are made
def budget_steps(
    recipe:Recipe, # of a `RunPlan`
    data:ImageData # decides how many steps an epoch has
)->int|None: # at least 1; None for a budget in seconds, which has to be timed
    "The budget of a planned recipe in optimiser steps"
    if recipe.steps: return recipe.steps
    return max(1, round(recipe.epochs * len(data.loaders(recipe.batch_size).train))) if recipe.epochs else None
