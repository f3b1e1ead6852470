"Schedulers and their workers on this machine, for tests: each ends with its block, however that ends."
import json, os, socket, subprocess, sys, time
from contextlib import ExitStack, contextmanager

import psutil
from common import ROOT

from cnn_tricks.measure.bench_record import BenchRecord

PATIENCE = 300 # seconds until something has started; a busy machine is no fault


@contextmanager
def started(command, log, env=None):
    "A process; it and all that it has started have ended afterwards."
    env = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])} | (env or {})
    with open(log, 'w') as f: p = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=f, stderr=f, env=env)
    try: yield p
    finally: end(p)


def end(p):
    "End a process and its family, at once."
    try: family = [*psutil.Process(p.pid).children(recursive=True), psutil.Process(p.pid)]
    except psutil.NoSuchProcess: family = []
    for one in reversed(family): # the first ones would start the others anew
        try: one.kill()
        except psutil.NoSuchProcess: pass
    assert not psutil.wait_procs(family, timeout=60)[1]
    p.wait()


def wait_for(what, process, log):
    "What `what` returns, as soon as it is true."
    for _ in range(20*PATIENCE):
        if found := what(): return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@contextmanager
def dask_scheduler(folder):
    "HOST:PORT of a scheduler without workers."
    def told():
        try: return json.loads((folder/'scheduler.json').read_text())['address'].removeprefix('tcp://')
        except (OSError, ValueError): return None
    command = [sys.executable, '-m', 'distributed.cli.dask_scheduler', '--host', '127.0.0.1', '--port', '0',
               '--dashboard-address', '127.0.0.1:0', '--scheduler-file', folder/'scheduler.json']
    with started(command, folder/'scheduler.log') as p: yield wait_for(told, p, folder/'scheduler.log')


@contextmanager
def dask_workers(folder, where, n=2, threads=1):
    "So many workers, which are started anew when they are killed."
    command = [sys.executable, '-m', 'distributed.cli.dask_worker', f'tcp://{where}', '--nworkers', n, '--nthreads', threads,
               '--host', '127.0.0.1', '--dashboard-address', '127.0.0.1:0', '--local-directory', folder]
    log = folder/f'workers{len(list(folder.glob("*.log")))}.log'
    with started(command, log) as p:
        wait_for(lambda: log.read_text().count('Registered to:') == n, p, log)
        yield p


def free_ports(n):
    "So many; Ray is told all of them, since on a busy machine it does not wait long for those that it chooses."
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets: s.bind(('127.0.0.1', 0))
        return [s.getsockname()[1] for s in sockets]


@contextmanager
def ray_cluster(folder, cores=2):
    "(HOST:PORT of the cluster, HOST:PORT for clients)."
    gcs, client, *agents = free_ports(6)
    names = 'dashboard-agent-grpc-port', 'dashboard-agent-listen-port', 'metrics-export-port', 'runtime-env-agent-port'
    command = [sys.executable, '-m', 'ray.scripts.scripts', 'start', '--head', '--block', f'--num-cpus={cores}',
               '--include-dashboard=false', '--disable-usage-stats', f'--port={gcs}',
               f'--ray-client-server-port={client}', *(f'--{n}={p}' for n, p in zip(names, agents)), f'--temp-dir={folder}', f'--object-store-memory={10**8}']
    log = folder/'ray.log'
    for left in reversed(range(5)): # Ray itself waits 15 s for its agents, which is too little on a busy machine
        with started(command, log, dict(RAY_raylet_start_wait_time_s=str(PATIENCE))) as p:
            try: wait_for(lambda: 'Ray runtime started' in log.read_text(), p, log)
            except AssertionError:
                if left: continue
                raise
            yield f'127.0.0.1:{gcs}', f'127.0.0.1:{client}'
            return


def ray_workers():
    "Processes of Ray that are making a run of ours; where all have just ended one, those that wait for another."
    names = {p.pid: ' '.join(p.cmdline()) for p in psutil.Process().children(recursive=True)}
    return [i for i, n in names.items() if n.startswith('ray::run')] or [i for i, n in names.items() if n.startswith('ray::IDLE')]


@contextmanager
def killer(after, victims):
    "A function for a driver to tell its progress to: after so many runs it kills the first of `victims()`."
    done = []
    def tell(progress):
        done.append(progress.text)
        if len(done) != after: return
        pid = victims()[0]
        psutil.Process(pid).kill()
        done.append('killed')
    yield tell
    assert 'killed' in done, done


def content(path):
    "What a record says, without times. Its runs were made on machines that are alike, at whatever commit this clone was."
    rec = BenchRecord.load(path)
    for r in rec.runs: r['seconds'] = r['session'] = 0
    alike = {json.dumps([s['machine'], s['versions']]) for s in rec.sessions}
    rec.sessions = [json.loads(s) for s in sorted(alike)]
    return rec.text()
