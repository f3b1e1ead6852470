"Runs on the workers of a Ray cluster: equal to the serial ones, although a worker is killed; mistakes in a line."
import os, random, tempfile
from pathlib import Path

import pytest
from bench_images import small
from clusters import content, killer, ray_cluster, ray_workers

from cnn_tricks.cli.main import main
from cnn_tricks.distributed import cluster as module
from cnn_tricks.distributed.cluster import ClusterError, cluster
from cnn_tricks.measure.bench_driver import run_bench

ray = pytest.importorskip('ray', reason="Ray is not installed (pip install 'cnn_tricks[ray]')")
SHORT = dict(lengths={1: ('label_smoothing',)}, middle=1)


@pytest.fixture(scope='module')
def where():
    "(HOST:PORT of a cluster of two cores, HOST:PORT for clients); its folder has a short name, for the sake of sockets."
    with tempfile.TemporaryDirectory(prefix='r') as d, ray_cluster(Path(d)) as where: yield where


def test_a_killed_worker_leaves_no_trace(where, tmp_path, monkeypatch):
    "The cluster of this machine, and its clients' door; tuning included."
    monkeypatch.setenv('RAY_ADDRESS', where[0])
    run_bench(small(**SHORT), tmp_path/'serial.json', device='cpu')
    with cluster('ray') as there, killer(5, lambda: random.Random(3).sample(ray_workers(), 1)) as tell:
        assert there.workers() == 2
        run_bench(small(**SHORT), tmp_path/'ray.json', device='cpu', on=there, tell=tell)
    assert content(tmp_path/'ray.json') == content(tmp_path/'serial.json')


def test_clients_of_another_machine(where, monkeypatch):
    "By ray://HOST:PORT; what a run raises is its own, one that ends each of its workers ends the bench."
    with cluster(f'ray://{where[1]}') as there:
        assert there.workers() == 2 and there.submit(pow, 2, 5).result(300) == 32
        sent = there.send(list(range(9)))
        assert there.submit(sent).result(300) == list(range(9))
        with pytest.raises(ZeroDivisionError): there.submit(divmod, 1, 0).result(300)
        with pytest.raises(ClusterError, match='4 workers of the Ray cluster at .* have ended over the same run'):
            there.submit(os._exit, 3).result(300)
        there.wanted = there.wanted | dict(torch='0.1')
        with pytest.raises(ClusterError, match=r'a worker on .* has torch .*, here 0.1: install'): there.submit(pow, 2, 5).result(300)


def test_a_cluster_that_is_not_there_is_told(tmp_path, monkeypatch, capsys):
    "By its clients' door, by RAY_ADDRESS, and by the note that a killed one has left."
    monkeypatch.setattr(module, 'run_versions', dict)
    assert main(['bench', 'clothes', '--on', 'ray://127.0.0.1:9']) == 1
    assert 'no Ray cluster answers at 127.0.0.1:9 within 5 seconds' in capsys.readouterr().err
    for name, value in ('RAY_ADDRESS', '127.0.0.1:9'), ('RAY_TMPDIR', str(tmp_path)):
        monkeypatch.setenv(name, value)
        assert main(['bench', 'clothes', '--on', 'ray']) == 1
        assert 'no Ray cluster answers at 127.0.0.1:9 within 5 seconds' in capsys.readouterr().err
        monkeypatch.delenv('RAY_ADDRESS', raising=False)
        (tmp_path/'ray').mkdir(exist_ok=True)
        (tmp_path/'ray'/'ray_current_cluster').write_text('127.0.0.1:9') # of one that was killed
