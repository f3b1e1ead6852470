"""What an audit does before its rounds: trials, the plan, twins between parts, learning rates, an arm for each trick"""
import gc, time
from dataclasses import asdict, replace

from ..core.recipe import Recipe
from ..core.train import steps_for, train
from ..measure.repeated_runs import new_arm, plan_steps
from ..tools.duplicates import find_duplicates
from .audit_heads import try_heads
from .audit_job import RATE_SEED, Job
from .audit_plan import make_plan, usable
from .audit_rates import best_rate, tuned_rate

__all__ = ['prepare', 'works']


def works(
    job:Job,
    recipe:Recipe # with its tricks
)->str: # '' or the reason why it cannot be trained
    "Train three steps of a recipe on the images of a round"
    few = job.splits.round(job.seed)
    try: train(recipe.replace(steps=3), replace(few, valid=few.valid[:1]), 0, progress=False, device=job.device)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as e: return ' '.join(str(e).split())[:200]
    return ''


def _trial(job, base): # -> steps of a whole run, its seconds, those of the shortest that makes sense, those on top
    data = job.splits.round(job.seed)
    steps, epoch = steps_for(base, data, device=job.device), len(data.loaders(base.batch_size).train)
    n = min(steps, 20)
    for _ in range(2): # the first one warms up
        start = time.monotonic()
        r = train(base.replace(steps=n), data, job.seed, progress=False, device=job.device)
    one, extra = r.step_seconds, time.monotonic() - start - r.seconds
    gc.collect()
    return steps, one*steps, one*min(steps, max(30, min(epoch, 200))), extra


def _some(found, refused): # are there any tricks?
    why = '; '.join(f'{n}: {w}' for n, w in refused.items()) or 'none was named'
    if not found: raise ValueError(f'tricks: none can be tried here: {why}')


def _choose(job, base, found, n): # -> the first `n` of the tricks that can be trained; the rest is told with the reason
    chosen, refused = [], job.audit.refused
    for t in found:
        if len(chosen) == n: refused[t.name] = 'no time: less promising than those tried (more minutes, or name it)'
        else:
            job.say(f'trying whether {t.name} works here')
            if why := works(job, base + t): refused[t.name] = why
            else: chosen.append(t)
    _some(chosen, refused)
    return chosen


def _find_twins(job): # images that stand in two parts: how many of the second
    job.say('looking for images that stand in two parts')
    data, n = job.data, sum(map(len, job.data.parts.values()))
    small = data.resize(tuple(min(s, 32) for s in data.size))
    near = n <= 5_000*job.audit.asked['minutes'] and min(small.size) >= 24 # smaller ones look alike too often
    found = find_duplicates(small, threshold=0.99 if near else 1., candidates=3)
    pairs = {(p.part, p.other) for p in found.pairs}
    job.audit.twins = {f'{part} in {other}': len({p.index for p in found.pairs if (p.part, p.other) == (part, other)})
                       for part, other in sorted(pairs)}


def _tune(job, arms): # (name, recipe, does it move the rate?) -> (name, recipe at its best rate), without what diverges
    a, kept, rate = job.audit, [], None
    for name, recipe, moves in arms:
        if moves and name not in a.tuned:
            def tell(lr, name=name): job.say(f'{name}: trying learning rate {lr:.3g}')
            runs = job.tuning_runs if job.on else None
            where = job.splits.tuning, job.seed + RATE_SEED, job.device, job.metric, tell, runs
            _, a.tuned[name] = tuned_rate(recipe, *where)
            job.save()
        best = best_rate(a.tuned.get(name, []))
        if name == 'base': rate = best
        if moves and best is None: a.refused[name] = 'diverged at each learning rate that was tried'
        else: kept.append((name, recipe.replace(lr=best or rate or recipe.lr)))
    if kept[0][0] != 'base': raise ValueError('base: the recipe diverges at each learning rate that was tried')
    return kept


def _hinted(heads, name): # did it help a head on frozen features?
    return any(r['what'] == name and r['low'] > 0 for r in heads['rows'])


def prepare(
    job:Job,
    base:Recipe, # what the tricks are added to
    names # names of tricks, or `Trick`s; None: all
):
    """Make the plan, and an arm for each trick that is tried

    `ValueError` where no trick can be tried, or the recipe diverges; `TooShort` where the minutes do not suffice."""
    a = job.audit
    found, a.refused = usable(base, job.data, names, job.device)
    _some(found, a.refused)
    job.cut(any(t.moves_lr for t in found))
    _find_twins(job)
    if confirm := any(t.name == 'fine_tune' for t in base.tricks):
        a.heads = a.heads or try_heads(base, job.data, 6*a.asked['minutes'], job.metric, job.seed, job.device, job.say)
        found = sorted(found, key=lambda t: not _hinted(a.heads, t.name)) # what helps a head is tried first
        job.save()
    steps, full, least, extra = _trial(job, base)
    moves = [t.moves_lr for t in found]
    p = make_plan(a.asked['minutes'], job.spent(), full, least, extra, moves, job.most, confirm,
                  job.at_a_time)
    chosen = _choose(job, base, found, p.tricks)
    job.cut(any(t.moves_lr for t in chosen))
    job.say('measuring what a step costs with each trick')
    todo, data = [base.replace(seconds=p.seconds), *(base + t for t in chosen)], job.splits.round(job.seed)
    counts, costs = plan_steps(todo, data, 'seconds', job.device)
    n = steps if p.seconds == full or counts[0] > steps else counts[0] # the recipe's own, however the clock went since
    last = max(n, min(steps, round(p.last/costs[0]))) # steps of the last check
    a.plan = asdict(replace(p, tricks=len(chosen), seconds=min(full, n*costs[0]), last=last*costs[0])) | dict(
        steps=n, last_steps=last, own_steps=steps, correction=job.splits.correction,
        aside=job.splits.tuning is not None)
    a.costs = {t.name: [round(c/costs[0], 4)] for t, c in zip(chosen, costs[1:])}
    arms = [('base', base, any(t.moves_lr for t in chosen)), *((t.name, base + t, t.moves_lr) for t in chosen)]
    arms = [(name, r.replace(steps=job.steps(name)), m) for name, r, m in arms]
    kept = _tune(job, arms)
    cost = dict(zip(('base', *(t.name for t in chosen)), costs))
    a.arms = [new_arm(name, r, data, 'valid', job.device, metric=job.metric, step_seconds=cost[name],
                      lrs=[t for t in a.tuned.get(name, []) if t[1] is not None]) for name, r in kept]
    for arm in a.arms: arm.data = arm.data | dict(fingerprint=job.data.fingerprint)
