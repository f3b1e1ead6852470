"`audit`: tries tricks on one's own images within the given minutes"
import json, math, platform
from contextlib import nullcontext
from datetime import date
from importlib.metadata import version
from pathlib import Path

from ..base.machine import default_device
from ..core.metrics import metrics
from ..core.recipe import Recipe, recipes
from ..data.images import ImageData
from ..distributed.cluster import Cluster
from ..measure.arm_names import refusal
from ..measure.bench_run import one_thread
from ..measure.comparison import check_delta
from ..measure.records import code_hashes, modules_used
from ..measure.repeated_runs import check_runs, new_arm, plan_steps
from ..measure.test_reads import earlier_reads, log_read
from .audit_boundary import FIRST, analyses
from .audit_job import FINAL_SEED, Job
from .audit_plan import TooShort
from .audit_prepare import prepare, works
from .audit_result import Audit, Audited

__all__ = ['audit', 'Audit', 'Audited', 'TooShort']


# the rounds

def _next_round(job, open_): # seconds that one more seed takes
    walls, k = [job.audit.walls.get(n, 0) for n in ('base', *open_)], job.at_a_time
    return sum(walls)/len(walls)*math.ceil(len(walls)/k) if k > 1 else sum(walls)


def _check_time(job): # seconds that are kept for the last check; where nothing helps so far, for the least
    pairs = job.audit.plan['pairs'] if job.audit.analysed and job.audit.helping else FIRST
    longer = job.audit.plan['last_steps']/job.audit.plan['steps']
    return math.ceil(2/job.at_a_time)*pairs*job.audit.walls.get('base', 0)*longer


def _drop(job, name, why): # of a trick
    a = job.audit
    a.refused[name] = why
    a.arms = [arm for arm in a.arms if arm.name != name]


def _round(job): # one more seed for the base and for all that are open
    a, k = job.audit, job.audit.rounds
    todo = [arm for arm in a.arms if arm.name not in a.left and len(arm) == k]
    for arm, run in job.run(todo[::1 if k % 2 == 0 else -1], job.seed + k):
        if run.diverged and arm.name == 'base':
            raise ValueError(f'base: the recipe diverges, so nothing can be compared with it: {run.diverged}')
        if run.diverged: _drop(job, arm.name, f'diverges: {run.diverged}')
    job.note_costs([a.base, *(arm for arm in a.arms[1:] if len(arm) == k + 1)])
    a.rounds += 1
    job.save()


def _shed(job): # where the plan was much too hopeful: fewer tricks rather than fewer seeds
    a = job.audit
    while len(a.arms) > 2:
        seconds = 0.8*(a.plan['rounds'] - a.rounds)*_next_round(job, a.open)
        if seconds + _check_time(job) <= job.left(): return
        _drop(job, a.arms[-1].name, 'no time: the runs took longer than planned')


def _late(job, rounds): # is there no time for so many more?
    return rounds*_next_round(job, job.audit.open) + _check_time(job) > job.left()


def _search(job): # rounds, until all is answered or the time is up
    a = job.audit
    due = analyses(a.plan['rounds'], a.plan['most'])
    while not a.ended:
        n, done = a.rounds, [k for k, _ in a.analysed]
        if n in due and n not in done: a.interim_analysis(due[n])
        elif n >= FIRST and n < a.plan['rounds'] and n not in done and _late(job, 1): # a machine slower than planned
            a.interim_analysis(due[a.plan['rounds']])
            a.ended = True
        a.ended = (a.ended or not a.open or n == a.plan['most']
                   or n == a.plan['rounds'] and _late(job, a.plan['most'] - n))
        if a.ended: break
        if 0 < n < FIRST: _shed(job)
        job.say(f'round {n + 1}')
        _round(job)
    job.save()


# the last check

def _join(job): # -> the base with all that helps, the best first; what cannot be joined is told
    a = job.audit
    together = Recipe.from_dict(a.base.recipe)
    arms = {arm.name: Recipe.from_dict(arm.recipe) for arm in a.arms}
    for name in a.helping:
        t, first = arms[name].tricks[-1], together.tricks == arms['base'].tricks
        lr = arms[name].lr if t.moves_lr and first else together.lr # the rate of the best; others were tuned alone
        more = together.replace(lr=lr) + t
        why = refusal(more, job.data, job.device)
        if why := why or works(job, more): a.clash[name] = why
        else: together = more
    return together


def _begin_check(job, log): # two arms: the recipe as it was asked, and with what helps
    a, base = job.audit, Recipe.from_dict(job.audit.asked['base'])
    together, images = _join(job), job.splits.round(job.seed + FINAL_SEED)
    if together == Recipe.from_dict(a.base.recipe): return
    steps = [a.plan['last_steps']]*2
    if a.asked['equal'] == 'seconds':
        counts, _ = plan_steps([base.replace(seconds=a.plan['last']), together], images, 'seconds', job.device)
        steps[1] = max(1, round(counts[1]*steps[0]/counts[0]))
    if log:
        a.reads = earlier_reads(log, job.data)
        try: log_read(log, job.data, 'audit')
        except OSError as e: job.say(f'{log} cannot be written ({e.strerror}): this read is not logged')
    a.final = [new_arm(name, r.replace(steps=n), images, 'test', job.device, metric=job.metric)
               for name, r, n in zip(('base', 'with what helps'), (base, together), steps)]


def _last_check(job, log): # the base and all that helps, fresh seeds, test images
    a = job.audit
    if a.helping and not a.final: _begin_check(job, log)
    if not a.final: return
    def more(): return job.left() > 1.1*_next_round(job, ('with what helps',))
    while (k := min(map(len, a.final))) < FIRST or k < job.most and more():
        for _ in job.run((arm for arm in a.final if len(arm) == k), job.seed + FINAL_SEED + k, 'test'): pass


# the call

def _asked(base, names, data, minutes, rounds, delta, seed, metric, equal): # what decides an audit, as plain values
    check_delta(delta)
    _ = metrics[metric] # an unknown name raises
    if equal not in ('seconds', 'steps'): raise ValueError(f"equal={equal!r}: must be 'seconds' or 'steps'")
    if not 0 < minutes < float('inf'): raise ValueError(f'minutes={minutes}: must be a finite number greater than 0')
    if rounds is not None and (type(rounds) is not int or not FIRST <= rounds <= 20):
        raise ValueError(f'rounds={rounds!r}: must be a whole number from {FIRST} to 20, or None')
    check_runs(data, (seed,), 'test')
    about = dict(name=data.name, fingerprint=data.fingerprint, **{k: len(p) for k, p in data.parts.items()})
    plain = names and [t if isinstance(t, str) else dict(name=t.name, **t.params()) for t in names]
    asked = dict(base=base.to_dict(), tricks=plain, minutes=minutes, rounds=rounds, delta=delta, seed=seed, data=about,
                 metric=metric, equal=equal)
    return json.loads(json.dumps(asked))


def _again(path, asked): # -> the audit that `path` holds, or None where there is none
    if not path or not Path(path).exists(): return None
    try: a = Audit.load(path)
    except Exception as e:
        raise ValueError(f'{path} cannot be read as an audit ({type(e).__name__}): remove it to start anew') from None
    other = [k for k in asked if a.asked.get(k) != asked[k]]
    if 'data' in other: raise ValueError(f'cannot go on with {path}: the images are others')
    def short(v): return v if isinstance(v, (int, float, str, list)) else 'another'
    for k in other:
        raise ValueError(f'cannot go on with {path}: {k} was {short(a.asked.get(k))}, now {short(asked[k])}')
    return a


def _about(a): # when, with which versions, and hashes of the code that runs
    versions = {v: version(v).split('+')[0] for v in ('cnn_tricks', 'torch', 'fastai')}
    return dict(date=date.today().isoformat(), versions={'python': platform.python_version(), **versions},
                code=code_hashes(modules_used({arm.name: arm for arm in a.arms})))


def audit(
    data:ImageData, # images with labels; the test part is read by the last check alone
    base:Recipe=None, # what the tricks are added to; None: `recipes['fast']`
    tricks:list=None, # names of tricks, or `Trick`s; None: all that are registered and can be used here
    minutes:float=10., # for everything; the plan fits itself to it
    *,
    rounds:int=None, # seeds for each at most, from 4 to 20: ends the audit before its minutes are over; None: no limit
    delta:float=0.01, # the smallest difference that matters, in accuracy; to be declared before the runs
    seed:int=42, # the first of the seeds
    metric:str='accuracy', # what is compared: a name in `metrics`
    equal:str='seconds', # what a trick gets as much of as the recipe: 'seconds' of training, or 'steps'
    path:Path=None, # file to keep it in after every run; one that is there goes on
    log:Path=None, # file that counts how often the test images were read; None: nobody counts
    tell=None, # is called with what is about to happen (text) and the `Audit` so far
    device=None, # torch device; None picks the fastest kind here
    on:Cluster=None # makes the runs in place of this machine, on one thread each
)->Audit: # the comparisons, the verdicts and the recipe with what helped
    """Which tricks help these images on this machine? Compared at equal seconds of training, over seeds, within minutes

    Train and valid are joined, and split anew for each seed. On workers the runs of a round, of one rate's tuning and
    of a pair of the last check stand side by side; rounds, trials and the costs of steps, which are measured here on
    one thread, keep their turns. Raises `TooShort` where the minutes do not suffice for one
    trick with four seeds, and `ValueError` for values out of range, where no trick can be tried, where the recipe
    diverges, and where `path` holds another audit."""
    base, device = base or recipes['fast'], device or default_device()
    asked = _asked(base, tricks, data, minutes, rounds, delta, seed, metric, equal)
    job = Job(_again(path, asked) or Audit(asked), data, path, tell, device, on)
    a = job.audit
    with one_thread(device) if on else nullcontext():
        if a.arms: job.cut(a.plan['aside'])
        else:
            prepare(job, base, tricks)
            a.about = _about(a)
            job.save()
        job.say('the plan')
        _search(job)
        _last_check(job, log)
    a.finished = True
    job.save()
    job.say('done')
    return a
