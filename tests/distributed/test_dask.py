"Runs on the workers of a Dask scheduler: equal to the serial ones, although a worker is killed; mistakes in a line."
import os, random, socket, sys, time

import psutil
import pytest
from bench_images import small
from clusters import content, dask_scheduler, dask_workers, killer

from cnn_tricks.cli.main import main
from cnn_tricks.distributed import cluster as module
from cnn_tricks.distributed.cluster import ClusterError, cluster
from cnn_tricks.distributed.dask_cluster import DaskCluster
from cnn_tricks.measure.bench_driver import run_bench
from cnn_tricks.measure.bench_record import BenchRecord
from cnn_tricks.measure.benches import benches

SHORT = dict(lengths={1: ('label_smoothing',)}, middle=1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('dask')


@pytest.fixture(scope='module')
def empty(folder):
    "HOST:PORT of a scheduler without workers."
    with dask_scheduler(folder) as where: yield where


@pytest.fixture(scope='module')
def where(folder, empty):
    "The same with two workers; it has none before the first test that asks for them."
    with dask_workers(folder, empty): yield empty


# mistakes

def test_a_scheduler_without_workers_is_told(empty):
    with pytest.raises(ClusterError, match=f'Dask scheduler at {empty} has no workers: start some, with dask worker'):
        DaskCluster(empty, seconds=0.5)


def test_what_is_no_scheduler_is_told():
    "Nobody there; somebody who says nothing."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        silent = f'127.0.0.1:{s.getsockname()[1]}'
        with pytest.raises(ClusterError, match=f'no Dask scheduler answers at {silent} within'): cluster(f'dask://{silent}')
        s.listen()
        with pytest.raises(ClusterError, match='no Dask scheduler answers at .* within 0.5 seconds'): DaskCluster(silent, seconds=0.5)


@pytest.mark.parametrize('text', ['dusk', 'dask:/x', 'dask://', 'dask://host:port', 'dask://:8786', 'ray://a/b:1', 'tcp://a:1'])
def test_what_is_no_address_is_told(text, capsys):
    assert main(['bench', 'clothes', '--on', text]) == 2
    assert f"--on {text!r}: must be dask, dask://HOST:PORT, ray or ray://HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize('kind, package', [('dask', 'distributed'), ('ray', 'ray')])
def test_an_extra_that_is_missing_is_named(kind, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f'cnn_tricks.distributed.{kind}_cluster', raising=False)
    assert main(['bench', 'clothes', '--on', kind]) == 1
    err = capsys.readouterr().err
    assert f"{kind} needs the package {package}: pip install 'cnn_tricks[{kind}]'" in err and err.count('\n') == 1


@pytest.mark.parametrize('option', ['--jobs=2', '--show', '--dry-run', '--costs', '--check'])
def test_what_is_about_this_machine_stays_here(option, capsys):
    assert main(['bench', 'clothes', '--on', 'dask', option]) == 2
    assert f'--on: not with {option.split("=")[0]}' in capsys.readouterr().err


# runs

def test_a_killed_worker_leaves_no_trace(where, tmp_path):
    "Tuning included; the seconds differ, nothing else."
    run_bench(small(**SHORT), tmp_path/'serial.json', device='cpu')
    def victims(): return random.Random(3).sample([*there.client.run(os.getpid).values()], 2)
    with cluster(f'dask://{where}') as there, killer(after=5, victims=victims) as tell:
        run_bench(small(**SHORT), tmp_path/'dask.json', device='cpu', on=there, tell=tell)
        assert there.workers() in (1, 2)
    assert content(tmp_path/'dask.json') == content(tmp_path/'serial.json')


def test_the_command_goes_on_where_it_was(where, tmp_path, monkeypatch, capsys):
    "A record of some runs; the images are the driver's, since the workers do not know this bench."
    monkeypatch.setattr('cnn_tricks.cli.bench.benches_path', lambda: tmp_path/'package')
    monkeypatch.setenv('DASK_SCHEDULER_ADDRESS', f'tcp://{where}')
    run_bench(small(**SHORT), tmp_path/'serial.json', device='cpu')
    rec = BenchRecord.load(tmp_path/'serial.json')
    rec.runs = rec.runs[1::2]
    rec.save(tmp_path/'half.json')
    benches.register('small', small(**SHORT))
    try: assert main(['bench', 'small', '--on', f'dask://{where}', '--device', 'cpu', '--out', str(tmp_path/'half.json')]) == 0
    finally: benches.remove('small')
    said = capsys.readouterr()
    assert f'Dask scheduler at {where}: 2 workers, a run each at a time' in ' '.join(said.out.split())
    assert '2 runs in' in said.out and ' left' in said.err
    assert content(tmp_path/'half.json') == content(tmp_path/'serial.json')


def test_workers_of_another_version_are_told(where, monkeypatch):
    monkeypatch.setattr(module, 'run_versions', lambda: dict(cnn_tricks='9.9', python='3', torch='0.1'))
    with pytest.raises(ClusterError, match=r'a worker on .* has cnn_tricks .*, here 9.9; .*torch .*, here 0.1: install'):
        cluster(f'dask://{where}')


def test_a_run_that_ends_every_worker_ends_the_bench(where):
    "After the scheduler's patience; nothing waits for ever."
    with cluster(f'dask://{where}') as there:
        with pytest.raises(ClusterError, match='4 workers of the Dask scheduler at .* have ended over the same run'):
            there.submit(os._exit, 3).result(300)
        with pytest.raises(ZeroDivisionError): there.submit(divmod, 1, 0).result(300) # a run's own error is its own


def test_a_scheduler_that_ends_is_told(tmp_path):
    with dask_scheduler(tmp_path) as where, dask_workers(tmp_path, where, n=1), cluster(f'dask://{where}') as there:
        assert there.submit(sum, [1, 2]).result(300) == 3
        waiting = there.submit(time.sleep, 600)
        next(p for p in psutil.Process().children() if str(tmp_path/'scheduler.json') in p.cmdline()).kill()
        with pytest.raises(ClusterError, match='the Dask scheduler at .* has ended, or cannot be reached any more'): waiting.result(120)
