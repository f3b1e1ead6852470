"""The proximal step and decoupled decay, step for step against loops and PyTorch; when they act, and on what."""
import copy
from types import SimpleNamespace

import pytest
import torch
from fastai.callback.core import Callback, CancelBatchException, CancelStepException
from fastai.optimizer import OptimWrapper
from fastai.optimizer import SGD as fastai_sgd
from torch import nn
from training import same

from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.core.components import optimizers
from cnn_tricks.tricks.penalties import DecayWeights, L1Penalty, ShrinkToZero, WeightDecay, share_zero
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.core.train import learner, train


@pytest.fixture(scope='module')
def data(): return embedded().subset(96).subset(50, parts=('valid',))


def tiny(**kw):
    return Recipe(**{'network': 'plain', 'network_args': {'widths': [4, 6]}, 'batch_size': 32, 'lr': 0.02, 'steps': 6,
                     'optimizer': 'sgd', **kw})


def weights(recipe, data, **kw): return train(recipe, data, progress=False, **kw).trained.model.state_dict()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, (3, 1)), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(4*3*4, 5))


def stepped(cb, opt_class=torch.optim.SGD, grads=True, wrap=None, **kw):
    "The parameters before and after one step at rate 0.1 with all gradients zero: what moves is the callback's doing."
    model = net()
    before = copy.deepcopy(dict(model.named_parameters()))
    opt = wrap(model) if wrap else OptimWrapper(model.parameters(), opt=opt_class, lr=0.1, **kw)
    for p in model.parameters(): p.grad = torch.zeros_like(p) if grads else None
    cb.learn = SimpleNamespace(opt=opt)
    cb('before_step')
    opt.step()
    cb('after_step')
    return before, dict(model.named_parameters())


def test_soft_threshold_by_loop():
    "Number by number; what is within the threshold is exactly zero, and biases, gains and PReLU's slopes stay."
    before, after = stepped(ShrinkToZero(0.5))
    zeros = 0
    for name, p in after.items():
        for old, new in zip(before[name].flatten().tolist(), p.flatten().tolist()):
            want = old
            if name in ('0.weight', '4.weight'):
                want = 0. if abs(old) <= 0.05 else old - 0.05 if old > 0 else old + 0.05
                zeros += want == 0
                assert (new == 0) == (want == 0)
            assert new == pytest.approx(want, abs=1e-7)
    assert zeros > 10


def test_decay_by_loop():
    before, after = stepped(DecayWeights(3.))
    for name, p in after.items():
        factor = 0.7 if name in ('0.weight', '4.weight') else 1.
        torch.testing.assert_close(p, before[name]*factor)


@pytest.mark.parametrize('make', [lambda: ShrinkToZero(0.5), lambda: DecayWeights(0.5)])
def test_frozen_and_fastai(make):
    "What has no gradient stays; fastai's own optimisers and a rate for each group work as well."
    before, after = stepped(make(), grads=False)
    assert same(before, after)
    def grouped(model): return fastai_sgd([[model[0].weight], list(model[1:].parameters())], lr=0.)
    def two(model):
        opt = grouped(model)
        opt.set_hyper('lr', [0.1, 0.])
        return opt
    before, after = stepped(make(), wrap=two)
    assert not torch.equal(before['0.weight'], after['0.weight']) and torch.equal(before['4.weight'], after['4.weight'])


@pytest.mark.parametrize('name, args', [('adamw', {}), ('adam', {}), ('sgd', {'momentum': 0.5})])
def test_no_strength_no_change(data, name, args):
    base = tiny(optimizer=name, optimizer_args=args | {'weight_decay': 0.})
    want = weights(base, data)
    for t in (L1Penalty(0.), WeightDecay(0.)): assert same(weights(base + t, data), want)


def test_takes_the_place_of_the_optimisers_own(data):
    "Nothing is decayed twice; an optimiser without such an argument is left as it is."
    for args in ({}, {'weight_decay': 0.3, 'beta1': 0.8}):
        r = plan(tiny(optimizer='adamw', optimizer_args=args) + WeightDecay(0.5)).recipe
        assert r.optimizer_args == args | {'weight_decay': 0.}
    optimizers.register('test_bare', lambda params, lr: torch.optim.SGD(params, lr))
    try: assert plan(tiny(optimizer='test_bare') + WeightDecay()).recipe.optimizer_args == {}
    finally: optimizers.remove('test_bare')


def test_plain_sgd_is_l2_on_the_same_weights(data):
    "Without momentum, decay beside the step is PyTorch's L2 in the gradient of those weights, up to rounding."
    base = tiny(optimizer_args=dict(momentum=0.), steps=12)
    ours = weights(base + WeightDecay(2.), data)

    class AddL2(Callback):
        order = 60
        def before_step(self):
            for p in self.model.parameters():
                if p.ndim > 1: p.grad += 2.*p.detach()
    theirs = weights(base, data, cbs=[AddL2()])
    for k in ours: torch.testing.assert_close(ours[k], theirs[k], rtol=1e-4, atol=1e-5)
    assert max((ours[k] - v).abs().max() for k, v in weights(base, data).items()) > 1e-3


class Skip(Callback):
    "Leaves out some steps, as mixed precision (the step) and accumulation (the batch) do."
    order = 10
    def __init__(self, error): self.error, self.count = error, 0
    def before_step(self):
        self.count += 1
        if self.count % 2: raise self.error


@pytest.mark.parametrize('error', [CancelStepException, CancelBatchException])
@pytest.mark.parametrize('trick', [L1Penalty(0.1), WeightDecay(3.)])
def test_skipped_steps_do_not_shrink(data, error, trick):
    "With the optimiser idle, six batches of which three are skipped shrink as much as three."
    idle = tiny(lr=0.01)
    learn = learner(idle + trick, data, cbs=[Skip(error)])
    start = copy.deepcopy(learn.model.state_dict())
    with learn.no_bar(), learn.no_logging():
        learn.create_opt()
        learn.opt.opt.step = lambda: None
        learn.fit(2)
    for k in ('conv1.0.weight', 'head.weight'):
        want = start[k]*0.97**3 if isinstance(trick, WeightDecay) else torch.nn.functional.softshrink(start[k], 0.003)
        torch.testing.assert_close(learn.model.state_dict()[k].cpu(), want, rtol=1e-4, atol=1e-6)


def test_follows_the_schedule(data):
    "The share lost in each step is the rate of that step times the strength."
    r = tiny(schedule='one_cycle', steps=9) + WeightDecay(0.5)

    class Sizes(Callback):
        "The stem's weights just before and just after the decay."
        def __init__(self, order, seen): self.order, self.seen = order, seen
        def before_step(self): self.seen.append(self.model.stem[0].weight.detach().clone())
    before, after = [], []
    first, last = Sizes(69, before), Sizes(71, after)
    res = train(r, data, progress=False, cbs=[first, last])
    assert len(before) == 9 and len(set(res.lrs)) > 5
    for lr, a, b in zip(res.lrs, before, after): torch.testing.assert_close(b, a*(1 - lr*0.5))


def test_both_at_once(data):
    "An elastic net: decay before the step, the threshold after it; kept in a file and read back."
    r = tiny(optimizer='adamw') + WeightDecay(0.2) + L1Penalty(0.3)
    assert Recipe.from_json(r.to_json()) == r
    res = train(r, data, progress=False)
    assert share_zero(res.trained.model) > 0 and res.steps == 6


def test_colour_not_square():
    x, y = torch.randint(0, 256, (64, 3, 12, 20), dtype=torch.uint8), torch.arange(64) % 4
    part = Part(x, y)
    data = ImageData(part, part, part, ('a', 'b', 'c', 'd'))
    for t in (L1Penalty(), WeightDecay()): assert train(tiny(steps=3) + t, data, progress=False).steps == 3


def test_share_zero():
    model = net()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    assert share_zero(model) == model[0].weight.numel()/(model[0].weight.numel() + model[4].weight.numel())
    assert share_zero(nn.ReLU()) == 0


@pytest.mark.parametrize('make, error', [(lambda: L1Penalty(-0.1), ValueError), (lambda: WeightDecay(-1), ValueError),
                                         (lambda: L1Penalty('0.1'), TypeError), (lambda: WeightDecay(True), TypeError),
                                         (lambda: WeightDecay(float('nan')), ValueError)])
def test_bad_settings(make, error):
    with pytest.raises(error, match='strength'): make()


def test_registered(): assert {'l1', 'weight_decay'} <= set(tricks.names())
