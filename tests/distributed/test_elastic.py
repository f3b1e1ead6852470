"torchrun starts a training again by itself after a process was killed: one agent, two agents, two hosts."
import os, subprocess, sys
from contextlib import nullcontext

import pytest
import torch
from common import ROOT
from hosts import two_hosts

LONG = 900.  # seconds, for what takes a fraction of it: a busy machine is no fault
WORKER = ROOT/'scripts'/'clusters'/'training.py', '--steps', '12', '--worker'
KEPT = {'TORCH_DISABLE_SHARE_RDZV_TCP_STORE': '1'}  # else a restarted process may meet the address of a dead one


def agent(folder, *options, prefix=(), env=()):
    "torchrun, running; `folder` is where the training writes."
    env = {**os.environ, 'OMP_NUM_THREADS': '1', **KEPT, **dict(env)}
    if prefix: env.pop('PYTHONPATH', None)
    kill = () if folder.name == 'undisturbed' else ('--kill-at', '6')
    command = [*prefix, sys.executable, '-m', 'torch.distributed.run', '--max-restarts=2', *options, *WORKER, folder, *kill]
    return subprocess.Popen(list(map(str, command)), env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(*agents):
    try: said = [p.communicate(timeout=LONG) for p in agents]
    finally:
        for p in agents: p.kill()
    assert [p.returncode for p in agents] == [0]*len(agents), said


def weights(folder): return torch.load(folder/'weights.pt', weights_only=True)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('elastic')/'undisturbed'
    folder.mkdir()
    finish(agent(folder, '--standalone', '--nproc-per-node=2'))
    return weights(folder)


def same(folder, undisturbed):
    assert (folder/'killed').exists()
    found = weights(folder)
    assert found.keys() == undisturbed.keys()
    assert max((found[k].double() - v.double()).abs().max().item() for k, v in undisturbed.items()) <= 1e-6


def test_one_agent(tmp_path, undisturbed):
    finish(agent(tmp_path, '--standalone', '--nproc-per-node=2'))
    same(tmp_path, undisturbed)


@pytest.mark.clusters
@pytest.mark.parametrize('hosts', ['one', 'two'])
def test_two_agents(hosts, tmp_path, undisturbed):
    "On one host, and on two, which are network namespaces where the system allows them."
    port = 20000 + os.getpid() % 10000
    loopback = [([], {'darwin': 'lo0'}.get(sys.platform, 'lo'))]*2, '127.0.0.1'
    with nullcontext(loopback) if hosts == 'one' else two_hosts() as (places, address):
        agents = []
        for i, (prefix, interface) in enumerate(places):
            mine = address.rpartition('.')[0] + f'.{i + 1}' if prefix else address
            options = ['--nnodes=2', '--nproc-per-node=1', '--rdzv-backend=c10d', f'--rdzv-endpoint={address}:{port}',
                       f'--rdzv-id={hosts}', f'--rdzv-conf=is_host={str(i == 0).lower()}', f'--local-addr={mine}']
            agents.append(agent(tmp_path, *options, prefix=prefix, env={'GLOO_SOCKET_IFNAME': interface}))
        finish(*agents)
    same(tmp_path, undisturbed)
