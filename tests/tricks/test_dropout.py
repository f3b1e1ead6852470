"""Dropout: closed forms by many draws, masks, places in every network; stochastic depth against its own definition."""
import pytest
import torch
from timm.layers import DropPath
from torch import distributed, nn
from torch.nn import functional as F
from training import StopAt, same

from cnn_tricks.core.run_control import Interrupted
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.dropout import StochasticBlock, WithDropout, WithStochasticDepth, drop_rates, set_dropout
from cnn_tricks.tricks.dropout import set_stochastic_depth
from cnn_tricks.nets.networks import ResBlock, networks
from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.nets.resizing import norm_layers
from cnn_tricks.core.train import train


@pytest.fixture(scope='module')
def data(): return embedded().subset(96).subset(50, parts=('valid', 'test'))


def kinds(model, kind): return [m for m in model.modules() if type(m) is kind]


# where it goes

@pytest.mark.parametrize('name', ['article', 'plain', 'resnet'])
@pytest.mark.parametrize('place', ['head', 'values', 'channels'])
def test_places(name, place):
    "As many layers as it says, at the rate asked for; in `eval` mode the network answers as before."
    torch.manual_seed(0)
    model, x = networks[name](3, 5, (28, 23)), torch.rand(4, 3, 28, 23)
    before, convs = model.eval()(x), len(kinds(model, nn.Conv2d))
    n = set_dropout(model, 0.3, place)
    assert n == (1 if place == 'head' else convs - 1)
    new = kinds(model, nn.Dropout2d if place == 'channels' else nn.Dropout)
    own = name == 'article' and place == 'values'  # its own in the head stays as it was
    assert len(new) == n + own and sorted(m.p for m in new) == [0.3]*n + [0.5]*own
    assert bool(torch.equal(model(x), before)) and not any(m.training for m in model.modules())
    torch.manual_seed(1)
    assert not torch.equal(model.train()(x), model(x))


def test_head_again():
    "A second time, the rate is set anew; what stands among the convolutions is not the head's."
    model = networks['plain'](1, 10, 28)
    for p in (0.2, 0.7): assert set_dropout(model, p) == 1 and [m.p for m in kinds(model, nn.Dropout)] == [p]
    set_dropout(model, 0.1, 'values')
    assert set_dropout(model, 0.6) == 1 and sorted(m.p for m in kinds(model, nn.Dropout)) == [0.1, 0.6]


def test_channels_are_whole():
    "By channels, a map of the second convolution's input is all there or all gone; images do not share the choice."
    model, seen = networks['plain'](1, 10, 28), []
    set_dropout(model, 0.5, 'channels')
    kinds(model, nn.Dropout2d)[0].register_forward_hook(lambda m, x, y: seen.extend((x[0], y)))
    model(torch.randn(16, 1, 28, 28))
    x, y = seen
    gone = (y == 0).flatten(2).all(2)
    assert bool(((y == 0) == (gone[..., None, None] | (x == 0))).all()) and 0.3 < gone.double().mean() < 0.7
    assert bool((gone != gone[:1]).any()) and bool(torch.allclose(y[~gone], 2*x[~gone]))


@pytest.mark.parametrize('p', [0.1, 0.5, 0.9])
def test_shift_before_batch_norm(p):
    "The variance that a norm behind dropout keeps: E[x²]/(1 - p) - E[x]², by its definition from many draws."
    torch.manual_seed(0)
    x = 1 + 0.5*torch.randn(200_000, 1, dtype=torch.float64)
    y = nn.Dropout(p)(x)
    want = 1.25/(1 - p) - 1
    assert y.mean().item() == pytest.approx(1, abs=0.03) and y.var().item() == pytest.approx(want, rel=0.03)


@pytest.mark.parametrize('call, match', [
    (lambda: set_dropout(nn.Sequential(nn.Linear(2, 2)), 1.), 'p=1.0'),
    (lambda: set_dropout(nn.Sequential(nn.Linear(2, 2)), -0.1), 'p=-0.1'),
    (lambda: set_dropout(nn.Sequential(nn.Linear(2, 2)), 0.1, 'tail'), "place='tail'"),
    (lambda: set_dropout(nn.Sequential(nn.Conv2d(1, 2, 3))), 'no linear layer'),
    (lambda: set_dropout(nn.Sequential(nn.Conv2d(1, 2, 3)), 0.1, 'values'), 'no second convolution'),
    (lambda: drop_rates(0), 'n=0'), (lambda: drop_rates(3, 1.), 'p=1.0'),
    (lambda: StochasticBlock(ResBlock(2, 2), 1.), 'p=1.0'),
    (lambda: set_stochastic_depth(nn.Sequential(), 0.5, 'column'), "mode='column'"),
    (lambda: WithDropout(1.), 'p'), (lambda: WithDropout(place='x'), 'place'),
    (lambda: WithStochasticDepth(mode='x'), 'mode')])
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match): call()


# stochastic depth

def deep(seed=0):
    torch.manual_seed(seed)
    model = networks['resnet'](1, 10, 28, width=4, blocks=[2, 2, 1])
    for m in norm_layers(model): nn.init.uniform_(m.weight, 0.5, 1.)
    return model


def test_rates():
    assert drop_rates(4, 0.8) == pytest.approx([0.2, 0.4, 0.6, 0.8]) and drop_rates(1, 0.3) == [0.3]
    model = deep()
    assert set_stochastic_depth(model, 0.5) == 5
    assert [m.drop.p for m in kinds(model, StochasticBlock)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert set_stochastic_depth(model, 0.2, 'row') == 5  # again: other rates, no second layer
    assert [(m.drop.p, m.drop.mode) for m in kinds(model, StochasticBlock)][-1] == (0.2, 'row')


@pytest.mark.parametrize('mode', ['batch', 'row'])
def test_same_weights_and_eval(mode):
    model, x = deep().eval(), torch.rand(3, 1, 21, 28)
    before, state = model(x), model.state_dict()
    set_stochastic_depth(model, 0.7, mode)
    assert same(model.state_dict(), state) and bool(torch.equal(model(x), before))
    fresh = deep(1).eval()
    fresh.load_state_dict(model.state_dict())
    assert bool(torch.equal(fresh(x), before))


@pytest.mark.parametrize('stride', [1, 2])
def test_mean_of_the_branch(stride):
    "Before the ReLU, the mean over many steps is the block of prediction, in both modes."
    torch.manual_seed(0)
    block, x = ResBlock(3, 3 if stride == 1 else 6, stride).eval(), torch.randn(2, 3, 5, 7)
    nn.init.ones_(block.body[-1][-1].weight)
    block.act = nn.Identity()
    want = block(x)
    for mode in ('batch', 'row'):
        s = StochasticBlock(block, 0.4, mode).train()
        s.body.eval(), s.shortcut.eval()  # the same branch in every step
        got = torch.stack([s(x) for _ in range(4000)]).mean(0)
        assert (got - want).abs().max() < 0.15 * want.abs().max()


def test_rows_as_timm():
    block, x = deep().stage1[0], torch.rand(8, 4, 6, 5)
    rows, path = StochasticBlock(block, 0.5, 'row').train(), DropPath(0.5)
    torch.manual_seed(5)
    got = rows(x)
    torch.manual_seed(5)
    torch.testing.assert_close(got, F.relu(path(block.body(x)) + x))


def test_left_out_is_not_run():
    "A body that is left out: no call, no gradient, no batch counted. One that stays is scaled."
    block, x, calls = deep().stage1[0], torch.rand(4, 4, 6, 6), []
    s = StochasticBlock(block, 0.5).train()
    s.body.register_forward_hook(lambda m, i, y: calls.append(y))
    seen = set()
    for _ in range(40):
        calls.clear()
        y = s(x)
        seen.add(len(calls))
        torch.testing.assert_close(y, F.relu(x + 2*calls[0] if calls else x))
    assert seen == {0, 1}


def test_every_process_has_all_gradients(tmp_path):
    "In a group of processes every body is run, since the gradients of all are averaged."
    if not distributed.is_available() or not distributed.is_gloo_available(): pytest.skip('torch is built without gloo')
    distributed.init_process_group('gloo', init_method=(tmp_path/'meet').as_uri(), rank=0, world_size=1)
    try:
        s = StochasticBlock(deep().stage1[0], 0.9).train()
        for _ in range(5):
            s.zero_grad()
            s(torch.rand(2, 4, 6, 6)).sum().backward()
            assert all(p.grad is not None for p in s.body.parameters())
    finally: distributed.destroy_process_group()


# as tricks

def test_registered(): assert {'dropout', 'stochastic_depth'} <= set(tricks.names())


def test_no_blocks_warns(data):
    with pytest.warns(UserWarning, match='no residual block'): WithStochasticDepth().structure(networks['plain'](1, 10, 28))


@pytest.mark.parametrize('trick', [WithStochasticDepth(0.6), WithStochasticDepth(0.6, 'row'),
                                   WithDropout(0.3, 'channels')], ids=['batch', 'row', 'channels'])
def test_resumed_on_a_residual_network(data, tmp_path, trick):
    "Stopped in the middle of an epoch and resumed, the weights are those of a run that was not stopped."
    net = dict(network='resnet', network_args=dict(width=4, blocks=[2, 1]))
    recipe = Recipe(**net, optimizer='adamw', batch_size=24, steps=7) + trick
    straight = train(recipe, data, progress=False)
    plain = train(recipe.replace(tricks=()), data, progress=False)
    assert straight.losses[1:] != plain.losses[1:]
    with pytest.raises(Interrupted):
        train(recipe, data, progress=False, out=tmp_path, checkpoint_every=0, cbs=[StopAt(5)])
    resumed = train(recipe, data, progress=False, out=tmp_path, resume=True)
    assert same(resumed.trained.model.state_dict(), straight.trained.model.state_dict())
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_colour_not_square():
    x, y = torch.randint(0, 256, (64, 3, 20, 24), dtype=torch.uint8), torch.arange(64) % 4
    part = Part(x, y)
    images = ImageData(part, part, part, ('a', 'b', 'c', 'd'))
    for t in (WithDropout(), WithDropout(0.1, 'values'), WithStochasticDepth()):
        r = Recipe(network='resnet', network_args=dict(width=4), batch_size=16, steps=3) + t
        assert train(r, images, progress=False).steps == 3
