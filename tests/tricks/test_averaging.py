"""Averages of weights against torch, timm and closed forms; what a run with one leaves behind, whole or interrupted."""
import copy

import pytest
import torch
from fastai.callback.core import Callback
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from training import StopAt, same

from cnn_tricks.tricks.averaging import EMA, SWA, AverageWeights, averaging_fn, ema_decay
from cnn_tricks.core.run_control import Interrupted
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.tricks.stopping import KeepBest
from cnn_tricks.core.train import fit_steps, learner, train


@pytest.fixture(scope='module')
def data(): return embedded().subset(96).subset(100, parts=('valid',))


def tiny(**kw):
    "Two steps an epoch, at a rate at which the weights move a lot."
    return Recipe(**{'network': 'plain', 'network_args': {'widths': [4]}, 'batch_size': 48, 'lr': 0.1, 'steps': 12,
                     'optimizer': 'sgd', **kw})


class Weights(Callback):
    "Keeps weights and buffers after every step."
    order = 49
    def before_fit(self): self.seen = []
    def after_batch(self):
        if self.training: self.seen.append(state_of(self.model))


def state_of(model): return {k: v.detach().clone() for k, v in model.state_dict().items()}
def close(a, b): return a.keys() == b.keys() and all(torch.allclose(a[k].double(), b[k].double(), atol=1e-6) for k in a)
def params_of(model): return {k: v.detach().clone() for k, v in model.named_parameters()}


def by_loop(states, decay):
    "The average from its definition, in float64: a plain mean of the first few; then a fixed share is kept."
    out = {k: v.double() for k, v in states[0].items()}
    for n, s in enumerate(states[1:], 1):
        keep = min(decay, n/(n + 1))
        out = {k: keep*out[k] + (1 - keep)*s[k].double() for k in out}
    return out


# the recursion

def random_nets(n, seed=0):
    torch.manual_seed(seed)
    return [nn.Sequential(nn.Conv2d(2, 3, (3, 2)), nn.BatchNorm2d(3)) for _ in range(n)]


@pytest.mark.parametrize('decay', [0., 0.5, 0.8, 0.95, 1.])
def test_recursion(decay):
    "Also at the ends: 0 is the last set of weights, 1 the plain mean."
    nets = random_nets(9)
    average = AveragedModel(nets[0], multi_avg_fn=averaging_fn(decay), use_buffers=True)
    for i, net in enumerate(nets):
        net[1].num_batches_tracked.fill_(10 + i)
        average.update_parameters(net)
    assert close(params_of(average.module), by_loop([params_of(n) for n in nets], decay))
    assert average.module[1].num_batches_tracked.item() == 18  # a counter is not averaged
    if decay == 0: assert close(params_of(average.module), params_of(nets[-1]))
    if decay == 1:
        mean = {k: torch.stack([params_of(n)[k] for n in nets]).mean(0) for k in params_of(nets[0])}
        assert close(params_of(average.module), mean)


def test_timm():
    "timm's `ModelEmaV3` with `warmup_power=1` makes the same average; its own steps are counted from 1."
    nets = random_nets(12)
    ours = AveragedModel(nets[0], multi_avg_fn=averaging_fn(0.8), use_buffers=True)
    theirs = ModelEmaV3(nets[0], decay=0.8, use_warmup=True, warmup_power=1.)
    for i, net in enumerate(nets):
        ours.update_parameters(net)
        theirs.update(net, step=i + 1)
    assert close(state_of(ours.module), state_of(theirs.module))


def test_torch_after_the_start():
    "Started from the same average, and past its mean, every further step is torch's."
    nets = random_nets(30)
    ours = AveragedModel(nets[0], multi_avg_fn=averaging_fn(0.75))
    for net in nets[:10]: ours.update_parameters(net)
    theirs = AveragedModel(ours.module, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    theirs.update_parameters(ours.module)
    for net in nets[10:]:
        ours.update_parameters(net)
        theirs.update_parameters(net)
    assert close(params_of(ours.module), params_of(theirs.module))


@pytest.mark.parametrize('steps, share, window', [(1000, 0.1, 100), (1000, 1., 1000), (3, 0.1, 2), (1, 1., 2),
                                                  (40, 0.25, 10)])
def test_decay(steps, share, window): assert ema_decay(steps, share) == pytest.approx(1 - 1/window)


@pytest.mark.parametrize('make, match', [
    (lambda: ema_decay(0), 'steps'), (lambda: ema_decay(10, 0.), 'share'), (lambda: ema_decay(10, 1.1), 'share'),
    (lambda: averaging_fn(1.1), 'decay'), (lambda: averaging_fn(-0.1), 'decay'), (lambda: AverageWeights(0.), 'share'),
    (lambda: AverageWeights(decay=2.), 'decay'), (lambda: AverageWeights(start=1.), 'start'),
    (lambda: AverageWeights(recalibrate=-1), 'recalibrate'), (lambda: EMA(share=0.), 'share'),
    (lambda: EMA(decay=1.5), 'decay'), (lambda: SWA(start=1.), 'start'), (lambda: SWA(recalibrate=-1), 'recalibrate')])
def test_bad_settings(make, match):
    with pytest.raises(ValueError, match=match): make()


# in a run

@pytest.mark.parametrize('trick, first, decay', [
    (EMA(recalibrate=0), 0, 0.5), (EMA(share=0.5, recalibrate=0), 0, 1 - 1/6), (EMA(decay=0.9, recalibrate=0), 0, 0.9),
    (SWA(recalibrate=0), 9, 1.), (SWA(start=0., recalibrate=0), 0, 1.), (SWA(start=0.99, recalibrate=0), 10, 1.)])
def test_average_of_a_run(data, trick, first, decay):
    "The run itself is that without the trick; what it leaves is the average of its steps, and so are its scores."
    weights = Weights()
    plain = train(tiny(), data, progress=False)
    run = train(tiny() + trick, data, progress=False, cbs=[weights])
    assert run.losses == plain.losses and same(weights.seen[-1], state_of(plain.trained.model))
    floats = [{k: v for k, v in s.items() if v.is_floating_point()} for s in weights.seen]
    left = {k: v for k, v in state_of(run.trained.model).items() if v.is_floating_point()}
    assert close(left, by_loop(floats[first:], decay)) and not close(left, floats[-1])
    right = (run.trained.predict(data.valid.x).argmax(1) == data.valid.y).float().mean().item()
    assert right == pytest.approx(run.accuracy)


def test_validates_the_average(data):
    "In the middle of the run too: each look is at the average so far."
    weights = Weights()
    run = train(tiny() + EMA(share=0.5, recalibrate=0), data, progress=False, cbs=[weights])
    for row in run.history[:-1]:
        floats = [{k: v for k, v in s.items() if v.is_floating_point()} for s in weights.seen[:row['step']]]
        model = copy.deepcopy(run.trained.model)
        model.load_state_dict({**weights.seen[0], **{k: v.float() for k, v in by_loop(floats, 1 - 1/6).items()}})
        run2 = copy.copy(run.trained)
        run2.model = model.eval()
        right = (run2.predict(data.valid.x).argmax(1) == data.valid.y).float().mean().item()
        assert right == pytest.approx(row['accuracy'], abs=1e-6)


@pytest.mark.parametrize('trick', [EMA(), SWA()])
def test_statistics_afterwards(data, trick):
    "Those of torch's `update_bn`, over the same batches of training images; the weights are left as they are."
    run, other = (train(tiny(steps=40) + t, data, progress=False) for t in (trick, type(trick)(recalibrate=0)))
    a, b = run.trained.model, other.trained.model
    assert same(params_of(a), params_of(b)) and not same(state_of(a), state_of(b))
    loader = data.loaders(48, seed=42).train
    loader.epoch = 20  # 40 steps, two an epoch
    update_bn([x for x, _ in loader], b)
    assert close(state_of(a), state_of(b))


@pytest.mark.parametrize('name', ['ema', 'swa'])
@pytest.mark.parametrize('steps', [2, 3])
def test_short_runs(data, name, steps):
    run, plain = (train(r, data, progress=False) for r in (tiny(steps=steps) + tricks[name](), tiny(steps=steps)))
    assert not close(params_of(run.trained.model), params_of(plain.trained.model))


def test_one_step(data):
    run, plain = (train(r, data, progress=False) for r in (tiny(steps=1) + EMA(), tiny(steps=1)))
    assert same(params_of(run.trained.model), params_of(plain.trained.model))


@pytest.mark.parametrize('at', [1, 5, 6])
def test_resumed(data, tmp_path, at):
    recipe = tiny() + SWA(start=0.2)
    straight = train(recipe, data, progress=False)
    with pytest.raises(Interrupted):
        train(recipe, data, progress=False, out=tmp_path, checkpoint_every=0, cbs=[StopAt(at)])
    kept = torch.load(tmp_path/'checkpoint.pt', weights_only=True)
    assert kept['callbacks']['average_weights']['seen'] == at
    resumed = train(recipe, data, progress=False, out=tmp_path, resume=True)
    assert same(state_of(resumed.trained.model), state_of(straight.trained.model)) and resumed.losses == straight.losses


def test_cut_short(data):
    "Interrupted, the run still leaves its average."
    weights = Weights()
    with pytest.raises(Interrupted) as e:
        train(tiny() + EMA(recalibrate=0), data, progress=False, cbs=[weights, StopAt(5)])
    left = params_of(e.value.result.trained.model)
    seen = [{k: s[k] for k in left} for s in weights.seen]
    assert len(seen) == 5 and close(left, by_loop(seen, 0.5))


def test_two_fits(data):
    "The second starts from the first one's average, and makes its own."
    recipe, weights = tiny(), Weights()
    learn = learner(recipe, data, cbs=[AverageWeights(recalibrate=0), weights])
    with learn.no_bar(), learn.no_logging():
        for _ in range(2):
            fit_steps(learn, recipe, 6)
            left = params_of(learn.model)
            assert close(left, by_loop([{k: s[k] for k in left} for s in weights.seen], 0.5))


def test_frozen_statistics_and_tied_weights(data):
    "A batch norm that is frozen keeps its statistics; a weight that is used twice stays one."
    class Frozen(Callback):
        order = 20
        def before_batch(self): self.model[1].eval()
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), conv, nn.BatchNorm2d(4), conv, nn.ReLU(),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    learn = learner(tiny(), data, cbs=[AverageWeights(share=0.5), Frozen(), weights := Weights()])
    learn.model, before = net, state_of(net)
    with learn.no_bar(), learn.no_logging(): fit_steps(learn, tiny())
    after = net.state_dict()
    assert bool(torch.equal(after['1.running_mean'], before['1.running_mean']))
    assert not torch.allclose(after['3.running_mean'], before['3.running_mean'], atol=1e-3)
    tied = [{'w': s['2.weight']} for s in weights.seen]
    assert net[2].weight is net[4].weight and close({'w': after['2.weight']}, by_loop(tied, 1 - 1/6))


def test_colour_not_square_and_no_norm():
    x, y = torch.randint(0, 256, (64, 3, 20, 28), dtype=torch.uint8), torch.arange(64) % 4
    part = Part(x, y)
    data = ImageData(part, part, part, ('a', 'b', 'c', 'd'))
    for t in (EMA(), SWA()):
        for network, args in (('plain', {'widths': [4]}), ('article', {})):
            run = train(Recipe(network=network, network_args=args, batch_size=16, steps=6) + t, data, progress=False)
            assert 0 <= run.accuracy <= 1 and all(bool(p.isfinite().all()) for p in run.trained.model.parameters())


def test_early_stopping_keeps_the_average(data):
    "Its looks are at the average, and so are its copies: the mean of the steps up to the best look."
    keep, weights = KeepBest('accuracy', patience=99), Weights()
    run = train(tiny(lr=0.5, steps=40) + SWA(start=0.), data, progress=False, cbs=[keep, weights])
    best = run.history[-1]['restored_step']
    floats = [{k: v for k, v in s.items() if v.is_floating_point()} for s in weights.seen[:best]]
    left = {k: v for k, v in state_of(run.trained.model).items() if v.is_floating_point()}
    assert best < 40 and close(left, by_loop(floats, 1.)) and not close(left, floats[-1])


def test_json():
    for r in (Recipe() + EMA(0.2, 0.99), Recipe() + SWA(0.5, 0)): assert Recipe.from_json(r.to_json()) == r
    assert {'ema', 'swa'} <= set(tricks.names())
