"""An audit at work: its clock, its file, its runs, and the images of each round"""
import time
from collections.abc import Iterable, Iterator
from statistics import median

from ..core.recipe import Recipe
from ..distributed.cluster import Cluster
from ..measure.repeated_runs import run_once
from .audit_result import Audit
from .audit_runs import AuditOrder, audit_run_there, tested
from .audit_splits import Splits

__all__ = ['Job', 'FINAL_SEED', 'RATE_SEED']

FINAL_SEED, RATE_SEED = 2000, 3000 # added to the first seed: for the last check, for tuning


class Job:
    "An audit at work; each run is kept at once, so whatever stops it costs only the run in hand"
    def __init__(self,
        audit:Audit, # as it stands
        data, # `ImageData`
        path=None, # its file; None: it is kept nowhere
        tell=None, # function of (text, `Audit`), called with what is about to happen
        device=None, # torch device
        on:Cluster=None # makes the runs in place of this machine
    ):
        self.audit, self.data, self.path, self.teller, self.device, self.on = audit, data, path, tell, device, on
        self.start, self.splits, self.sent = time.monotonic() - audit.spent, None, on and on.send(data)

    def spent(self): "Seconds so far"; return time.monotonic() - self.start
    def left(self): "Seconds that are left"; return 60*self.audit.asked['minutes'] - self.spent()
    @property
    def seed(self): "The first of the seeds"; return self.audit.asked['seed']
    @property
    def metric(self): "What is measured"; return self.audit.asked['metric']
    @property
    def most(self): "Seeds for each arm at most"; return self.audit.asked['rounds'] or 20

    @property
    def at_a_time(self): "Runs"; return self.on.workers() if self.on else 1

    def say(self, what): # text
        "Tell whoever wants to know what is about to happen"
        if self.teller: self.teller(what, self.audit)

    def save(self):
        "Write the audit to its file, if it has one"
        self.audit.spent = round(self.spent(), 3)
        if self.path: self.audit.save(self.path)

    def cut(self, aside): # set images aside for tuning?
        "Decide on the splits: from the data and the first seed alone, so that an audit that goes on has the same"
        self.splits = Splits(self.data, aside, self.seed + RATE_SEED)

    def steps(self, name): # of an arm -> optimiser steps of its next run
        "At equal seconds the base's steps over the median of all cost ratios so far"
        a = self.audit
        ratios = a.costs.get(name) if a.asked['equal'] == 'seconds' else None
        return max(1, round(a.plan['steps']/median(ratios))) if ratios else a.plan['steps']

    def run(self, arms:Iterable, seed:int, part='valid')->Iterator: # yields (arm, `Run`); 'test': for the last check
        "One run more of each arm, on the images of this seed's round: in turns, or side by side on workers"
        arms, todo = list(arms), []
        for arm in arms:
            recipe = Recipe.from_dict(arm.recipe)
            steps = self.steps(arm.name) if part == 'valid' else recipe.steps
            todo.append((arm.name, recipe.replace(steps=steps), seed, part))
        for i, (run, right, seconds) in self._made(todo):
            arms[i].runs.append(run)
            if part == 'test': self.audit.right.setdefault(arms[i].name, []).append(right)
            self.audit.walls[arms[i].name] = round(seconds, 4)
            self.save()
            yield arms[i], run

    def _made(self, runs): # (name, recipe, seed, part) of each -> (its place, what `audit_run_there` gives) as they end
        said = [f'{name}, seed {seed}' + ' (last check)'*(part == 'test') for name, _, seed, part in runs]
        if self.on is None:
            for i, (_, recipe, seed, part) in enumerate(runs):
                self.say(said[i])
                start, data = time.monotonic(), self.splits.round(seed)
                if part == 'test': found = tested(recipe, data, seed, self.device, self.metric)
                else: found = run_once(recipe, data, seed, 'valid', self.device, self.metric), ''
                yield i, (*found, time.monotonic() - start)
        else:
            running = {self.on.submit(audit_run_there, self._order(*run[1:])): i for i, run in enumerate(runs)}
            for k, future in enumerate(self.on.ended(running)):
                self.say(f'{said[running[future]]}: {k + 1} of {len(runs)} side by side')
                yield running[future], future.result()

    def _order(self, recipe, seed, part):
        about = self.sent, self.splits.tuning is not None, self.seed + RATE_SEED
        return AuditOrder(*about, recipe.to_dict(), seed, part, str(self.device), self.metric)

    def tuning_runs(self, runs:list): # of (`Recipe`, seed) -> list of `Run`s
        "Runs on what is set aside, side by side on workers"
        found = {i: run for i, (run, *_) in self._made([('', r, seed, 'tuning') for r, seed in runs])}
        return [found[i] for i in range(len(runs))]

    def note_costs(self, arms): # arms that have just made a round, the base first
        """Cost ratios of this round, from the runs themselves: they lie next to each other in time. Those of workers
        do not, and are not noted: what was measured here in turns before the rounds holds"""
        if self.on: return
        def cost(arm):
            run = arm.runs[-1]
            return run.seconds/run.steps if run.seconds and not run.diverged else None
        base = cost(arms[0])
        for arm in arms[1:]:
            if base and (own := cost(arm)): self.audit.costs.setdefault(arm.name, []).append(round(own/base, 4))
