"""A bench on the workers of a Dask scheduler, one of which is killed at a random run, beside the serial one.

    python scripts/bench/cluster.py                        # clothes, flip_shift, 3 seeds, ten times, on two workers
    python scripts/bench/cluster.py --images 2000 --times 3
    python scripts/bench/cluster.py --on ray               # the same on a Ray cluster of two cores

A scheduler and its workers are started on this machine, and stopped at the end. Each time the record starts from the
rates that the serial one found, a worker is killed with SIGKILL while it works, after a random number of runs, and the
table of effects and every accuracy must be those of the serial run. Exits with 0 only if all were.
"""
import argparse, os, random, sys, tempfile, time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT/'tests') # schedulers for tests; and distributed.py of this folder is not Dask's package
os.environ.setdefault('OMP_NUM_THREADS', '1')

from clusters import dask_scheduler, dask_workers, killer, ray_cluster, ray_workers  # noqa: E402

from cnn_tricks.distributed.cluster import cluster  # noqa: E402
from cnn_tricks.measure.bench_driver import Driver  # noqa: E402
from cnn_tricks.measure.bench_matrix import record_table  # noqa: E402
from cnn_tricks.measure.bench_record import BenchRecord  # noqa: E402
from cnn_tricks.measure.benches import benches, clothes_images  # noqa: E402


class Few:
    "The clothes, or some of them; a function of nothing, as a bench wants it."
    def __init__(self, n): self.n = n
    def __call__(self):
        data = clothes_images()
        return data.subset(self.n) if self.n else data


def table(path) -> str:
    "Effects, intervals, words and every accuracy, as text."
    rec = BenchRecord.load(path)
    return str(record_table(rec).rows) + str([(r['arm'], r['epochs'], r['seed'], r['accuracy'], r['curve']) for r in rec.runs])


def serial(bench, path, a) -> int:
    "How many runs there are; the record of them all, made in this process."
    done = []
    driver = Driver(bench, path, ('flip_shift',), (a.epochs,), a.seeds, device='cpu', tell=lambda p: done.append(p.text))
    driver()
    return len(driver.record.runs)


def once(bench, path, first, where, a, rng, runs) -> float:
    "Seconds of one bench on the workers, with a kill; its record is left in `path`."
    first.tuning().save(path)
    start = time.monotonic()
    with cluster(f'{a.on}://{where}') as there:
        def victims(): return rng.sample(sorted(there.client.run(os.getpid).values() if a.on == 'dask' else ray_workers()), 1)
        after = rng.randint(1, runs - 1)
        with killer(after, victims) as tell:
            Driver(bench, path, ('flip_shift',), (a.epochs,), a.seeds, device='cpu', on=there, tell=tell)()
    return time.monotonic() - start


def main(argv) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--times', type=int, default=10)
    p.add_argument('--images', type=int, default=0, help='of the 14,000 to draw from (0: all)')
    p.add_argument('--epochs', type=float, default=1.)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--on', choices=('dask', 'ray'), default='dask')
    a = p.parse_args(argv)
    bench = replace(benches['clothes'], images=Few(a.images), valid=0.25, lengths={a.epochs: ('flip_shift',)}, middle=a.epochs)
    rng, same = random.Random(0), 0
    with tempfile.TemporaryDirectory(prefix='ct') as folder, ExitStack() as stack:
        folder = Path(folder)
        start = time.monotonic()
        runs = serial(bench, folder/'serial.json', a)
        print(f'serial, rates included: {runs} runs to compare, {time.monotonic() - start:.0f} s', flush=True)
        first, want = BenchRecord.load(folder/'serial.json'), table(folder/'serial.json')
        if a.on == 'dask':
            where = stack.enter_context(dask_scheduler(folder))
            stack.enter_context(dask_workers(folder, where))
        else: where = stack.enter_context(ray_cluster(folder))[1]
        for i in range(a.times):
            path = folder/f'{i}.json'
            seconds = once(bench, path, first, where, a, rng, runs)
            same += (ok := table(path) == want)
            print(f'{i + 1}: {"the same table" if ok else "ANOTHER TABLE"}, {seconds:.0f} s', flush=True)
    print(f'{same} of {a.times} the same as serial')
    return int(same < a.times)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
