"""The batch-size lesson's functions against loops, counts by hand and known distributions; and memory that really runs out."""
import math, subprocess, sys

import pytest
import torch
from fastai.callback.fp16 import MixedPrecision
from torch import nn

from cnn_tricks.tools.batch_costs import Memory, Throughput, _saved, memory_measured, memory_needed, throughput
from cnn_tricks.tools.batch_finder import BatchSizes, find_batch_size, largest_batch
from cnn_tricks.tricks.batch_size import Accumulate, BatchSize, MicroBatches, NoiseScale, accumulate, noise_scale
from cnn_tricks.tricks.batch_size import scale_lr
from cnn_tricks.measure.cost import Timings
from cnn_tricks.data.datasets import embedded
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.core.training_step import recipe_step
from cnn_tricks.core.train import learner, train

CE = nn.functional.cross_entropy
FAST = recipes['fast']


@pytest.fixture(scope='module')
def data(): return embedded().subset(120).subset(60, parts=('valid',))


@pytest.mark.parametrize('rule', ['none', 'sqrt', 'linear'])
def test_rules_compose(rule):
    assert math.isclose(scale_lr(scale_lr(.1, 3, rule), 5, rule), scale_lr(.1, 15, rule))
    assert math.isclose(scale_lr(scale_lr(.1, 4, rule), .25, rule), .1)


@pytest.mark.parametrize('args, word', [((-1, 2), 'lr=-1'), ((.1, math.inf), 'factor=inf'), ((.1, 2, ''), 'rule=')])
def test_rules_refuse(args, word):
    with pytest.raises(ValueError, match=word): scale_lr(*args)


def test_trick_scales_by_the_factor_that_it_really_got():
    r = Recipe(batch_size=5, lr=.1, steps=1)
    p = plan(r + BatchSize(.5, 'linear')).recipe  # 2.5 images become 2
    assert p.batch_size == 2 and math.isclose(p.lr, .04)
    assert Recipe.from_json((r + BatchSize(3.)).to_json()) == r + BatchSize(3.)
    with pytest.raises(ValueError, match='both set batch_size'): plan(r + BatchSize() + BatchSize())
    for bad in (0, -1, math.nan): pytest.raises(ValueError, BatchSize, bad)
    with pytest.raises(ValueError, match='rule'): BatchSize(2., 'cubic')


@pytest.mark.parametrize('n, parts', [(7, 2), (7, 3), (7, 50), (1, 4)])
def test_accumulate_is_the_mean_over_single_images(n, parts):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3*3*5, 4)).double()
    x, y = torch.randn(n, 2, 5, 7).double().contiguous(memory_format=torch.channels_last), torch.arange(n) % 4
    loss = accumulate(net, CE, x, y, parts)
    got = [p.grad for p in net.parameters()]
    each = [torch.autograd.grad(CE(net(x[i:i + 1]), y[i:i + 1]), list(net.parameters())) for i in range(n)]
    for g, *gs in zip(got, *each): assert torch.allclose(g, sum(gs)/n)
    assert torch.isclose(loss, CE(net(x), y)) and not loss.requires_grad


def test_parts_are_seen_in_training_and_not_in_validation(data):
    seen = []
    learn = learner(FAST.replace(batch_size=40, steps=3), data, cbs=[MicroBatches(3)])
    learn.model.register_forward_pre_hook(lambda m, a: seen.append((m.training, len(a[0]))))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert [n for training, n in seen if training] == [14, 13, 13]*3
    assert [n for training, n in seen if not training] == [60]


def test_logged_losses_and_steps_are_those_of_whole_batches(data):
    base = Recipe(network='article', batch_size=40, steps=6, optimizer='sgd', lr=.01)

    class NoDropout:  # the parts draw other masks than the whole batch
        @staticmethod
        def off(learn):
            for m in learn.model.modules():
                if isinstance(m, nn.Dropout): m.p = 0.
    from fastai.callback.core import Callback

    class Off(Callback):
        def before_fit(self): NoDropout.off(self.learn)
    a, b = (train(r, data, 3, progress=False, cbs=[Off()]) for r in (base, base + Accumulate(3)))
    assert a.steps == b.steps == 6 and a.lrs == b.lrs
    assert torch.allclose(torch.tensor(a.losses), torch.tensor(b.losses), atol=1e-5)
    assert abs(a.history[-1]['train_loss'] - b.history[-1]['train_loss']) < 1e-5


def test_micro_batches_refuse_what_they_cannot_add_up(data):
    learn = learner(FAST, data, cbs=[MicroBatches(2)])
    learn.loss_func = nn.CrossEntropyLoss(reduction='sum')
    with pytest.raises(ValueError, match="reduction='sum'"), learn.no_bar(): learn.fit(1)
    learn = learner(FAST, data, cbs=[MicroBatches(2), MixedPrecision()])
    with pytest.raises(ValueError, match='MixedPrecision'), learn.no_bar(): learn.fit(1)
    for bad, error in ((0, ValueError), (1.5, TypeError)): pytest.raises(error, MicroBatches, bad)


def test_noise_scale_of_a_known_distribution():
    """One weight vector w, loss -w·x: the gradient of an image is -x, so G and Σ are those of x."""
    class Dot(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(20))
        def forward(self, x): return x @ self.w
    x = torch.randn(20_000, 20, generator=torch.Generator().manual_seed(0))*3 + 1  # tr Σ = 180, |G|² = 20
    for part in (1, 7, 100):
        found = noise_scale(Dot(), lambda p, y: -p.mean(), x, torch.zeros(len(x)), part)
        assert abs(found.noise/180 - 1) < .1 and abs(found.signal/20 - 1) < .1
        assert found.images == 20_000//part*part
    louder = noise_scale(Dot(), lambda p, y: -7*p.mean(), x, torch.zeros(len(x)), 100)
    assert math.isclose(louder.scale, found.scale, rel_tol=1e-5)


def test_noise_scale_leaves_the_model_alone_and_needs_no_batch_statistics():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(), nn.Linear(3*9, 2))
    net[0].weight.requires_grad_(False)
    x, y = torch.randn(40, 1, 5, 5), torch.arange(40) % 2
    before = {k: v.clone() for k, v in net.state_dict().items()}
    a, b = (noise_scale(net, CE, x, y, 4) for _ in range(2))
    assert a == b and net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    for bad in (0, 21, 2.): pytest.raises(ValueError, noise_scale, net, CE, x, y, bad)


def test_noise_scale_words():
    n = NoiseScale(300., 3., 10)
    assert n.scale == 100 and n.steps(50) == 3 and n.images_needed(50) == 1.5
    assert all(math.isclose((n.steps(b) - 1)*(n.images_needed(b) - 1), 1) for b in (1, 10, 1000))
    assert NoiseScale(1., -1., 10).scale == math.inf


def test_saved_for_backward_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2*4*6, 5))
    def kept(n): return sum(_saved(net, CE, torch.randn(n, 1, 6, 8), torch.zeros(n, dtype=torch.int64)))
    # image; output of the ReLU, which the linear layer's input shares; log-probabilities; label
    assert kept(6) - kept(3) == 3*(4*(6*8 + 2*4*6 + 5) + 8)


@pytest.mark.parametrize('name', ['fast', 'baseline'])
def test_memory_is_linear_in_the_batch(data, name):
    recipe = recipes[name]
    need = memory_needed(recipe, data)
    assert need == memory_needed(recipe + BatchSize(8.), data) == memory_needed(recipe + Accumulate(), data)
    got = {b: memory_measured(recipe.replace(batch_size=b), data) for b in (30, 60, 120)}
    assert .6 < (got[120] - got[60])/(2*(got[60] - got[30])) < 1.6
    assert all(.7 < got[b]/need.bytes(b) < 1.4 for b in got), (need, got)


def test_memory_words():
    assert Memory(100, 10).largest(99) == 0 and Memory(100, 10).largest(129) == 2


@pytest.mark.parametrize('limit', [0, 1, 3, 100, 1023])
@pytest.mark.parametrize('most', [1, 700])
def test_largest_batch_finds_any_limit(limit, most):
    tried = []
    def attempt(n):
        tried.append(n)
        if n > limit: raise [MemoryError(), torch.OutOfMemoryError('x'), RuntimeError('MPS backend out of memory')][n % 3]
    found, true = largest_batch(attempt, most), min(limit, most)
    assert true/1.1 - 1 <= found <= true and max(tried) <= most and len(tried) < 20


def test_largest_batch_passes_other_errors():
    def attempt(n): raise RuntimeError('shapes do not fit')
    with pytest.raises(RuntimeError, match='shapes'): largest_batch(attempt, 10)
    with pytest.raises(ValueError, match='most=0'): largest_batch(attempt, 0)


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits the address space')
def test_memory_that_really_runs_out():
    code = '''if True:
        import resource, torch
        from cnn_tricks.tools.batch_finder import largest_batch
        used = int(open('/proc/self/statm').read().split()[0])*resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 600*2**20,)*2)
        print(largest_batch(lambda n: torch.ones(n, 2**18), 10_000))'''  # 1 MiB a row
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert 300 < int(done.stdout) <= 600


def test_throughput_and_its_knee(data):
    speed = throughput(FAST + BatchSize(4.), data, (60, 10, 500), rounds=1)
    assert speed.sizes == [10, 60] and speed.knee(1.) in (10, 60)
    with pytest.raises(ValueError, match='none fits'): throughput(FAST, data, (500,))
    with pytest.raises(ValueError, match='share=0'): speed.knee(0)
    with pytest.raises(ValueError, match='batch_size=500'): recipe_step(FAST.replace(batch_size=500), data)
    falling = Throughput(Timings({'1': [1.], '10': [2.], '100': [40.]}), {1: 1, 10: 1, 100: 2})
    assert [falling.rate(b) for b in falling.sizes] == [1., 5., 5.] and falling.knee() == 10 and falling.knee(.2) == 1


def test_find_weighs_speed_against_noise(data):
    speed = Throughput(Timings({str(b): [1 + b/100] for b in (10, 100, 1000)}), dict.fromkeys((10, 100, 1000), 1))
    def found(scale): return BatchSizes(Memory(0, 1), 10, 10, speed, NoiseScale(scale, 1., 1)).suggested
    assert [found(s) for s in (1., 100., 10_000.)] == [10, 100, 1000]  # near the root of 100 × scale
    need = memory_needed(FAST, data)
    real = find_batch_size(FAST, data, memory=need.bytes(50), sizes=(8, 40, 100), steps=3, images=60, rounds=1)
    assert real.fits == 50 and real.speed.sizes == [8, 40] and real.noise.images == 60
    assert all(word in real.table().markdown for word in ('fit', 'fast', 'useful', 'start'))
