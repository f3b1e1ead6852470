"""What a training step takes under each way for threads to wait for each other, on a quiet machine and on a busy one.

    python scripts/bench/waiting.py [--rounds 5] [--seconds 0.7] [--out results/bench_waiting.json]

Each setting gets a process of its own, since the OpenMP runtime reads its environment once. The processes train in
turns, with all others stopped, while none, one or two processes of this script keep the cores busy. Prints, for each
column, every setting's time as a ratio to the best there. Run it alone on the machine: it says how much of it other
programs used, and takes the median of the turns.
"""
import argparse, json, os, signal, statistics, subprocess, sys, time, warnings
from datetime import date
from pathlib import Path

import psutil

SETTINGS = {'2 threads, as it comes': {}, '2 threads, ACTIVE': dict(OMP_WAIT_POLICY='ACTIVE'),
            '2 threads, PASSIVE': dict(OMP_WAIT_POLICY='PASSIVE'),
            **{f'2 threads, spin count {n:,}': dict(GOMP_SPINCOUNT=str(n)) for n in (1000, 10_000, 30_000, 100_000)},
            '1 thread': dict(OMP_NUM_THREADS='1')}
RECIPES = 'baseline', 'fast'
UNSET = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS', 'OMP_DYNAMIC'


def worker():
    "Reads 'recipe seconds' from stdin, trains for so long, and answers with the mean seconds of a step"
    warnings.filterwarnings('ignore')
    import torch
    from fastai.callback.core import Callback
    from cnn_tricks.core.run_control import Interrupted
    from cnn_tricks.data.datasets import embedded
    from cnn_tricks.core.recipe import recipes
    from cnn_tricks.core.train import train

    class Deadline(Callback):
        "Ends the run after some seconds"
        order = 90
        def __init__(self, seconds): self.seconds = seconds
        def before_fit(self): self.end = time.monotonic() + self.seconds
        def after_batch(self):
            if time.monotonic() >= self.end: self.run_control.state.stop = True

    data = embedded().subset(2000)
    def turn(recipe, seconds):
        try: return train(recipes[recipe].replace(steps=100_000), data, progress=False, cbs=[Deadline(seconds)], device='cpu')
        except Interrupted as e: return e.result
    for name in RECIPES: turn(name, .5)  # the first steps set things up
    print(json.dumps(dict(threads=torch.get_num_threads(), torch=torch.__version__.split('+')[0])), flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        print(turn(name, float(seconds)).step_seconds, flush=True)


class Worker:
    "A process with its own environment, stopped unless it is its turn"
    def __init__(self, env):
        env = {k: v for k, v in os.environ.items() if k not in UNSET} | env
        self.p = subprocess.Popen([sys.executable, __file__, '--worker'], env=env, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ready(self):
        self.about = json.loads(self.p.stdout.readline())
        self.p.send_signal(signal.SIGSTOP)
        return self

    def turn(self, recipe, seconds):
        self.p.send_signal(signal.SIGCONT)
        self.p.stdin.write(f'{recipe} {seconds}\n')
        self.p.stdin.flush()
        took = float(self.p.stdout.readline())
        self.p.send_signal(signal.SIGSTOP)
        return took


class Spinner:
    "A process that keeps a core busy between `go` and `stop`"
    def __init__(self):
        self.p = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
        self.stop()
    def go(self): self.p.send_signal(signal.SIGCONT)
    def stop(self): self.p.send_signal(signal.SIGSTOP)


def busy_seconds():
    "Processor seconds that the whole machine has used so far"
    t = psutil.cpu_times()
    return sum(t) - t.idle - getattr(t, 'iowait', 0) - getattr(t, 'guest', 0) - getattr(t, 'guest_nice', 0)


def own_seconds(processes):
    "Processor seconds that these processes and this one have used so far"
    times = [psutil.Process(p.pid).cpu_times() for p in processes] + [psutil.Process().cpu_times()]
    return sum(t.user + t.system for t in times)


def column(recipe, busy): return f'{recipe}, ' + (f'{busy} busy process{"es"*(busy > 1)}' if busy else 'quiet')


def measure(workers, spinners, busy_processes, rounds, seconds):
    "{column: {setting: [seconds of a step in each round]}}, and the cores that other programs used meanwhile"
    took = {column(r, b): {name: [] for name in workers} for b in busy_processes for r in RECIPES}
    everyone = [w.p for w in workers.values()] + [s.p for s in spinners]
    start, used, own = time.monotonic(), busy_seconds(), own_seconds(everyone)
    for k in range(rounds):
        for busy in busy_processes:
            for s in spinners[:busy]: s.go()
            names = list(workers)[k % len(workers):] + list(workers)[:k % len(workers)]
            for recipe in RECIPES:
                for name in names: took[column(recipe, busy)][name].append(workers[name].turn(recipe, seconds))
            for s in spinners: s.stop()
    others = (busy_seconds() - used - own_seconds(everyone) + own)/(time.monotonic() - start)
    return took, max(0., others)


def table(took):
    "Rows of a markdown table: the ratio to the best of the column, and the milliseconds"
    ms = {c: {name: 1000*statistics.median(t) for name, t in by.items()} for c, by in took.items()}
    yield f'| | {" | ".join(ms)} |'
    yield f'|---|{"---|"*len(ms)}'
    for name in next(iter(ms.values())):
        cells = (f'{by[name]/min(by.values()):.2f} ({by[name]:.1f} ms)' for by in ms.values())
        yield f'| {name} | {" | ".join(cells)} |'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--seconds', type=float, default=.7, help='of training, in each turn')
    p.add_argument('--busy', type=int, nargs='+', default=[0, 1, 2], help='how many processes keep cores busy meanwhile')
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parents[2]/'results'/'bench'/'waiting.json')
    p.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker: return worker()
    started = []
    try:
        workers = {name: Worker(env) for name, env in SETTINGS.items()}
        started += [w.p for w in workers.values()]
        for w in workers.values(): w.ready()
        spinners = [Spinner() for _ in range(max(a.busy))]
        started += [s.p for s in spinners]
        took, others = measure(workers, spinners, a.busy, a.rounds, a.seconds)
    finally:
        for p in started: p.kill()
        for p in started: p.wait()
    print(*table(took), sep='\n')
    print(f'\nother programs used {others:.2f} cores meanwhile')
    from cnn_tricks.base.machine import machine
    m, about = machine('cpu'), workers['1 thread'].about
    facts = dict(machine=m.name, cores=m.cores, torch=about['torch'], date=date.today().isoformat(), rounds=a.rounds,
                 seconds=a.seconds, others=round(others, 2), threads={n: w.about['threads'] for n, w in workers.items()})
    ms = {c: {n: [round(1000*t, 2) for t in ts] for n, ts in by.items()} for c, by in took.items()}
    a.out.write_text(json.dumps(dict(milliseconds=ms, settings=SETTINGS, **facts), indent=1) + '\n')


if __name__ == '__main__': main()
