"Spark, Dask and Ray train as torchrun does, go on after a killed process, and leave no server behind."
import json, os, sys, time, uuid

import psutil
import pytest
from common import ROOT, run

pytestmark = pytest.mark.clusters
SCRIPT = ROOT/'scripts'/'clusters'/'training.py'
PACKAGES = {'dask': 'distributed', 'spark': 'pyspark', 'ray': 'ray'}
SERVERS = {'dask': 'dask_cluster()', 'spark': 'spark_daemons(Path(sys.argv[1]))', 'ray': 'ray_cluster()'}
SYSTEMS = pytest.mark.parametrize('system', PACKAGES)


@pytest.fixture
def marked():
    "An environment whose processes can be told from all others; in the end none of them may be left."
    mark = f'CNN_TRICKS_MARK_{uuid.uuid4().hex}'
    yield {mark: '1'}
    until = time.monotonic() + 60
    while (left := list(with_mark(mark))) and time.monotonic() < until: time.sleep(0.5)
    for p in left: p.kill()
    assert not left


def with_mark(mark):
    for p in psutil.process_iter():
        try:
            if mark in p.environ() and p.status() != psutil.STATUS_ZOMBIE and p.pid != os.getpid(): yield p
        except psutil.Error: pass


def found(system, folder, env):
    if system in PACKAGES: pytest.importorskip(PACKAGES[system], reason=f'{PACKAGES[system]} is not installed')
    run(sys.executable, SCRIPT, system, '--quick', '--folder', folder, env=env)
    return json.loads((folder/'clusters.json').read_text())[system]


def check(row, by_itself, error=''):
    assert row['undisturbed']['difference'] <= 1e-6 and row['killed']['difference'] <= 1e-6
    assert row['killed']['by_itself'] == by_itself and error in row['killed']['error']
    assert 0 < row['undisturbed']['training'] < row['undisturbed']['whole']


def test_torchrun_goes_on_by_itself(tmp_path, marked):
    check(found('torchrun', tmp_path, marked), True)


def test_dask(tmp_path, marked): check(found('dask', tmp_path, marked), False, 'ProcessLost: process 0 of 2 has lost another')


def test_ray(tmp_path, marked): check(found('ray', tmp_path, marked), True)


def test_spark(tmp_path, marked):
    ways = found('spark', tmp_path, marked)['ways']
    assert set(ways) == {'local', 'standalone'}
    for row in ways.values(): check(row, False)


@pytest.mark.parametrize('system, package', [('dask', 'distributed'), ('spark', 'pyspark'), ('hadoop', 'pyspark')])
def test_images_are_those_of_one_process(system, package, tmp_path, marked):
    pytest.importorskip(package, reason=f'{package} is not installed')
    run(sys.executable, SCRIPT.with_name('images.py'), system, '--quick', '--folder', tmp_path, env=marked)
    row = json.loads((tmp_path/'cluster_images.json').read_text())[system]
    assert row['images'] == 200
    if system == 'hadoop': assert row['equal'] and row['maps'] == 4 and sum(n for _, n in row['classes'].values()) == 200
    else: assert row['different_pixels'] == 0 and row['shards'] > 1


@SYSTEMS
def test_servers_end_when_the_work_fails(system, tmp_path, marked):
    pytest.importorskip(PACKAGES[system], reason=f'{PACKAGES[system]} is not installed')
    code = f'import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\nfrom servers import *\n' \
           f'with {SERVERS[system]}: raise SystemExit(7)'
    run(sys.executable, '-c', code, tmp_path, env=marked, code=7)
