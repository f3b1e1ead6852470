"Formats, autocast and the choice between them, as far as lesson 11 does not show them."
import json, os, subprocess, sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from torch import nn

from cnn_tricks.measure import number_formats
from cnn_tricks.tricks import precision
from cnn_tricks.measure.repeated_runs import Arm, repeat
from cnn_tricks.core.run_control import Interrupted
from cnn_tricks.measure.cost import Timings
from cnn_tricks.data.datasets import embedded
from cnn_tricks.nets.networks import networks
from cnn_tricks.tricks.precision import Autocast, Precision, fastest_precision, kept_precision, lost_shares
from cnn_tricks.tricks.precision import rounding_error, seen_dtypes
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.train import learner, train

TINY = Recipe(network='resnet', network_args={'width': 4, 'blocks': [1]}, size=8, batch_size=8, steps=6, optimizer='sgd', lr=0.05)
CPU = dict(device='cpu')


@pytest.fixture(scope='module')
def data(): return embedded().resize(8).subset(64, parts=('train', 'valid'))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return networks['resnet'](1, 10, 8, width=4, blocks=(1,))


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    return torch.rand(16, 1, 8, 8, generator=g), torch.randint(10, (16,), generator=g)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache folder, and nothing known."
    monkeypatch.setenv('CNN_TRICKS_CACHE', str(tmp_path/'cache'))
    kept = [(d, dict(d)) for d in (number_formats._known, precision._slow)]
    for d, _ in kept: d.clear()
    yield tmp_path/'cache'
    for d, known in kept:
        d.clear()
        d.update(known)


def fit(learn, epochs=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    return learn


def timed(monkeypatch, quick, full=None, low=None):
    "Let the clock say that the formats are so many times as fast as float32: on two images, and on the whole batch."
    asked = []
    def fake(fns, rounds=5, calls=1):
        for fn in fns.values(): fn()
        asked.append(list(fns))
        speeds = {**quick, 'float32': 1.} if rounds == 3 else {**quick, **(full or {}), 'float32': 1.}
        least = {n: (low or {}).get(n, s) for n, s in speeds.items()}
        return Timings({n: [1/speeds[n], 1/speeds[n], 1/least[n]] for n in fns})
    monkeypatch.setattr(number_formats, 'time_in_turns', fake)
    return asked


# formats

@pytest.mark.parametrize('scale', [1., 2.**8, 2.**20])
def test_lost_shares_against_numpy(scale):
    v = (10**np.random.default_rng(0).uniform(-12, 6, 5000)).astype(np.float32)
    with np.errstate(over='ignore', under='ignore'): h = (v.astype(np.float64)*scale).astype(np.float16)
    want = dict(zero=(h == 0).mean(), blurred=((h > 0) & (h < 2.**-14)).mean(), inf=np.isinf(h).mean())
    values = torch.cat([torch.tensor(v), torch.zeros(77)]).view(1, -1)  # zeros do not count
    assert lost_shares(values, torch.float16, scale) == pytest.approx(want)


def test_lost_shares_of_nothing():
    assert lost_shares(torch.zeros(3, 0)) == lost_shares(torch.zeros(4)) == dict(zero=0, blurred=0, inf=0)


def test_seen_dtypes_frees_the_layers_after_an_error(net):
    with pytest.raises(ZeroDivisionError), seen_dtypes(net) as seen:
        net(torch.rand(2, 1, 8, 8))
        1/0
    assert set(seen.values()) == {torch.float32} and 'head' in seen
    assert not any(m._forward_hooks for m in net.modules())


# the callback

def by_hand(model, dl, dtype, lr, **scaling):
    "One epoch of mixed precision without fastai -> the scaler, the scale after each step"
    scaler, scales = torch.amp.GradScaler('cpu', enabled=dtype == torch.float16, **scaling), []
    opt = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True)
    for x, y in dl:
        opt.zero_grad()
        with torch.autocast('cpu', dtype): p = model(x)
        scaler.scale(F.cross_entropy(p.float(), y)).backward()
        scaler.step(opt)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize('name, scaling', [('bfloat16', {}), ('float16', dict(init_scale=2.**30, growth_interval=2))])
def test_autocast_against_a_loop(data, name, scaling):
    ours, other = (learner(TINY, data, **CPU) for _ in range(2))
    ours.add_cb(Autocast(name, **scaling))
    with ours.no_bar(), ours.no_logging(): ours.fit(1, lr=0.05)
    scales = by_hand(other.model.train(), other.dls.train, precision.formats[name], 0.05, **scaling)
    assert all(torch.equal(a, b) for a, b in zip(ours.model.state_dict().values(), other.model.state_dict().values()))
    before = [scaling.get('init_scale', 0.)] + scales
    assert ours.autocast.skipped == sum(b < a for a, b in zip(before, scales))
    if name == 'float16': assert ours.autocast.skipped > 2 and ours.autocast.scaler.get_scale() == scales[-1]


def test_float32_is_no_change(data):
    a, b = fit(learner(TINY, data, **CPU)), fit(learner(TINY, data, cbs=[Autocast('float32')], **CPU))
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))


class Norms(Callback):
    "The length of the gradient, where a callback that clips would see it."
    order = 11
    def __init__(self): self.seen = []
    def before_step(self): self.seen.append(torch.cat([p.grad.flatten() for p in self.model.parameters()]).norm().item())


def test_later_callbacks_see_unscaled_gradients(data):
    exact, half = Norms(), Norms()
    fit(learner(TINY, data, cbs=[exact], **CPU))
    fit(learner(TINY, data, cbs=[half, Autocast('float16', init_scale=2.**10)], **CPU))
    assert half.seen[0] == pytest.approx(exact.seen[0], rel=0.02)


def test_validation_and_prediction_use_the_format_too(data):
    learn = learner(TINY, data, cbs=[Autocast('bfloat16')], **CPU)
    with seen_dtypes(learn.model) as seen, learn.no_bar(), learn.no_logging():
        learn.validate()  # before any fit
        assert torch.bfloat16 in seen.values()
        learn.fit(1)
        preds, _ = learn.get_preds()
    assert preds.dtype == torch.float32 and torch.bfloat16 in seen.values()
    assert 'forward' not in vars(learn.model)


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_nothing_stays_behind(data, error):
    class Raises(nn.Module):
        def forward(self, x):
            if x.dtype == torch.bfloat16: raise error('stop')
            return x
    learn = learner(TINY, data, cbs=[Autocast('bfloat16')], **CPU)
    learn.model = nn.Sequential(learn.model[0], Raises(), *list(learn.model)[1:])
    with pytest.raises(error, match='stop'): fit(learn)
    assert not torch.is_autocast_enabled('cpu') and 'forward' not in vars(learn.model)
    assert learn.model(torch.rand(2, 1, 8, 8)).dtype == torch.float32


def test_a_forward_of_its_own_comes_back(data):
    "As torch.compile sets one on the model itself."
    learn = learner(TINY, data, cbs=[Autocast('bfloat16')], **CPU)
    learn.model.forward = mine = learn.model.forward
    fit(learn)
    assert vars(learn.model)['forward'] is mine


def test_bad_dtype():
    with pytest.raises(ValueError, match="dtype='half'"): Autocast('half')
    with pytest.raises(ValueError, match='dtype'): Precision('half')
    with pytest.raises(ValueError, match='slowest'): Precision('bfloat16', slowest=0.)


class Stop(Callback):
    order = 50
    def __init__(self, at): self.at = at
    def after_batch(self):
        if self.training and self.run_control.state.step == self.at: self.run_control.state.stop = True


def test_scaler_is_resumed(data, tmp_path):
    "float16 stopped in the middle and resumed gives the same weights and losses, and goes on with the scale it had."
    recipe = TINY.replace(steps=10) + Precision('float16', slowest=1e9)
    straight = train(recipe, data, 3, progress=False, **CPU)
    with pytest.raises(Interrupted): train(recipe, data, 3, out=tmp_path, progress=False, cbs=[Stop(5)], **CPU)
    kept = torch.load(tmp_path/'checkpoint.pt', weights_only=True)['callbacks']['autocast']
    assert kept['dtype'] == 'float16' and kept['scaler']['scale'] == 2.**(16 - kept['skipped'])
    resumed = train(recipe, data, 3, out=tmp_path, resume=True, progress=False, **CPU)
    assert resumed.losses == straight.losses
    states = [r.trained.model.state_dict().values() for r in (straight, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*states))


def test_a_checkpoint_decides_the_format(data):
    "Whatever would be measured now: a resumed run goes on as it began."
    cb = Autocast('auto')
    learner(TINY, data, cbs=[cb], **CPU)
    cb.load_state_dict(dict(dtype='float16', why='then', skipped=3, scaler=dict(
        scale=8., growth_factor=2., backoff_factor=.5, growth_interval=2000, _growth_tracker=1)))
    assert (cb.dtype, cb.why, cb.skipped, cb.scaler.get_scale()) == ('float16', 'then', 3, 8.)
    assert cb.state_dict()['scaler']['_growth_tracker'] == 1


# the choice

def test_the_fastest_of_the_safe(monkeypatch, net, batch):
    asked = timed(monkeypatch, dict(bfloat16=1., float16=.8), dict(bfloat16=1.4, float16=1.7))
    found = fastest_precision(net, *batch)
    assert found.dtype == 'float16' and '1.7 times' in found.why and asked[-1] == ['float32', 'bfloat16', 'float16']
    assert 'float16' in repr(found) and '| bfloat16 | 1.4 |' in found._repr_markdown_()


@pytest.mark.parametrize('speed, low, want', [(1.05, 1.05, 'float32'), (1.3, .9, 'float32'), (1.3, 1.2, 'bfloat16'), (.7, .7, 'float32')])
def test_float32_unless_clearly_faster(monkeypatch, net, batch, speed, low, want):
    timed(monkeypatch, dict(bfloat16=1., float16=.02), dict(bfloat16=speed), dict(bfloat16=low))
    found = fastest_precision(net, *batch)
    assert found.dtype == want and 'too slow: 50 times' in found.rows[2]['verdict']
    if want == 'float32': assert 'not clearly faster' in found.why and 'too slow' in found.why


def test_the_hopeless_are_not_tried_on_the_whole_batch(monkeypatch, net, batch):
    asked = timed(monkeypatch, dict(bfloat16=.02, float16=.01))
    ran = []
    net.register_forward_pre_hook(lambda m, args: ran.append((len(args[0]), torch.is_autocast_enabled('cpu'))))
    assert fastest_precision(net, *batch).dtype == 'float32' and len(asked) == 2
    assert {n for n, low in ran if low} == {2}


def test_unsafe_and_without_effect(monkeypatch, batch):
    timed(monkeypatch, dict(bfloat16=3., float16=3.))
    class Plain(nn.Module):  # nothing that autocast knows
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(10)); self.id = nn.Identity()
        def forward(self, x): return self.id(x.flatten(1)[:, :10] * self.w)
    found = fastest_precision(Plain(), *batch)
    assert found.dtype == 'float32' and found.rows[1]['verdict'] == 'no layer computes in it here'
    monkeypatch.setattr(number_formats, 'rounding_error', lambda *args: (0.3, 0.5))
    found = fastest_precision(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), *batch)
    assert found.dtype == 'float32' and 'not safe' in found.why


def test_a_format_that_does_not_run(batch):
    class Refuses(nn.Linear):
        def forward(self, x):
            if torch.is_autocast_enabled('cpu'): raise RuntimeError('not implemented for this type\nmore')
            return super().forward(x.flatten(1))
    found = fastest_precision(Refuses(64, 10), *batch)
    assert found.dtype == 'float32' and found.rows[1]['verdict'] == 'does not run: not implemented for this type'


def test_rounding_error_on_a_line():
    "One weight, mean of w*x: the gradient is the mean of x; bfloat16 rounds each x and their sum's terms."
    model = nn.Linear(1, 1, bias=False)
    x = torch.tensor([[1 + 1/256], [1 + 1/256], [3 + 1/64], [3 + 1/64]])  # each halfway between two neighbours
    error, noise = rounding_error(model, x, torch.zeros(4), 'bfloat16', lambda p, y: p.mean())
    assert noise == pytest.approx((x[2:].mean() - x[:2].mean()).item()/2/x.mean().item())
    assert error < 2**-7


def test_measuring_leaves_everything_as_it_was(net, batch):
    with torch.no_grad(): net(batch[0])
    state, rng = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    fastest_precision(net.eval(), *batch, seconds=.01)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items()) and torch.equal(rng, torch.get_rng_state())
    assert not net.training and all(p.grad is None for p in net.parameters())


def test_bad_input(net, batch):
    with pytest.raises(ValueError, match='at least 4'): fastest_precision(net, batch[0][:3], batch[1][:3])
    with pytest.raises(ValueError, match='margin=0.9'): fastest_precision(net, *batch, margin=.9)


def test_the_choice_is_kept(monkeypatch, cache, net, batch):
    timed(monkeypatch, dict(bfloat16=2., float16=.01))
    first = kept_precision(net, *batch)
    timed(monkeypatch, dict(bfloat16=.5, float16=.01))  # a busy moment
    assert kept_precision(net, *batch) == first and first.dtype == 'bfloat16'
    number_formats._known.clear()  # as in a new process
    assert kept_precision(net, *batch) == first
    assert kept_precision(net, batch[0][:8], batch[1][:8]).dtype == 'float32'  # another batch is another question
    assert len(json.loads((cache/'precision.json').read_text())) == 2
    number_formats._known.clear()
    (cache/'precision.json').write_text('half a fi')
    assert kept_precision(net, *batch).dtype == 'float32'


def test_a_cache_that_cannot_be_written(monkeypatch, cache, net, batch):
    cache.write_text('a file where the folder should be')
    timed(monkeypatch, dict(bfloat16=2., float16=.01))
    assert kept_precision(net, *batch).dtype == 'bfloat16'


# the trick

@pytest.mark.parametrize('speed, want', [(2., torch.bfloat16), (.5, torch.float32)])
def test_auto_trains_in_what_was_measured(monkeypatch, cache, data, speed, want, capsys):
    timed(monkeypatch, dict(bfloat16=speed, float16=.01))
    seen = set()
    class Watch(Callback):
        order = 60  # after the measuring
        def before_train(self): self.model[0][0].register_forward_hook(lambda m, args, out: seen.add(out.dtype))
    result = train(TINY.replace(steps=3) + Precision(), data, progress=False, cbs=[Watch()], **CPU)
    assert seen == {want} and result.steps == 3 and not capsys.readouterr().out


def test_refused_where_hopeless(monkeypatch, data):
    machine = SimpleNamespace(device='cpu')
    monkeypatch.setattr(precision, '_slowness', lambda *args: 50.)
    assert 'take 50 times as long' in Precision('float16').applies(TINY, data, machine)
    assert not Precision('float16', slowest=60.).applies(TINY, data, machine) and not Precision().applies(TINY, data, machine)
    with pytest.raises(ValueError, match='cannot be used here.*50 times'): train(TINY + Precision('float16'), data, **CPU)
    monkeypatch.setattr(precision, '_slowness', lambda *args: 4.)
    assert not Precision('float16').applies(TINY, data, machine)


def test_json():
    recipe = TINY + Precision('bfloat16', slowest=9.)
    assert Recipe.from_json(recipe.to_json()) == recipe and Precision() != Precision('bfloat16')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device: the same code ran on the processor alone')
@pytest.mark.parametrize('name', ['bfloat16', 'float16'])
def test_on_cuda(data, name):
    learn = learner(TINY, data, cbs=[Autocast(name, init_scale=2.**30)], device='cuda')
    with seen_dtypes(learn.model) as seen: fit(learn)
    assert precision.formats[name] in seen.values() and next(learn.model.parameters()).dtype == torch.float32
    x, y = learn.dls.train.one_batch()
    assert fastest_precision(learn.model, x, y).dtype in precision.formats


# what was measured, kept

NEXT_PROCESS = """
from functools import partial
import torch, torch.nn.functional as F
from fastai.losses import CrossEntropyLossFlat
from cnn_tricks.measure import number_formats as nf
measured = []
nf.fastest_precision = lambda *args: measured.append(1) or nf.Choice('float32', 'because')
net, x, y = torch.nn.Linear(3, 2), torch.zeros(4, 3), torch.zeros(4).long()
filler = [object() for _ in range(int(input()))]
def mine(p, t): return F.cross_entropy(p, t)
for f in (F.cross_entropy, mine, partial(mine), torch.nn.CrossEntropyLoss(), CrossEntropyLossFlat()): nf.kept_precision(net, x, y, f)
print(len(measured))
"""


def test_defect_9_the_next_process_finds_the_choice(tmp_path):
    "Where a function lies in memory is no part of the question; the file does not grow from process to process."
    env, said, size = os.environ | {'CNN_TRICKS_CACHE': str(tmp_path)}, [], []
    for filler in ('0', '100000', '333'):
        done = subprocess.run([sys.executable, '-c', NEXT_PROCESS], env=env, input=filler, capture_output=True, text=True, check=True)
        said.append(int(done.stdout.split()[0]))
        size.append(len((tmp_path/'precision.json').read_text()))
    assert said == [5, 0, 0] and len(set(size)) == 1
    assert ' at 0x' not in (tmp_path/'precision.json').read_text()


def test_defect_10_what_was_chosen_is_in_the_record(monkeypatch, data, tmp_path):
    "`auto` is decided by the clock: result, metrics and the runs of an arm tell what it was"
    monkeypatch.setattr(precision, 'kept_precision', lambda *args: number_formats.Choice('bfloat16', 'measured'))
    res = train(TINY + Precision(), data, progress=False, **CPU)
    assert res.chosen == {'autocast': {'dtype': 'bfloat16', 'why': 'measured'}}
    res.save(tmp_path)
    assert json.loads((tmp_path/'metrics.json').read_text())['chosen'] == res.chosen
    arm = repeat(TINY + Precision(), data, seeds=(1,), progress=False, **CPU)
    assert Arm.from_dict(json.loads(arm.to_json())).runs[0].chosen == res.chosen
    old = arm.to_dict()
    del old['runs'][0]['chosen'] # a record from before
    assert Arm.from_dict(old).runs[0].chosen == {}
    for given in (TINY, TINY + Precision('bfloat16', slowest=1e9)):
        assert train(given, data, progress=False, **CPU).chosen == {} # the recipe tells it


def test_defect_10_a_resumed_run_keeps_its_choice(monkeypatch, data, tmp_path):
    choices = iter([number_formats.Choice('bfloat16', 'measured'), number_formats.Choice('float32', 'another day')])
    monkeypatch.setattr(precision, 'kept_precision', lambda *args: next(choices))
    class Stop(Callback):
        order = 90
        def after_batch(self):
            if self.run_control.state.step == 3: self.run_control.state.stop = True
    with pytest.raises(Interrupted):
        train(TINY + Precision(), data, progress=False, out=tmp_path, checkpoint_every=0, cbs=[Stop()], **CPU)
    res = train(TINY + Precision(), data, progress=False, out=tmp_path, resume=True, **CPU)
    assert res.chosen['autocast'] == dict(dtype='bfloat16', why='measured')
