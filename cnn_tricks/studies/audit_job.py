"""An audit at work: its clock, its file, its runs, and the images of each round"""
import time
from statistics import median

import numpy as np

from ..core.recipe import Recipe
from ..core.run_control import TrainingDiverged
from ..core.train import train
from ..measure.arms import Arm, Run
from ..measure.repeated_runs import run_once
from .audit_result import Audit, packed
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
        device=None # torch device
    ):
        self.audit, self.data, self.path, self.teller, self.device = audit, data, path, tell, device
        self.start, self.splits = time.monotonic() - audit.spent, None

    def spent(self): "Seconds so far"; return time.monotonic() - self.start
    def left(self): "Seconds that are left"; return 60*self.audit.asked['minutes'] - self.spent()
    @property
    def seed(self): "The first of the seeds"; return self.audit.asked['seed']
    @property
    def metric(self): "What is measured"; return self.audit.asked['metric']
    @property
    def most(self): "Seeds for each arm at most"; return self.audit.asked['rounds'] or 20

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

    def run(self, arm:Arm, seed:int): # -> `Run`
        "One run more of an arm, on the images of this seed's round"
        self.say(f'{arm.name}, seed {seed}')
        start, recipe = time.monotonic(), Recipe.from_dict(arm.recipe).replace(steps=self.steps(arm.name))
        run = run_once(recipe, self.splits.round(seed), seed, 'valid', self.device, self.metric)
        arm.runs.append(run)
        self.audit.walls[arm.name] = round(time.monotonic() - start, 4)
        self.save()
        return run

    def run_test(self, arm:Arm, seed:int):
        "One run of the last check, scored on the test images; which of them were right is kept"
        self.say(f'{arm.name}, seed {seed} (last check)')
        start, recipe, data = time.monotonic(), Recipe.from_dict(arm.recipe), self.splits.round(seed)
        try:
            r = train(recipe, data, seed, progress=False, device=self.device)
            right = (r.trained.predict(r.data.test.x).argmax(1) == r.data.test.y.cpu()).numpy()
            arm.runs.append(Run(seed, r.test(self.metric), r.score(self.metric), r.steps, r.seconds, chosen=r.chosen))
        except TrainingDiverged as e:
            right = np.zeros(len(data.test), bool)
            arm.runs.append(Run(seed, 0., 0., recipe.steps, diverged=str(e)))
        self.audit.right.setdefault(arm.name, []).append(packed(right))
        self.audit.walls[arm.name] = round(time.monotonic() - start, 4)
        self.save()

    def note_costs(self, arms): # arms that have just made a round, the base first
        "Cost ratios of this round, from the runs themselves: they lie next to each other in time"
        def cost(arm):
            run = arm.runs[-1]
            return run.seconds/run.steps if run.seconds and not run.diverged else None
        base = cost(arms[0])
        for arm in arms[1:]:
            if base and (own := cost(arm)): self.audit.costs.setdefault(arm.name, []).append(round(own/base, 4))
