"""Where a training step's time goes, for the networks of `baseline` and `fast` and a residual one.

    python scripts/bench/step_profile.py                            # into results/bench/step_profile.json: 5 minutes
    python scripts/bench/step_profile.py --recipe fast --batch 64   # one case; the others' figures are kept
    python scripts/bench/step_profile.py --clock cpu                # processor time: steadier beside other programs

A plain loop does what the recipe does and is timed part by part: slicing and augmenting a batch, forward, loss,
backward, the optimiser's update. The run itself is timed whole, in turns with it; `run` is what its Learner adds: each
step seeded, figures kept, callbacks asked. Calls are those of Python functions in a step, by cProfile, beside the plain
loop's. The peak is the best of multiplying large matrices; the last column is the share of it that the whole step
reaches, three times the forward pass's multiply-adds counted. `--operations` adds what PyTorch's profiler says of the
processor time of forward and backward.
"""
import argparse, cProfile, json, os, pstats, time, warnings
from datetime import date
from pathlib import Path
from statistics import median

warnings.filterwarnings('ignore')
import torch
from fastai.callback.core import Callback

from cnn_tricks.base.machine import finish_work, machine
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.core.run_control import RunControl, RunState
from cnn_tricks.core.train import fit_steps, learner, scheduler
from cnn_tricks.data.datasets import embedded
from cnn_tricks.nets.layer_costs import count_macs
from cnn_tricks.tricks.hardware import step_operations

ROOT = Path(__file__).resolve().parents[2]
CASES = {'baseline': recipes['baseline'], 'fast': recipes['fast'], 'resnet': Recipe(network='resnet', epochs=5)}
PARTS = 'batch', 'forward', 'loss', 'backward', 'update'
CLOCKS = dict(wall=time.perf_counter, cpu=time.process_time)
WARM = 2  # steps that are not timed


class Clock(Callback):
    "Seconds of the steps after the first `WARM`, by the clock given"
    order = 200
    def __init__(self, clock): self.clock = clock
    def after_batch(self):
        if self.learn.iter == WARM - 1: self.begin = self.clock()
    def after_train(self): self.seconds = self.clock() - self.begin


def best_speed(clock, seconds=1., size=1024):
    "Operations a second of the best of many products of large matrices, by the clock given"
    a, best, end = torch.ones(size, size), 0., time.perf_counter() + seconds
    while not best or time.perf_counter() < end:
        start = clock()
        for _ in range(4): a @ a
        best = max(best, 4*2*size**3/max(clock() - start, 1e-9))
    return best


def run(recipe, data, steps, clock):
    "Seconds of a step of a run as `train` makes it, without validation, by fastai's loop"
    r, watch = recipe.replace(steps=steps), Clock(clock)
    learn = learner(r, data, cbs=[RunControl(RunState(steps, 42), validate=False), watch])
    with learn.no_bar(), learn.no_logging(): fit_steps(learn, plan(r).recipe)
    return watch.seconds/(steps - WARM)


def plain(recipe, data, steps, clock):
    "Seconds of each part of a step of a plain loop with the recipe's loader, network, loss, optimiser and schedule"
    r = plan(recipe.replace(steps=steps)).recipe
    learn = learner(r, data)
    model, loss_func = learn.model.to(learn.dls.device).train(), learn.loss_func
    learn.create_opt()
    opt, rates, spent = learn.opt.opt, scheduler(r).scheds['lr'], dict.fromkeys(PARTS, 0.)
    batches = iter(learn.dls.train)
    for step in range(steps):
        if step == WARM: spent = dict.fromkeys(PARTS, 0.)
        last = clock()
        def mark(part):
            nonlocal last
            finish_work(learn.dls.device)
            now = clock()
            spent[part] += now - last
            last = now
        x, y = next(batches); mark('batch')
        pred = model(x); mark('forward')
        loss = loss_func(pred, y); mark('loss')
        loss.backward(); mark('backward')
        for group in opt.param_groups: group['lr'] = float(rates(step/steps))
        opt.step()
        opt.zero_grad(); mark('update')
    return {part: s/(steps - WARM) for part, s in spent.items()}


def calls(fn, recipe, data, clock):
    "Calls of Python functions in a step: what six further steps add"
    def total(steps):
        with cProfile.Profile() as p: fn(recipe, data, steps, clock)
        return pstats.Stats(p).total_calls
    return round((total(10) - total(4))/6)


def case(name, batch_size, data, turns, seconds, clock, operations):
    "A row: everything that is told of one recipe at one batch size"
    recipe = CASES[name].replace(batch_size=batch_size)
    once = sum(plain(recipe, data, WARM + 2, clock).values())
    steps = WARM + max(3, min(round(seconds/turns/2/once), len(data.train)//batch_size - WARM))
    rows = []
    for turn in range(turns):
        pair = {f: f(recipe, data, steps, clock) for f in (plain, run)[::1 if turn % 2 == 0 else -1]}
        rows.append(pair[plain] | {'whole': pair[run], 'over': pair[run]/sum(pair[plain].values())})
    ms = {part: 1000*median(r[part] for r in rows) for part in PARTS}
    whole, over = 1000*median(r['whole'] for r in rows), median(r['over'] for r in rows) - 1
    learn = learner(recipe.replace(steps=1), data)
    flops = 6*count_macs(learn.model, (data.channels, *data.size))*batch_size
    row = dict(recipe=name, batch_size=batch_size, steps=steps, ms=ms | {'run': over*sum(ms.values())}, step_ms=whole,
               over_plain=over, overs=[r['over'] - 1 for r in rows], flops=flops,
               calls=dict(run=calls(run, recipe, data, clock), plain=calls(plain, recipe, data, clock)))
    return row | ({'operations': step_operations(learn)} if operations else {})


def table(rows):
    "Lines of a markdown table"
    yield ('| recipe, batch | ms a step | ' + ' | '.join(PARTS) + ' | run | Learner over plain loop | '
           'calls (plain) | GFLOP/s | of the peak |')
    yield '|---|' + '---|'*(len(PARTS) + 6)
    for r in rows:
        ms = r['ms']
        cells = [f"{ms[p]:.2f} ({100*ms[p]/sum(ms.values()):.0f}%)" for p in (*PARTS, 'run')]
        speed = r['flops']/(sum(ms.values())/1000)
        yield (f"| {r['recipe']}, {r['batch_size']} | {sum(ms.values()):.2f} | " + ' | '.join(cells)
               + f" | {100*r['over_plain']:+.1f}% | {r['calls']['run']:,} ({r['calls']['plain']:,}) | {speed/1e9:.1f}"
               f" | {speed/r['peak']:.0%} |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--recipe', nargs='+', choices=CASES, default=list(CASES))
    p.add_argument('--batch', type=int, nargs='+', default=[64, 512])
    p.add_argument('--turns', type=int, default=5)
    p.add_argument('--seconds', type=float, default=25, help='of training to time, for each case')
    p.add_argument('--clock', choices=CLOCKS, default='wall')
    p.add_argument('--operations', action='store_true', help='and the shares of kinds of operations')
    p.add_argument('--out', type=Path, default=ROOT/'results'/'bench'/'step_profile.json')
    a = p.parse_args()
    data, peak = embedded(), best_speed(CLOCKS[a.clock])
    kept = json.loads(a.out.read_text(encoding='utf-8'))['rows'] if a.out.exists() else []
    rows = {(r['recipe'], r['batch_size']): r for r in kept}
    for name in a.recipe:
        for batch_size in a.batch:
            row = case(name, batch_size, data, a.turns, a.seconds, CLOCKS[a.clock], a.operations)
            rows[name, batch_size] = row | dict(clock=a.clock, peak=peak)
            if a.operations: print(f'{name}, {batch_size}:', ', '.join(f'{k} {v:.0%}' for k, v in row['operations'].items()))
    rows = [rows[k] for k in sorted(rows)]
    print(*table(rows), sep='\n')
    print(f'\npeak: {peak/1e9:.0f} GFLOP/s of float32 on {torch.get_num_threads()} thread(s); clock: {a.clock}')
    about = dict(date=date.today().isoformat(), machine=vars(machine()), torch=torch.__version__.split('+')[0],
                 threads=torch.get_num_threads(), cores=len(os.sched_getaffinity(0)), turns=a.turns)
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text(json.dumps(dict(rows=rows, **about), indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
