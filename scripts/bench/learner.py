"""What a Learner costs beside a plain PyTorch loop on the same tensors: fastai's, and the one that a run here has.

    python scripts/bench/learner.py                          # into results/bench/learner.json: about 8 minutes
    python scripts/bench/learner.py --turns 3 --steps 40     # fewer turns and steps

Three arms train the same network with the same torch optimiser on the same batches, in turns: a plain loop that slices,
normalises and steps, and does nothing else; fastai's `Learner`; and `train`'s, with all that a run adds (each step
seeded, losses and rates kept, the schedule asked). Reports medians of the turns' ratios, in time and in processor time
(the steadier of the two where the machine does something else too), and checks that all arms end with the same weights.
Bars for a run: at most 5% more time at batch 64, and 2% at 512.
"""
import argparse, json, os, statistics, time, warnings
from datetime import date
from functools import partial
from pathlib import Path

warnings.filterwarnings('ignore')
import fastai, torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch import nn

from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.run_control import RunControl, RunState
from cnn_tricks.core.train import fit_steps, learner
from cnn_tricks.data.datasets import embedded
from cnn_tricks.data.loaders import epoch_order, stream_seed

BARS = {64: 5, 512: 2}  # percent, for a run
WARM = 3  # steps before the clock starts


def now(): return time.perf_counter(), time.process_time()


class Clock(Callback):
    "Seconds and processor seconds between the end of step `WARM` and the end of the last one"
    order = 200
    def after_batch(self):
        if self.learn.iter == WARM - 1: self.begin = now()
    def after_train(self): self.took = [b - a for a, b in zip(self.begin, now())]


def base(batch_size, steps): return Recipe(optimizer='adam', batch_size=batch_size, steps=steps)


def plain(data, batch_size, seed, steps):
    "Seconds of a loop as one would write it by hand, and the network"
    net = learner(base(batch_size, steps), data, seed, 'cpu').model.train()
    x_all, y_all, mean, std = data.train.x, data.train.y, data.mean.view(-1, 1, 1), data.std.view(-1, 1, 1)
    opt, loss_func = torch.optim.Adam(net.parameters(), 1e-3), nn.CrossEntropyLoss()
    order = epoch_order(len(y_all), seed, 0)
    for step in range(steps):
        if step == WARM: begin = now()
        torch.manual_seed(stream_seed(seed, 1, step, 0, 1))  # for dropout, as in a run
        idx = order[step*batch_size:(step + 1)*batch_size]
        x, y = x_all[idx].float().div_(255).sub_(mean).div_(std), y_all[idx]
        loss_func(net(x), y).backward()
        opt.step()
        opt.zero_grad()
    return [b - a for a, b in zip(begin, now())], net


class Seeds(Callback):
    "Each step's dropout as in a run"
    def __init__(self, seed): self.seed = seed
    def before_batch(self): torch.manual_seed(stream_seed(self.seed, 1, self.learn.iter, 0, 1))


def fastais(data, batch_size, seed, steps):
    "Seconds of fastai's `Learner` without its progress bar, without validation, and the network"
    made, clock = learner(base(batch_size, steps), data, seed, 'cpu'), Clock()
    made.dls.loaders[1] = made.dls.valid.new(data.valid[:0])
    learn = Learner(made.dls, made.model, nn.CrossEntropyLoss(), partial(OptimWrapper, opt=torch.optim.Adam), 1e-3,
                    cbs=[clock, Seeds(seed)])
    learn.dls.train.limit = steps
    with learn.no_logging(), learn.no_bar(): learn.fit(1)
    return clock.took, learn.model


def run(data, batch_size, seed, steps):
    "Seconds of a run as `train` makes it, and the network"
    clock, recipe = Clock(), base(batch_size, steps)
    learn = learner(recipe, data, seed, 'cpu', [RunControl(RunState(steps, seed), validate=False), clock])
    with learn.no_logging(), learn.no_bar(): fit_steps(learn, recipe)
    return clock.took, learn.model


ARMS = {'plain loop': plain, "fastai's Learner": fastais, 'a run': run}


def case(data, batch_size, turns, steps):
    "All arms in turns; the order changes from turn to turn"
    for arm in ARMS.values(): arm(data, batch_size, 0, WARM + 2)  # warm up
    ratios = {name: [] for name in list(ARMS)[1:]}
    for turn in range(turns):
        done = {n: ARMS[n](data, batch_size, turn, steps) for n in list(ARMS)[::1 if turn % 2 == 0 else -1]}
        first = done['plain loop']
        for name in ratios:
            same = zip(first[1].state_dict().values(), done[name][1].state_dict().values())
            assert all(torch.equal(v, w) for v, w in same), f'{name} did not train the same network'
            ratios[name].append([a/b for a, b in zip(done[name][0], first[0])])
    rows = []
    for name, r in ratios.items():
        slower, cpu = (round(100*(statistics.median(v) - 1), 1) for v in zip(*r))
        rows.append(dict(batch_size=batch_size, arm=name, percent_slower=slower, percent_more_cpu=cpu,
                         ratios=[round(v[0], 3) for v in r], cpu_ratios=[round(v[1], 3) for v in r],
                         bar=BARS.get(batch_size) if name == 'a run' else None))
        print(f'batch {batch_size}: {name} takes {slower:+.1f}% more time than the plain loop, {cpu:+.1f}% more '
              f'processor time (turns: {", ".join(f"{100*(v[1] - 1):+.1f}" for v in r)})'
              + (f'; bar: {BARS[batch_size]}%' if rows[-1]['bar'] else ''), flush=True)
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--turns', type=int, default=7)
    p.add_argument('--steps', type=int, default=150, help='at most; an epoch has fewer at a large batch')
    p.add_argument('--batch', type=int, nargs='+', default=[64, 512])
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parents[2]/'results'/'bench'/'learner.json')
    a = p.parse_args()
    data = embedded()
    steps = {b: min(a.steps, len(data.train)//b) for b in a.batch}
    rows = [row for b in a.batch for row in case(data, b, a.turns, steps[b])]
    about = dict(threads=torch.get_num_threads(), cores=len(os.sched_getaffinity(0)), torch=torch.__version__.split('+')[0],
                 fastai=fastai.__version__, date=date.today().isoformat(), turns=a.turns, steps=steps)
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text(json.dumps(dict(rows=rows, **about), indent=1) + '\n')


if __name__ == '__main__': main()
