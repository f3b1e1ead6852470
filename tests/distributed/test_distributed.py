"Several processes train as one would, on one machine and on two hosts; whatever dies, an error says so and a run can go on."
import gc, math, os, re, signal, socket, subprocess, time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from common import BIN, run
from fastai.callback.core import Callback
from hosts import two_hosts
from torch import nn

from cnn_tricks.core import run_control as control
from cnn_tricks.cli.main import main
from cnn_tricks.core.run_control import Interrupted
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.distributed import MoreDevices
from cnn_tricks.nets.networks import networks
from cnn_tricks.distributed.process_group import from_first, gathered, mirrored, on_processes, process_group, world
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.distributed.ring_all_reduce import Link, fit_link, ring_all_reduce, step_seconds
from cnn_tricks.distributed.train_together import SharedMetric, train_together
from cnn_tricks.core.train import train


@networks.register('smooth_toy')
def smooth_toy(in_channels, n_classes, size):
    "Neither batch norm nor dropout, and no kinks: what differs is rounding alone."
    return nn.Sequential(nn.Conv2d(in_channels, 6, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6*64, n_classes))


LONG = 600.  # seconds, for what takes one or two: a busy machine is no fault
DATA = embedded().subset(264).subset(101, parts=('valid',))
PLAIN = Recipe(network='smooth_toy', steps=10, batch_size=33, optimizer='sgd', lr=0.05, schedule='one_cycle')
NORMED = Recipe(network='resnet', network_args=dict(width=4), steps=6, batch_size=32, optimizer='sgd', lr=0.05)


class At(Callback):
    "Does something on one process, after some step."
    order = 100
    def __init__(self, rank, step, do): self.rank, self.at, self.do = rank, step, do
    def after_batch(self):
        if self.training and world()[0] == self.rank and self.run_control.state.step == self.at: self.do(self)


def fit(recipe, data=DATA, **kwargs):
    "What a process hands back of its run: all that the test compares."
    r = train_together(recipe, data, 3, progress=False, **kwargs)
    state = {k: v.clone() for k, v in r.trained.model.state_dict().items()}
    return dict(losses=r.losses, lrs=r.lrs, history=[h | {'seconds': 0} for h in r.history], steps=r.steps, state=state,
                recipe=r.recipe.to_json())


def distance(a, b):
    "Relative norm of the difference of two states."
    a, b = (torch.cat([v.flatten().double() for k, v in s['state'].items() if v.is_floating_point()]) for s in (a, b))
    return ((a - b).norm()/b.norm()).item()


# the tools

def talk(folder):
    with mirrored(folder if world()[0] == 0 else None) as f:
        text = (Path(f)/'a'/'b.txt').read_text()
        copied = str(f) != str(folder)
    return world(), from_first(world()[0]*10 + 7), gathered(world()[0]**2), text, copied, torch.get_num_threads()


def test_processes_talk(tmp_path):
    (tmp_path/'a').mkdir()
    (tmp_path/'a'/'b.txt').write_text('here')
    before = signal.getsignal(signal.SIGINT), torch.get_num_threads()
    found = on_processes(talk, tmp_path, n=3)
    assert found == [((r, 3), 7, [0, 1, 4], 'here', r > 0, 1) for r in range(3)]
    assert before == (signal.getsignal(signal.SIGINT), torch.get_num_threads())
    assert world() == (0, 1) and from_first(5) == 5 and gathered(5) == [5] and 'WORLD_SIZE' not in os.environ


def end(how, rank):
    dist.all_reduce(torch.ones(1))  # all are there
    if how == 'sleep': dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
    if world()[0] == rank:
        if how == 'raise': raise KeyError('what was sought')
        if how == 'kill': os.kill(os.getpid(), signal.SIGKILL)
        if how == 'sleep': time.sleep(LONG)  # the launcher ends it
    if how == 'kill' and rank: # the other one goes without a word, too, once the launcher has seen that it lost one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True: signal.pause()
    dist.all_reduce(torch.ones(3))
    return 'done'


@pytest.mark.parametrize('how, rank, said', [
    ('raise', 1, "process 1: KeyError: 'what was sought'"), ('kill', 0, 'process 0 ended without a word: it was killed'),
    ('kill', 1, 'process 1 ended without a word: it was killed'),
    ('sleep', 1, 'process 0: ProcessLost: process 0 of 2 has lost another')])
def test_whatever_happens_one_error_says_so(how, rank, said):
    started = time.monotonic()
    with pytest.raises(RuntimeError) as e: on_processes(end, how, rank, seconds=LONG)
    known = str(e.value.__cause__)
    assert said in known and re.search(r'ended first: \d with exit code -?\d+', known)
    assert str(e.value).startswith(said) and time.monotonic() - started < LONG/2  # nobody waited for the time-out


def shared():
    return SharedMetric(SimpleNamespace(total=torch.tensor(3. + world()[0]), count=2, name='m')).value


def test_metrics_are_summed_where_the_group_can(monkeypatch):
    "gloo adds up on the processor alone, also where a Mac's GPU is the fastest device that torch sees."
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    assert on_processes(shared) == [1.75]*2


def test_what_an_earlier_group_left_behind_is_no_hindrance():
    "Its threads are not there after the fork: a child that tidied it up would wait for them for ever."
    class Node: pass
    def tidy(): return gc.collect() >= 0
    gc.disable()
    try:
        node = Node()
        node.me, node.store = node, dist.TCPStore('127.0.0.1', 0, 1, True)
        del node
        assert on_processes(tidy) == [True, True]
    finally: gc.enable()


def test_bad_calls(monkeypatch):
    with pytest.raises(ValueError, match='n=1: must be at least 2'): on_processes(world, n=1)
    monkeypatch.setenv('CNN_TRICKS_TIMEOUT', 'soon')
    with pytest.raises(ValueError, match="CNN_TRICKS_TIMEOUT='soon'"), process_group(): pass
    with pytest.raises(ValueError, match='seconds=0: must be greater than 0'), process_group(0): pass


def test_a_group_of_one():
    with process_group(LONG) as group: assert group == (0, 1) == world()


# the ring

def ring(shape):
    x = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)*10**world()[0]
    mine, theirs = ring_all_reduce(x), x.clone()
    dist.all_reduce(theirs)
    return torch.equal(mine, theirs), mine.shape == x.shape, x.flatten()[-1].item()


@pytest.mark.parametrize('n, shape', [(2, (7,)), (3, (4, 5)), (3, (2,))])
def test_ring(n, shape):
    last = math.prod(shape) - 1
    assert on_processes(ring, shape, n=n) == [(True, True, last*10**r) for r in range(n)]


@pytest.mark.parametrize('p', (2, 3, 8))
def test_link(p):
    "Every device sends 2(p-1) messages of a p-th: simulated, and by the formula."
    link, n = Link(1e-3, 1e6), 24_000
    sent = sum(n/p/1e6 + 1e-3 for _ in range(p - 1) for _ in ('sum', 'spread'))
    assert link.all_reduce(n, p) == pytest.approx(sent)
    assert link.all_reduce(n, p, messages=5) - link.all_reduce(n, p) == pytest.approx(2*(p - 1)*4e-3)
    sizes = np.array([4, 1e3, 1e5, 1e7])
    found = fit_link(sizes, [link.all_reduce(s, p) for s in sizes], p)
    assert (found.latency, found.bandwidth) == (pytest.approx(1e-3), pytest.approx(1e6))


def test_link_limits():
    fast = Link(0., 1e18)
    assert step_seconds(0.3, 1e6, 8, fast) == pytest.approx(0.3) == step_seconds(0.3, 1e6, 1, Link(1., 1.))
    slow = Link(1e-4, 1e8)
    times = [step_seconds(0.01, 1e6, p, slow, overlap=False) for p in (1, 2, 4, 8)]
    assert times == sorted(times) and step_seconds(0.01, 1e6, 8, slow, 4) < times[-1]
    assert step_seconds(0.03, 1e6, 2, Link(0., 1e8), 10) == pytest.approx(0.01 + 0.02 + 0.001)  # 0.01 s of talk, hidden but a tenth
    for bad in (dict(latency=-1.), dict(bandwidth=0.)):
        with pytest.raises(ValueError, match=next(iter(bad))): Link(**bad)
    with pytest.raises(ValueError, match='two or more'): fit_link([4], [1.])


# training

def test_two_processes_train_as_one():
    "With uneven shares (33 images), uneven validation (101) and a schedule: losses, weights and metrics agree."
    alone = fit(PLAIN)
    for n in (2, 3):
        both = on_processes(fit, PLAIN, n=n)
        for r in both:
            assert distance(r, alone) < 1e-5 and r['lrs'] == alone['lrs'] and r['steps'] == 10
            np.testing.assert_allclose(r['losses'], alone['losses'], rtol=1e-5)
            for a, b in zip(r['history'], alone['history'], strict=True):
                assert a.keys() == b.keys() and a['accuracy'] == pytest.approx(b['accuracy'], abs=1e-6)
                assert a['valid_loss'] == pytest.approx(b['valid_loss'], rel=1e-5)
        assert both[0]['history'] == both[1]['history'] and distance(both[1], both[0]) == 0


def test_batch_norm_by_device():
    "Two processes differ from one where there is batch norm, and equal one whose batch norm is told of the devices."
    both = on_processes(fit, NORMED)
    alone = fit(NORMED)
    split = fit(NORMED.replace(batch_size=16) + MoreDevices(devices=2, lr_rule='none', warmup=0.))
    assert distance(both[0], alone) > 1e-3 and distance(both[0], split) < 1e-5 and distance(both[1], both[0]) == 0
    assert both[0]['history'][-1]['accuracy'] == pytest.approx(split['history'][-1]['accuracy'], abs=1e-6)


def test_killed_and_resumed(tmp_path):
    "By two processes: bit for bit; by one: to the end. A process that comes back finds the first one's checkpoint."
    straight = on_processes(fit, NORMED)
    kill = At(1, 4, lambda cb: os.kill(os.getpid(), signal.SIGKILL))
    folders = tmp_path/'two', tmp_path/'one'
    for out in folders:
        with pytest.raises(RuntimeError, match='process 1 ended without a word'):
            on_processes(lambda: fit(NORMED, out=out if not world()[0] else None, checkpoint_every=0., cbs=[kill]))
    resumed = on_processes(lambda: fit(NORMED, out=folders[0] if not world()[0] else None, resume=True))
    assert distance(resumed[0], straight[0]) == 0 and resumed[0]['losses'] == straight[0]['losses']
    assert resumed[0]['history'] == straight[0]['history'] == resumed[1]['history']
    alone = train(NORMED, DATA, 3, out=folders[1], resume=True, progress=False)
    assert alone.steps == 6 and alone.losses[:3] == straight[0]['losses'][:3]


def stopped(out):
    wish = At(1, 3, lambda cb: setattr(cb.run_control.state, 'stop', True))
    try: fit(PLAIN, out=out, cbs=[wish])
    except Interrupted as e: return str(e), e.result.steps, e.result.recipe.to_json()


def test_all_stop_together(tmp_path):
    "One process is asked to stop: all do, at the same step, and the first one's checkpoint goes on."
    said = on_processes(stopped, tmp_path)
    steps = {s[1] for s in said}
    assert len(steps) == 1 and 3 <= steps.pop() <= 5 and 'resume=True' in said[0][0]
    assert train(PLAIN, DATA, 3, out=tmp_path, resume=True, progress=False).steps == 10


class Ticks:
    "A clock that goes on by so many seconds whenever somebody looks."
    def __init__(self, tick): self.tick, self.now = tick, 0.
    def perf_counter(self): self.now += self.tick; return self.now
    monotonic = time.monotonic


def by_ticks(recipe, **kwargs):
    control.time = Ticks(0.02*3**world()[0])  # in this process alone: the second one's goes three times as fast
    return fit(recipe, **kwargs)


def test_seconds_are_agreed_on(tmp_path):
    "A budget in seconds is the same number of steps everywhere; the checkpoint keeps the recipe as it was asked for."
    recipe = PLAIN.replace(seconds=0.5)
    both = on_processes(by_ticks, recipe)
    # ten steps are two epochs, at whose end and start the first process looks at its clock: two ticks
    assert both[0]['steps'] == both[1]['steps'] == 0.5*10/(2*0.02) and both[0]['recipe'] == recipe.to_json()
    with pytest.raises(RuntimeError):
        on_processes(lambda: by_ticks(recipe, out=tmp_path if not world()[0] else None, checkpoint_every=0.,
                                      cbs=[At(0, 5, lambda cb: os.kill(os.getpid(), signal.SIGKILL))]))
    assert train(recipe, DATA, 3, out=tmp_path, resume=True, progress=False).steps > 5


def test_refused():
    for recipe, data, said in ((PLAIN.replace(batch_size=1), DATA, 'batch_size=1: must be at least the number of processes, 2'),
                               (PLAIN.replace(lr=1e38), DATA, 'TrainingDiverged: the loss became')):
        with pytest.raises(RuntimeError, match=said): on_processes(fit, recipe, data)
    with pytest.raises(RuntimeError, match='process 1 has other images than process 0'):
        on_processes(lambda: fit(PLAIN, DATA if world()[0] else DATA.subset(100)))


# the trick

def test_more_devices():
    base = Recipe(batch_size=8, steps=8, lr=0.1, optimizer='sgd')
    for rule, lr in (('linear', 0.4), ('sqrt', 0.2), ('none', 0.1)):
        r = MoreDevices(4, rule).recipe(base)
        assert (r.batch_size, r.lr) == (32, pytest.approx(lr))
    got = train(base + MoreDevices(2, 'none', warmup=0.5), DATA, progress=False).lrs
    np.testing.assert_allclose(got, [0.05, 0.0625, 0.075, 0.0875, 0.1, 0.1, 0.1, 0.1])  # from the rate of one device
    for bad, said in ((dict(devices=1), 'devices=1'), (dict(lr_rule='cubic'), 'lr_rule'), (dict(warmup=2.), 'warmup=2')):
        with pytest.raises(ValueError, match=said): MoreDevices(**bad)


# the command

def launch(*options, port=0):
    return [BIN/'accelerate', 'launch', '--multi_gpu', '--num_processes', '2', '--main_process_port', str(port),
            '--mixed_precision', 'no', '--dynamo_backend', 'no', *options]


TRAIN = 'train', '--no-baseline', '--steps', '12', '--device', 'cpu', '--out', 'here'


def test_command_on_one_machine(tmp_path):
    out = run(*launch('--num_machines', '1', '-m', 'cnn_tricks'), *TRAIN, cwd=tmp_path)
    assert out.count('test accuracy') == 1 and out.count('here holds model.safetensors') == 1
    assert sorted(p.name for p in (tmp_path/'here').iterdir()) == ['metrics.json', 'model.safetensors', 'recipe.json', 'report.html']
    assert sorted(p.name for p in tmp_path.iterdir()) == ['here']


SABOTAGE = '''
import os, signal, sys
from cnn_tricks.core.run_control import RunControl
init, after = RunControl.__init__, RunControl.after_batch
def every_step(self, state, path=None, every=20., *args, **kwargs): init(self, state, path, 0., *args, **kwargs)
def die(self):
    after(self)
    if self.training and self.state.step == 9 and self.state.rank == VICTIM: os.kill(os.getpid(), signal.SIGKILL)
RunControl.__init__, RunControl.after_batch = every_step, die
from cnn_tricks.cli import train as runs
from cnn_tricks.cli.main import main
train_all = runs.train_all
def hurried(*args): # as if the launcher were quick to end the other one
    try: return train_all(*args)
    except RuntimeError:
        os.kill(os.getpid(), signal.SIGTERM)
        raise
runs.train_all = hurried
sys.exit(main(sys.argv[1:]))
'''


@pytest.mark.parametrize('victim', (0, 1))
def test_command_loses_a_worker(tmp_path, victim, monkeypatch):
    "One clear line from the other one, the launcher ends with an error, and the run goes on from its checkpoint."
    (tmp_path/'sabotage.py').write_text(SABOTAGE.replace('VICTIM', str(victim)))
    r = subprocess.run([*map(str, launch('--num_machines', '1', 'sabotage.py')), *TRAIN], cwd=tmp_path, timeout=LONG,
                       capture_output=True, text=True)
    lines = [l for l in r.stderr.splitlines() if 'error: ' in l]
    assert r.returncode == 1 and len(lines) == 1, r.stderr
    assert f'process {1 - victim} of 2 has lost another' in lines[0] and 'train --resume --out here' in lines[0]
    kept = torch.load(tmp_path/'here'/'checkpoint.pt', weights_only=True)
    assert kept['run']['step'] in (8, 9)
    if victim: return  # going on is the same for both
    monkeypatch.chdir(tmp_path)
    assert main(['train', '--resume', '--out', 'here']) == 0 and (tmp_path/'here'/'model.safetensors').exists()


def test_command_on_two_hosts(tmp_path):
    with socket.socket() as s:
        s.bind(('', 0))
        port = s.getsockname()[1]
    running = []
    with two_hosts() as (hosts, address):
        for i, (prefix, interface) in enumerate(hosts):
            (tmp_path/f'host{i}').mkdir()
            command = [*prefix, *launch('--num_machines', '2', '--machine_rank', i, '--main_process_ip', address,
                                        '-m', 'cnn_tricks', port=port), *TRAIN]
            env = {**os.environ, 'GLOO_SOCKET_IFNAME': interface}
            if prefix: env.pop('PYTHONPATH', None)  # a namespace has no way out anyway, and addresses of its own
            running.append(subprocess.Popen(list(map(str, command)), cwd=tmp_path/f'host{i}', env=env, text=True,
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        said = [p.communicate(timeout=LONG) for p in running]
    assert [p.returncode for p in running] == [0, 0], said
    assert said[0][0].count('test accuracy') == 1 and 'test accuracy' not in said[1][0]
    assert (tmp_path/'host0'/'here'/'model.safetensors').exists() and not list((tmp_path/'host1').iterdir())


def test_torch_xla_leaves_no_process_alone(monkeypatch):
    "With torch_xla installed, accelerate would give each process a group of its own."
    import accelerate
    class Alone:
        "What accelerate makes then"
        backend, num_processes, process_index, was_reset = 'xla', 1, 0, False
        def __init__(self, **kwargs): pass
        @classmethod
        def _reset_state(cls): cls.was_reset = True
    monkeypatch.setattr(accelerate, 'PartialState', Alone)
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.delenv('USE_TORCH_XLA', raising=False)
    with pytest.raises(RuntimeError, match='each of 2 processes alone: set USE_TORCH_XLA=false'):
        with process_group(cpu=True): pass
    assert Alone.was_reset and os.environ.pop('USE_TORCH_XLA') == 'false'  # accelerate's own way to leave it out
    monkeypatch.setenv('WORLD_SIZE', '1')
    with process_group(cpu=True) as group: assert group == (0, 1)
