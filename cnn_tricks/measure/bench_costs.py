"""What a step of each arm of a bench costs: ratios to the base's, in interleaved turns of short runs"""
from dataclasses import replace
from statistics import median

from ..core.recipe import Recipe
from ..core.train import train
from .bench_record import BenchRecord
from .bench_run import one_thread
from .benches import Bench, draw

__all__ = ['measure_step_costs']


def measure_step_costs(
    bench:Bench,
    record:BenchRecord, # its recipes are timed; `costs` and `sessions` of it change
    device:str, # torch device
    session:int, # its number in the record
    rounds:int=5, # turns; in every second one the order is reversed
    steps:int=60, # of each short run, which passes through all phases of its recipe
    tell=lambda text: None # called before each turn
):
    """Time every arm against the base, turn by turn, so that a machine that slows down slows all of them; the first
    turn warms up. `ValueError` for a record without recipes"""
    if 'base' not in record.recipes: raise ValueError(f'the record of {bench.name} has no recipes yet: run some of it')
    data = draw(bench, bench.tuning_seeds[0])
    few = replace(data, valid=data.valid[:1])
    recipes = {n: Recipe.from_dict(r).replace(steps=steps) for n, r in record.recipes.items()}
    turns: list = []
    with one_thread(device):
        for k in range(rounds + 1):
            tell(f'costs: turn {k + 1} of {rounds + 1}, the first warms up')
            order = list(recipes)[::1 if k % 2 == 0 else -1]
            turns.append({n: train(recipes[n], few, k, progress=False, device=device).step_seconds for n in order})
    for n in recipes:
        ratios = [round(t[n]/t['base'], 4) for t in turns[1:]]
        record.costs[n] = dict(milliseconds=round(1000*median(t[n] for t in turns[1:]), 2), ratios=ratios,
                               session=session)
