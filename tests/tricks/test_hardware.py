"""Lesson 12: layouts change no value, measuring changes nothing, and `autotune` chooses by what it measured."""
import os, subprocess, sys, textwrap, time

import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import Adam as FastaiAdam
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cnn_tricks.tools.memory_allocator as allocator
import cnn_tricks.tools.autotune as tuning
from cnn_tricks.base.machine import finish_work
from cnn_tricks.tools.memory_allocator import memory_environment, memory_settings, set_memory
from cnn_tricks.tools.autotune import Look, Setting, autotune, candidates, current_setting, pick
from cnn_tricks.measure.cost import Timings
from cnn_tricks.core.fused_step import FuseOptimizer, fuse, is_fused, match_layout
from cnn_tricks.tricks.hardware import (FusedOptimizer, break_even, kind_of, lay_out, measured_peak,
                                 step_operations, step_phases, utilisation)
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.data.drawn_shapes import shapes
from cnn_tricks.core.training_step import TrainingStep, is_channels_last
from cnn_tricks.core.train import learner, train

DATA = shapes(160, size=(18, 23), seed=1)
SMALL = Recipe(network='resnet', network_args=dict(width=4, blocks=(1, 1)), batch_size=8, steps=3)
KEEP = pytest.mark.skipif('keep' not in memory_settings(), reason='the allocator is not glibc')


@pytest.fixture
def learn(): return learner(SMALL, DATA, 3, device='cpu')


def everything(learn):
    "What measuring must leave alone"
    dl = learn.dls.train
    return ([v.clone() for v in learn.model.state_dict().values()] + [torch.get_rng_state()],
            [v.stride() for v in learn.model.state_dict().values()], (dl.epoch, dl.skip, dl.limit, dl.channels_last),
            learn.model.training, learn.opt, torch.get_num_threads(), allocator.memory_setting())


def same(a, b): return all(torch.equal(v, w) for v, w in zip(a[0], b[0])) and a[1:] == b[1:]


# layout

def test_layout_changes_no_value(learn):
    x, before = torch.randn(5, 3, 18, 23), {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.model.eval()
    wanted = learn.model(x)
    lay_out(learn, True)
    assert is_channels_last(learn.model) and all(dl.channels_last for dl in learn.dls.loaders)
    xb = learn.dls.train.one_batch()[0]
    assert xb.is_contiguous(memory_format=torch.channels_last) and not xb.is_contiguous()
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    torch.testing.assert_close(learn.model(x), wanted, rtol=1e-4, atol=1e-5)
    lay_out(learn, False)
    assert not is_channels_last(learn.model) and not any(dl.channels_last for dl in learn.dls.loaders)
    assert learn.dls.train.one_batch()[0].is_contiguous() and torch.equal(learn.model(x), wanted)


def test_what_cannot_tell_a_layout():
    assert not is_channels_last(nn.Linear(3, 2)) and not is_channels_last(nn.Conv2d(1, 8, 3)) and not is_channels_last(nn.Conv2d(8, 8, 1))
    assert is_channels_last(nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last))


def test_the_trick_sets_the_field():
    assert plan(SMALL + tricks['channels_last']()).recipe.channels_last and not plan(SMALL).recipe.channels_last


# the step on copies

@pytest.mark.parametrize('layout', [None, False, True])
def test_step_equals_the_learner(learn, layout):
    "Same loss and gradients as the Learner's own step on the same batch"
    step = TrainingStep(learn, layout)
    loss = step.forward()
    loss.backward()
    learn.model.train()
    x, y = learn.dls.train.one_batch()
    wanted = nn.functional.cross_entropy(learn.model(x), y)
    wanted.backward()
    torch.testing.assert_close(loss.detach(), wanted.detach(), rtol=1e-5, atol=1e-6)
    for (name, p), q in zip(step.model.named_parameters(), learn.model.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert step.layout is bool(layout) and is_channels_last(step.model) is bool(layout) and step.batch_size == 8


@pytest.mark.parametrize('measure', [
    lambda l: step_phases(l, 2), lambda l: step_operations(l, 1), lambda l: autotune(l, 1., apply=False),
    lambda l: utilisation(l, 1., 1.)], ids=['phases', 'operations', 'autotune', 'utilisation'])
def test_measuring_changes_nothing(learn, measure):
    before = everything(learn)
    measure(learn)
    assert same(before, everything(learn))


def test_phases_and_operations(learn):
    phases, shares = step_phases(learn, 1), step_operations(learn, 1)
    assert list(phases) == ['batch', 'forward', 'backward', 'update'] and all(v > 0 for v in phases.values())
    assert abs(sum(shares.values()) - 1) < 1e-6 and {'convolution', 'batch norm', 'activation'} <= shares.keys()
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    with pytest.raises(ValueError, match='steps=0: must be at least 1'): step_phases(learn, 0)


@pytest.mark.parametrize('op,kind', [
    ('aten::mkldnn_convolution', 'convolution'), ('aten::convolution_backward', 'convolution'), ('aten::addmm', 'dense layers'),
    ('aten::native_batch_norm_backward', 'batch norm'), ('aten::max_pool2d_with_indices', 'pooling'),
    ('aten::threshold_backward', 'activation'), ('aten::copy_', 'copies and fills'), ('aten::addcdiv_', 'optimiser'),
    ('aten::nll_loss_forward', 'other')])
def test_kinds(op, kind): assert kind_of(op) == kind


def test_peak_and_utilisation(learn):
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter: learn.model(torch.zeros(1, 3, 18, 23))
    forward = counter.get_total_flops()
    assert utilisation(learn, 2., 1e9) == pytest.approx(3*forward*8/2/1e9)
    assert measured_peak(0.02, 64) > 1e6 and measured_peak(0.02, 64, torch.float64) > 1e6
    with pytest.raises(ValueError, match='seconds=0: must be greater than 0'): measured_peak(0)


def test_break_even():
    assert break_even(30, 0.2, 0.15) == 600 and break_even(0, 2, 1) == 0
    assert break_even(30, 0.2, 0.2) == break_even(1, 0.1, 0.2) == float('inf')
    n, setup, before, after = break_even(7.3, .031, .027), 7.3, .031, .027
    assert setup + n*after <= n*before and setup + (n - 1)*after > (n - 1)*before


# the allocator: in fresh processes, since it is set for a whole process

FAULTS = '''
import sys, torch, cnn_tricks.tools.memory_allocator as a
import cnn_tricks.tricks.hardware, cnn_tricks.tools.autotune
assert a.memory_setting() == 'default'
def faults(n=5, mib=48):
    counts = [a.page_faults()]
    for _ in range(n + 3):
        torch.empty(mib << 18).fill_(1)
        counts.append(a.page_faults())
    return sorted(y - x for x, y in zip(counts[3:], counts[4:]))[n // 2]   # the heap may grow once more
'''


def fresh(code, **env):
    done = subprocess.run([sys.executable, '-c', FAULTS + textwrap.dedent(code)], capture_output=True, text=True,
                          env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return [float(v) for v in done.stdout.split()]


@KEEP
def test_memory_is_kept_only_when_asked():
    default, kept, back, *huge = fresh('''
        print(faults())
        a.set_memory('keep'); assert a.memory_setting() == 'keep'; print(faults())
        a.set_memory('default'); assert a.memory_setting() == 'default'; print(faults(mib=256))   # larger than any hole
        if 'huge' in a.memory_settings(): a.set_memory('huge'); print(faults())''')
    assert default > 10 and back > default, 'importing left the allocator alone, and "default" takes a setting back'
    assert kept < default/10
    assert not huge or huge[0] < default/10


@KEEP
def test_commands_keep_memory_unless_the_environment_chose():
    code = """
        from cnn_tricks.cli import main
        seen = []
        main._commands['lessons'] = lambda args: seen.append(a.memory_setting())
        assert main.main(['lessons']) == 0
        print(int(seen == ['keep']), int(a.memory_setting() == 'default'))"""
    assert fresh(code) == [1, 1] and fresh(code, MALLOC_ARENA_MAX='2') == [0, 1]


@KEEP
def test_the_environment_does_the_same():
    default, = fresh('print(faults())')
    kept, = fresh('print(faults())', **memory_environment('keep'))
    assert kept < default/10 and memory_environment('default') == {}
    assert set(memory_environment('keep')) < set(memory_environment('huge'))


def test_memory_errors(monkeypatch):
    for f in set_memory, memory_environment:
        with pytest.raises(ValueError, match="memory 'lots': must be one of default, keep, huge"): f('lots')
    monkeypatch.setattr(allocator, '_glibc', lambda: None)
    assert memory_settings() == ('default',)
    with pytest.raises(ValueError, match="memory 'keep': not on this machine"): set_memory('keep')
    set_memory('default')


# choosing

A, B, C, D = Setting(), Setting(True), Setting(True, 1, 'keep'), Setting(True, fused=True)


@pytest.mark.parametrize('seconds,wanted', [
    ({A: [1, 1, 1, 1], B: [.5, .5, .5, .5]}, B),
    ({A: [1, 1, 1, 1], B: [1.1, 1.1, 1.1, 1.1]}, A),                        # slower
    ({A: [1, 1, 1, 1], B: [.98, .98, .98, .98]}, A),                        # within the margin
    ({A: [1, 1, 1, 1], B: [.5, .5, 1.2, 1.3]}, A),                          # not surely faster
    ({A: [1, 1, 1, 1], B: [.5, .5, .5, 1.3]}, B),                           # one busy moment of four
    ({A: [1, 1], B: [.1, .1]}, A),                                          # too few turns
    ({A: [1, 1, 1, 1], B: [.5, .5, .5, .5], D: [.495, .495, .495, .495]}, B),   # equally fast: the one that changes less
    ({A: [1, 1, 1, 1], B: [.5, .5, .5, .5], D: [.4, .4, .4, .4]}, D),
    ({A: [1, 1, 1, 1], B: [.5, .5, .5, .5], C: [.505, .505, .505, .505]}, C),   # a heap once kept flatters the others
    ({A: [1, 1, 1, 1], B: [.5, .5, .5, .5], C: [.55, .55, .55, .55]}, B),       # but not so much
    ({A: [1, 1, 1, 1], B: [.5, .5, .5, .5], C: [.4, .4, .4, .4]}, C),
    ({A: [1, 1, 1, 1], B: [.5], C: [.6, .6, .6, .6]}, C),                   # timed once only
])
def test_pick(seconds, wanted): assert pick(Timings(seconds)) == wanted


def test_pick_keeps_the_default_against_noise():
    "A thousand races of equals, 5% noise: another setting is chosen rarely, and never where it looked slower"
    g, chosen = torch.Generator().manual_seed(0), 0
    for _ in range(1000):
        t = Timings({s: (1 + .05*torch.randn(7, generator=g)).tolist() for s in (A, B)})
        chosen += pick(t) == B
        assert pick(t) == A or t.ratio(B, A) > 1.03
    assert chosen < 120


def test_candidates(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(tuning, 'memory_settings', lambda: ('default', 'keep', 'huge'))
    monkeypatch.setattr(tuning, 'machine', lambda device: type('M', (), {'cores': 4}))
    base = Setting(False, 4)
    assert candidates(base) == [base, Setting(True, 4)] == candidates(base, 'cuda', process=True)
    assert candidates(Setting(True, 4))[0] == Setting(True, 4)
    fused = [base, Setting(True, 4), Setting(False, 4, fused=True), Setting(True, 4, fused=True)]
    assert candidates(base, fused=True) == fused == candidates(base, 'cuda', fused=True)
    assert candidates(Setting(False, 4, fused=True), fused=True) == [fused[2], fused[3]], 'it is not taken back'
    some = candidates(base, process=True, memory=False)
    assert {s.memory for s in some} == {'default'} and {s.threads for s in some} == {1, 4}
    both = candidates(base, process=True, fused=True)
    assert len(set(both)) == len(both) == 9 and all(s.fused for s in both if s.memory != 'default')
    many = candidates(base, process=True)
    assert many[0] == base and len(set(many)) == len(many) == 7 and Setting(True, 1, 'huge') in many
    assert {s.threads for s in candidates(Setting(False, 2), process=True)} == {1, 2, 4}
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    assert {s.threads for s in candidates(Setting(False, 1), process=True)} == {1}, 'what the user asked for is the most'


# autotune, with a clock that says what we want

@pytest.fixture
def clock(monkeypatch):
    "Laps take what `speeds` says of (channels_last, memory), without running anything"
    state = type('S', (), {})()
    state.speeds, state.now, state.set = {}, Setting(False, torch.get_num_threads()), []

    monkeypatch.setattr(tuning, '_look', lambda step: Look(state.speeds[False, 'default']/100, 0., 1e9))

    def lap(step, setting, calls):
        tuning.set_process(setting)
        return state.speeds[setting.channels_last, setting.memory]/100

    def set_process(s):
        state.set.append(s)
        state.memory = s.memory
    monkeypatch.setattr(tuning, '_lap', lap)
    monkeypatch.setattr(tuning, 'set_process', set_process)
    monkeypatch.setattr(tuning, 'memory_settings', lambda: ('default', 'keep'))
    return state


SPEEDS = {(False, 'default'): 1., (True, 'default'): .8, (False, 'keep'): .7, (True, 'keep'): .5}


def test_autotune_applies_the_fastest(learn, clock):
    clock.speeds = SPEEDS
    done = autotune(learn, 2., process=True)
    assert done.chosen.channels_last and done.chosen.memory == 'keep' and done.speed == 2 and done.applied
    assert is_channels_last(learn.model) and clock.set[-1] == done.chosen
    assert done.recipe(SMALL) == SMALL.replace(channels_last=True)
    text = done._repr_markdown_()
    assert 'channels_last' in text and '(chosen)' in text and '(as it was)' in text and '2.00' in text


def test_without_permission_the_process_is_left_alone(learn, clock):
    clock.speeds = SPEEDS
    done = autotune(learn, 2.)
    assert done.chosen == Setting(True, torch.get_num_threads(), 'default') and is_channels_last(learn.model)
    assert {(s.threads, s.memory) for s in clock.set} == {(torch.get_num_threads(), 'default')}
    assert any('process=True' in n for n in done.notes)


def test_a_slower_setting_is_never_chosen(learn, clock):
    clock.speeds = {k: 1. if k == (False, 'default') else 1.01 for k in SPEEDS}
    done = autotune(learn, 2., process=True)
    assert done.chosen == done.base == clock.set[-1] and not is_channels_last(learn.model) and done.speed == 1


def test_apply_false_only_measures(learn, clock):
    clock.speeds = SPEEDS
    done = autotune(learn, 2., process=True, apply=False)
    assert done.chosen != done.base == clock.set[-1] and not is_channels_last(learn.model) and not done.applied


def test_a_failure_puts_the_process_back(learn, clock, monkeypatch):
    clock.speeds = {(False, 'default'): 1.}   # KeyError at the second candidate
    with pytest.raises(KeyError): autotune(learn, 2., process=True)
    assert clock.set[-1] == Setting(False, torch.get_num_threads()) and not is_channels_last(learn.model)


def test_autotune_errors(learn):
    with pytest.raises(ValueError, match='seconds=0: must be greater than 0'): autotune(learn, 0)
    with pytest.raises(ValueError, match='margin=-1: must be at least 0'): autotune(learn, margin=-1)
    done = autotune(learn, 1e-6)
    assert done.chosen == done.base and any('Too few turns' in n for n in done.notes) and len(done.table().rows) == 1


def test_slow_steps_leave_out_the_less_promising(learn, clock, monkeypatch):
    "Laps of 0.2 s and 1.9 s to measure: three turns of all four settings would take longer"
    clock.speeds, at_once = {k: 10*v for k, v in SPEEDS.items()}, tuning._lap
    monkeypatch.setattr(tuning, '_lap', lambda *args: time.sleep(0.2) or at_once(*args))
    done = autotune(learn, 1.9, process=True)
    tried = [(s.channels_last, s.memory) for s in done.found.seconds]
    assert tried == [(False, 'default'), (True, 'keep')] and done.speed == 2
    assert any(n.startswith('Not tried for want of time: 2 of 3') for n in done.notes) or torch.get_num_threads() > 1


def test_any_fastai_learner():
    "Loaders that are PyTorch's own, a network without convolutions of many channels"
    ds = TensorDataset(torch.randn(32, 3, 9, 7), torch.randint(4, (32,)))
    dls = DataLoaders(*(DataLoader(ds, 8) for _ in range(2)), device='cpu')
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    learn = Learner(dls, net, nn.CrossEntropyLoss())
    done = autotune(learn, 1.)
    assert done.batch_size == 8 and current_setting(learn) == done.chosen
    with learn.no_bar(), learn.no_logging(): learn.fit(1)


# the fused optimiser

def trained(make, change=None, fused=False, steps=3):
    "A convolution's weights after some steps; `change` comes after the first of them"
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16*25, 3)), torch.randn(4, 8, 7, 7)
    opt = make(net.parameters())
    assert not fused or fuse(opt)
    for i in range(steps):
        net(x).square().mean().backward()
        opt.step()
        opt.zero_grad()
        if i == 0 and change: change(net, opt)
    return torch.cat([p.detach().contiguous().flatten() for p in net.parameters()])


MAKE = {'adam': lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1), 'adamw': lambda p: torch.optim.AdamW(p, 0.01),
        'amsgrad': lambda p: torch.optim.Adam(p, 0.01, amsgrad=True), 'adagrad': lambda p: torch.optim.Adagrad(p, 0.01),
        'sgd': lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True)}


@pytest.mark.parametrize('name', MAKE)
def test_fused_changes_rounding_only(name):
    torch.testing.assert_close(trained(MAKE[name], fused=True), trained(MAKE[name]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', MAKE)
def test_averages_follow_the_layout(name):
    "Also where fusing comes after the first step; without `match_layout` the fused version mixes weights up"
    def relaid(net, opt): net.to(memory_format=torch.channels_last)
    def matched(net, opt): relaid(net, opt), match_layout(opt)
    def late(net, opt): relaid(net, opt), fuse(opt)
    wanted = trained(MAKE[name])
    for change, fused in (matched, True), (late, False), (relaid, False):
        torch.testing.assert_close(trained(MAKE[name], change, fused), wanted, rtol=1e-4, atol=1e-6)
    assert (trained(MAKE[name], relaid, True) - wanted).abs().max() > 1e-4, 'the trap that the lesson warns of'


def test_what_has_no_fused_version():
    p = [nn.Parameter(torch.zeros(3))]
    assert not fuse(torch.optim.RMSprop(p)) and not fuse(torch.optim.Adam(p, differentiable=True))
    assert not fuse(FastaiAdam(p, 0.1)) and not is_fused(FastaiAdam(p, 0.1))
    some = Learner(learner(SMALL, DATA, 3, device='cpu').dls, nn.Sequential(nn.Flatten(), nn.Linear(3*18*23, 10)),
                   nn.CrossEntropyLoss(), opt_func=FastaiAdam, cbs=FuseOptimizer())
    with pytest.raises(ValueError, match='fused_optimizer: Optimizer has no fused version; torch.optim.AdamW'):
        with some.no_bar(), some.no_logging(): some.fit(1)


def test_the_trick_fuses_and_trains_the_same():
    "The trick's run equals the plain one; a copied callback and a second fit find the optimiser as it should be"
    runs = [train(r, DATA, seed=3, progress=False) for r in (SMALL, SMALL + FusedOptimizer())]
    a, b = (torch.cat([v.flatten().float() for v in r.trained.model.state_dict().values()]) for r in runs)
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    learn = learner(SMALL + tricks['fused_optimizer'](), DATA, 3, device='cpu')
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert is_fused(learn.opt) and current_setting(learn).fused
    lay_out(learn, True)
    state = learn.opt.opt.state
    assert state and all(v.stride() == p.stride() for p, s in state.items() for v in s.values() if v.shape == p.shape)


def test_autotune_applies_a_fused_optimiser(learn, clock, monkeypatch):
    monkeypatch.setattr(tuning, '_look', lambda step: Look(0.01, 0.002, 0.))
    monkeypatch.setattr(tuning, '_lap', lambda step, s, calls: 0.01 - 0.002*s.fused)
    done = autotune(learn, 2.)
    assert done.chosen.fused and not done.chosen.channels_last and done.speed == pytest.approx(1.25)
    assert SMALL + FusedOptimizer() == done.recipe(SMALL)
    again = autotune(learn, 2.)
    assert again.base.fused and all(s.fused for s in again.found.seconds) and again.recipe(SMALL) == SMALL
    assert sum(isinstance(cb, FuseOptimizer) for cb in learn.cbs) == 1
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert is_fused(learn.opt)


def test_what_cannot_win_is_not_tried(learn, clock, monkeypatch):
    monkeypatch.setattr(tuning, '_look', lambda step: Look(0.01, 0.0002, 100.))
    clock.speeds = SPEEDS
    tried = autotune(learn, 2., process=True, apply=False).found.seconds
    assert not any(s.fused for s in tried) and {s.memory for s in tried} == {'default'}
    assert Look(0.01, 0.0004, 100.).worth(0.03) == (True, False)
    assert Look(0.01, 0.0002, 400.).worth(0.03) == (False, True)


def test_doctor_measures_and_leaves_no_setting():
    from cnn_tricks.cli.doctor import tuned_settings
    rows = tuned_settings('cpu', seconds=0.2, batch_size=8)
    assert [r['network'] for r in rows] == ['article', 'resnet'] and allocator.memory_setting() == 'default'
    assert all(r['speed'] >= 1 and r['milliseconds'] > 0 and r['batch_size'] == 8 for r in rows)


# accelerators

@pytest.mark.parametrize('kind', ['cuda', 'mps', 'xpu', 'cpu'])
def test_defect_14_every_accelerator_is_waited_for(kind, monkeypatch):
    "A clock that is read before the device is done times launches"
    waited = []
    monkeypatch.setattr(getattr(torch, kind), 'synchronize', lambda *args: waited.append(kind))
    finish_work(torch.device(kind))
    finish_work(kind)
    assert waited == [kind]*2
