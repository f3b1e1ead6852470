"""Two processes with one thread each, against one process with two threads and with one: the same two cores.

    python scripts/bench/distributed.py [--quick]     # into results/bench/distributed.json; with --quick into build/quick/

Everything runs in the same two processes, in turns: where one process works, the other waits without working. Let
nothing else run beside it.
"""
import argparse, json, os, subprocess, sys, warnings
from datetime import date
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
warnings.filterwarnings('ignore')

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from cnn_tricks.measure.cost import time_in_turns
from cnn_tricks.data.datasets import embedded
from cnn_tricks.base.machine import machine
from cnn_tricks.nets.networks import networks
from cnn_tricks.distributed.process_group import process_group, world
from cnn_tricks.core.recipe import recipes
from cnn_tricks.base.files import atomic_write
from cnn_tricks.distributed.ring_all_reduce import fit_link

ROOT = Path(__file__).resolve().parents[2]
SIZES = [4, 2**12, 2**16, 2**18, 2**20, 2**22, 2**24]


def step(net, opt, x, y):
    opt.zero_grad()
    F.cross_entropy(net(x), y).backward()
    opt.step()


def one_case(recipe, batch_size, data, rounds, images):
    "Images a second of one thread, two threads, two processes; the same calls in the same order on both processes."
    net = networks[recipe.network](1, 10, data.size, **recipe.network_args)
    if recipe.channels_last: net = net.to(memory_format=torch.channels_last)
    both, rank = DistributedDataParallel(net, gradient_as_bucket_view=True), world()[0]
    opt = torch.optim.SGD(net.parameters(), 1e-3)
    x, y = data.loaders(batch_size, channels_last=recipe.channels_last, device='cpu').train.one_batch()
    mine, steps = [t.tensor_split(2)[rank] for t in (x, y)], max(2, images//batch_size)

    def alone(threads):
        if rank == 0:
            torch.set_num_threads(threads)
            for _ in range(steps): step(net, opt, x, y)
            torch.set_num_threads(1)
        dist.barrier()

    def together():
        for _ in range(steps): step(both, opt, *mine)
        dist.barrier()
    t = time_in_turns({'two threads': lambda: alone(2), 'one thread': lambda: alone(1), 'two processes': together}, rounds)
    speed = {name: round(steps*batch_size/t.median(name)) for name in t.seconds}
    low, high = t.spread('two processes', 'two threads')
    return dict(network=recipe.network, batch_size=batch_size, one_thread=speed['one thread'], two_threads=speed['two threads'],
                two_processes=speed['two processes'], against_threads=round(t.ratio('two processes', 'two threads'), 2),
                spread=[round(low, 2), round(high, 2)], efficiency=round(speed['two processes']/speed['one thread']/2, 2))


def link(rounds):
    "What an all-reduce of each size takes, and the two numbers that explain it."
    tensors = {s: torch.ones(s//4) for s in SIZES}
    t = time_in_turns({s: lambda x=x: dist.all_reduce(x) for s, x in tensors.items()}, 4*rounds)
    seconds = [t.median(s) for s in SIZES]
    found = fit_link(SIZES, seconds)
    return dict(sizes=SIZES, seconds=seconds, latency=found.latency, bandwidth=found.bandwidth)


def worker(out, quick):
    torch.set_num_threads(1)
    rounds, images = (2, 128) if quick else (5, 2048)
    data = embedded()
    with process_group(120, cpu=True) as (rank, _):
        rows = [one_case(recipes[name], size, data, rounds, images) for name in ('baseline', 'fast') for size in (64, 512)]
        found = dict(rows=rows, link=link(rounds))
    if rank: return
    m = machine('cpu')
    about = dict(machine=m.name, cores=m.cores, torch=torch.__version__.split('+')[0], date=date.today().isoformat(), rounds=rounds)
    with atomic_write(out) as f: f.write(json.dumps(found | about, indent=1).encode() + b'\n')


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--quick', action='store_true')
    p.add_argument('--worker', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker: return worker(Path(a.worker), a.quick)
    out = ROOT/('build/quick' if a.quick else 'results')/'bench'/'distributed.json'
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1',
               '--main_process_port', '0', '--mixed_precision', 'no', '--dynamo_backend', 'no', __file__, '--worker', str(out)]
    subprocess.run(command + ['--quick']*a.quick, check=True, env={**os.environ, 'OMP_NUM_THREADS': '2'})
    print(out.read_text())


if __name__ == '__main__': main()
