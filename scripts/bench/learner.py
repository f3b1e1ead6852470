"""What fastai's Learner costs: training with our loaders against a plain PyTorch loop on the same tensors.

    python scripts/bench/learner.py [--pairs 5] [--batch 64 512] [--out results/bench/learner.json]

Both arms train the same network with the same torch optimiser on the same batches, in turns; the plain loop slices,
normalises and steps, and does nothing else. Reports the median of the pairs' ratios, in time and in processor time (the
steadier of the two where the machine does something else too), and checks that both arms end with the same weights.
"""
import argparse, json, os, statistics, time, warnings
from datetime import date
from functools import partial
from pathlib import Path

warnings.filterwarnings('ignore')
import fastai, torch
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch import nn

from cnn_tricks.data.datasets import embedded
from cnn_tricks.data.loaders import epoch_order
from cnn_tricks.nets.networks import networks

BARS = {64: 8, 512: 3}  # percent


def network(seed):
    torch.manual_seed(seed)
    return networks['article'](1, 10, (28, 28)).train()


def now(): return time.perf_counter(), time.process_time()


def plain(data, batch_size, seed, epochs):
    "Seconds of a loop as one would write it by hand, and the network"
    net = network(seed)
    x_all, y_all, mean, std = data.train.x, data.train.y, data.mean.view(-1, 1, 1), data.std.view(-1, 1, 1)
    opt, loss_func = torch.optim.Adam(net.parameters(), 1e-3), nn.CrossEntropyLoss()
    torch.manual_seed(seed)  # for dropout
    start = now()
    for epoch in range(epochs):
        order = epoch_order(len(y_all), seed, epoch)
        for idx in order.split(batch_size):
            if len(idx) < batch_size: break
            x, y = x_all[idx].float().div_(255).sub_(mean).div_(std), y_all[idx]
            loss = loss_func(net(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
    return [b - a for a, b in zip(start, now())], net


def learner(data, batch_size, seed, epochs):
    "Seconds of fastai's Learner without its progress bar, without validation, and the network"
    net, dls = network(seed), data.loaders(batch_size, seed=seed, device='cpu')
    dls.loaders[1] = dls.valid.new(data.valid[:0])
    learn = Learner(dls, net, loss_func=nn.CrossEntropyLoss(), opt_func=partial(OptimWrapper, opt=torch.optim.Adam), lr=1e-3)
    learn.create_opt()
    torch.manual_seed(seed)
    with learn.no_logging():
        start = now()
        learn.fit(epochs)
        return [b - a for a, b in zip(start, now())], net


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--pairs', type=int, default=5)
    p.add_argument('--epochs', type=int, default=1)
    p.add_argument('--batch', type=int, nargs='+', default=[64, 512])
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parents[2]/'results'/'bench'/'learner.json')
    a = p.parse_args()
    data, rows = embedded(), []
    for batch_size in a.batch:
        plain(data.subset(1024), batch_size, 0, 1), learner(data.subset(1024), batch_size, 0, 1)  # warm up
        ratios = []
        for i in range(a.pairs):
            arms = [plain, learner][::1 if i % 2 == 0 else -1]
            done = {arm: arm(data, batch_size, i, a.epochs) for arm in arms}
            ratios.append([a/b for a, b in zip(done[learner][0], done[plain][0])])
            same = all(torch.equal(v, w) for v, w in zip(done[plain][1].state_dict().values(),
                                                         done[learner][1].state_dict().values()))
            assert same, 'the two arms did not train the same network'
        slower, cpu = (100*(statistics.median(r) - 1) for r in zip(*ratios))
        rows.append(dict(batch_size=batch_size, percent_slower=round(slower, 1), percent_more_cpu=round(cpu, 1),
                         ratios=[round(r[0], 3) for r in ratios], bar=BARS.get(batch_size)))
        print(f'batch {batch_size}: Learner takes {slower:+.1f}% more time than the plain loop, {cpu:+.1f}% more processor time '
              f'(pairs: {", ".join(f"{100*(r[0] - 1):+.1f}" for r in ratios)}); bar: {BARS.get(batch_size)}%')
    about = dict(threads=torch.get_num_threads(), cores=len(os.sched_getaffinity(0)), torch=torch.__version__.split('+')[0],
                 fastai=fastai.__version__, date=date.today().isoformat(), pairs=a.pairs, epochs=a.epochs, images=len(data.train))
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text(json.dumps(dict(rows=rows, **about), indent=1) + '\n')


if __name__ == '__main__': main()
