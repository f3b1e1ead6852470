"""Make the recorded runs of lesson 41: one training, started by torchrun, Spark, Dask and Ray.

    python scripts/clusters/training.py [NAME ...]     # into results/bench/clusters.json; NAME: torchrun, spark, dask, ray
    python scripts/clusters/training.py ray --quick    # fewer steps, fewer ways, into build/quick/

Each system trains once undisturbed and once with a process that is killed; both are compared with torchrun's weights.
Every run is written as soon as it is done, beside what the file has of the others. Spark needs Java and `pyspark`, the
others `distributed` and `ray[train]`: an environment of their own will do.
"""
import argparse, json, os, platform, shutil, subprocess, sys, tempfile, time, warnings
from contextlib import nullcontext
from datetime import date
from importlib.metadata import version
from pathlib import Path

from servers import WAIT, dask_cluster, ray_cluster, spark_daemons, spark_session

warnings.filterwarnings('ignore')

import torch

from cnn_tricks.base.files import atomic_write
from cnn_tricks.base.machine import machine
from cnn_tricks.distributed.launchers import on_dask, on_ray, on_spark
from cnn_tricks.distributed.process_group import process_group

ROOT = Path(__file__).resolve().parents[2]


def training(folder, steps, kill_at=0):
    "What each process runs: it needs nothing of this script, so that a cluster can send it to its workers."
    def fit():
        import os, signal, time
        from pathlib import Path

        import torch
        from fastai.callback.core import Callback

        from cnn_tricks.core.recipe import Recipe
        from cnn_tricks.data.datasets import embedded
        from cnn_tricks.distributed.process_group import world
        from cnn_tricks.distributed.train_together import train_together
        out, rank = Path(folder), world()[0]

        class Killed(Callback):
            "The second process dies once, as soon as there is something to go on from"
            def after_batch(self):
                here = self.training and kill_at and rank == 1 and self.run_control.state.step >= kill_at
                if not here or (out/'killed').exists() or not (out/'checkpoint.pt').exists(): return
                (out/'killed').touch()
                os.kill(os.getpid(), signal.SIGKILL)
        recipe = Recipe(network='resnet', network_args={'width': 8}, steps=steps, batch_size=64, optimizer='sgd', lr=0.05)
        start = time.perf_counter()
        data = embedded().subset(2000).subset(500, parts=('valid', 'test'))
        result = train_together(recipe, data, 1, out=out, resume=True, checkpoint_every=0. if kill_at else 20.,
                                progress=False, device='cpu', cbs=[Killed()])
        if rank == 0: torch.save(result.trained.model.state_dict(), out/'weights.pt')
        return dict(steps=result.steps, seconds=time.perf_counter() - start)
    return fit


def difference(folder, reference):
    "Largest difference of any weight or statistic to those of `reference`."
    a, b = (torch.load(f/'weights.pt', weights_only=True) for f in (folder, reference))
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


def timed(run):
    start = time.perf_counter()
    said = run()
    return said, round(time.perf_counter() - start, 1)


class Work:
    "Where runs write, how long they are, and what they are compared with."

    def __init__(self, folder, steps):
        self.folder, self.steps, self.reference = folder, steps, folder/'torchrun'

    def undisturbed(self, name, launch):
        "One training that `launch(fit, folder)` starts."
        folder = self.folder/name
        folder.mkdir()
        said, whole = timed(lambda: launch(training(folder, self.steps), folder))
        assert [r['steps'] for r in said] == [self.steps]*2, said
        return dict(whole=whole, training=round(max(r['seconds'] for r in said), 1), difference=difference(folder, self.reference))

    def killed(self, name, launch, mend=lambda: None):
        "The same with a process that is killed half-way; where the system gives up: `mend`, and the same call once more."
        folder, error = self.folder/f'{name}-killed', ''
        folder.mkdir()
        fit = training(folder, self.steps, self.steps//2)
        def twice():
            nonlocal error
            try: return launch(fit, folder)
            except Exception as e: error = f'{type(e).__name__}: {e}'.splitlines()[0].split(' (')[0][:160]
            mend()
            return launch(fit, folder)
        said, whole = timed(twice)
        assert (folder/'killed').exists() and [r['steps'] for r in said] == [self.steps]*2, said
        return dict(whole=whole, error=error, by_itself=not error, difference=difference(folder, self.reference))


# torchrun

def torchrun(work, restarts=0):
    "-> launcher: two processes of this machine"
    def launch(fit, folder, kill_at=0):
        env = os.environ | ({'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'} if restarts else {})
        command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2',
                   f'--max-restarts={restarts}', __file__, '--worker', str(folder), '--steps', str(work.steps)]
        if restarts: command += ['--kill-at', str(work.steps//2)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if done.returncode: raise RuntimeError(done.stderr[-2000:])
        return json.loads((folder/'said.json').read_text())
    return launch


def worker(folder, steps, kill_at):
    from cnn_tricks.distributed.process_group import gathered
    with process_group(WAIT, cpu=True) as (rank, _):
        said = gathered(training(folder, steps, kill_at)())
        if rank == 0: (Path(folder)/'said.json').write_text(json.dumps(said))


def of_torchrun(work, quick):
    found = dict(version=version('torch').split('+')[0])
    if not (work.reference/'weights.pt').exists(): reference(work)
    found['undisturbed'] = work.undisturbed('torchrun-again', torchrun(work))
    yield found
    found['killed'] = work.killed('torchrun', torchrun(work, restarts=2))
    yield found


def reference(work):
    work.reference.mkdir()
    torchrun(work)(None, work.reference)


# Spark

def of_spark(work, quick):
    ways = {'local': ('local[2]', True), 'standalone': (None, False), 'local-cluster': ('local-cluster[2,1,1024]', False)}
    if quick: del ways['local-cluster']
    found = dict(version=version('pyspark'), ways={})
    for name, (master, local) in ways.items():
        launch = lambda fit, folder: on_spark(fit, 2, local=local, seconds=WAIT)
        with tempfile.TemporaryDirectory() as d, (nullcontext(master) if master else spark_daemons(Path(d))) as address:
            begin = time.perf_counter()
            with spark_session(address):
                row = found['ways'][name] = dict(start=round(time.perf_counter() - begin, 1))
                row['undisturbed'] = work.undisturbed(f'spark-{name}', launch)
                yield found
                if name != 'local-cluster': row['killed'] = work.killed(f'spark-{name}', launch)
        yield found


# Dask

def of_dask(work, quick):
    begin = time.perf_counter()
    with dask_cluster() as client:
        launch = lambda fit, folder: on_dask(client, fit, 2, seconds=WAIT)
        found = dict(version=version('distributed'), start=round(time.perf_counter() - begin, 1))
        found['undisturbed'] = work.undisturbed('dask', launch)
        yield found
        found['killed'] = work.killed('dask', launch, lambda: start_anew(client))
        yield found


def start_anew(client, workers=2):
    "All of the workers: the one that still waits for the dead one, too."
    client.restart(timeout=WAIT)
    client.wait_for_workers(workers, timeout=WAIT)


# Ray


def of_ray(work, quick):
    begin = time.perf_counter()
    with ray_cluster():
        launch = lambda fit, folder, retries=0: on_ray(fit, folder/'ray', 2, retries=retries, seconds=WAIT)
        found = dict(version=version('ray'), start=round(time.perf_counter() - begin, 1))
        found['undisturbed'] = work.undisturbed('ray', launch)
        yield found
        found['killed'] = work.killed('ray', lambda fit, folder: launch(fit, folder, retries=1))
        yield found


SYSTEMS = dict(torchrun=of_torchrun, spark=of_spark, dask=of_dask, ray=of_ray)


def write(path, name, found, steps):
    "Put one system's figures beside those that the file has."
    there = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    there[name] = dict(found, date=date.today().isoformat(), machine=machine().name, cores=os.cpu_count(),
                       load=round(os.getloadavg()[0], 1), steps=steps,
                       torch=version('torch').split('+')[0], python=platform.python_version())
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as f: f.write(json.dumps(there, indent=1, sort_keys=True).encode() + b'\n')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f'any of {", ".join(SYSTEMS)}; none: all')
    p.add_argument('--quick', action='store_true', help='fewer steps and ways; writes elsewhere')
    p.add_argument('--folder', type=Path, help='where to write; default: results/bench/, with --quick build/quick/')
    p.add_argument('--worker', help=argparse.SUPPRESS)
    p.add_argument('--steps', type=int, help=argparse.SUPPRESS)
    p.add_argument('--kill-at', type=int, default=0, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.worker: return worker(a.worker, a.steps, a.kill_at)
    if unknown := set(a.names) - set(SYSTEMS): p.error(f'unknown: {", ".join(sorted(unknown))}')
    path = (a.folder or ROOT/('build/quick' if a.quick else 'results/bench'))/'clusters.json'
    work = Work(Path(tempfile.mkdtemp()), 12 if a.quick else 24)
    try:
        reference(work)
        for name in a.names or SYSTEMS:
            for found in SYSTEMS[name](work, a.quick):  # more of it each time
                write(path, name, found, work.steps)
                print(f'{path}: {name}: {json.dumps(found)}', flush=True)
    finally: shutil.rmtree(work.folder, ignore_errors=True)


if __name__ == '__main__': main()
