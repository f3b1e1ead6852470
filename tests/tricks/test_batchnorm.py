"""Batch norm's tricks and its folding: against PyTorch's own, on networks of many shapes, and with bad input."""
import copy, warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2, resnet18

from cnn_tricks.tricks.batchnorm import ChannelBias, JitteredNorm, WithBatchNorm, WithGroupNorm, with_norm, without_norm
from cnn_tricks.data.datasets import embedded
from cnn_tricks.nets.fold_batchnorm import conv_norm_pairs, fold_batch_norm
from cnn_tricks.nets.networks import networks
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.nets.resizing import norm_layers
from cnn_tricks.core.train import train


@pytest.fixture(scope='module')
def data(): return embedded().subset(64).subset(50, parts=('valid',))


def used(net, *shape):
    "The network after a few batches, with statistics, scales and shifts that are not those of the start."
    torch.manual_seed(1)
    for _ in range(3): net.train()(2*torch.randn(shape) + 1)
    for m in norm_layers(net): nn.init.uniform_(m.weight, 0.5, 2), nn.init.normal_(m.bias)
    return net.eval()


def same(a, b, tol=1e-4): return (a - b).abs().max().item() <= tol*max(1, b.abs().max().item())


def test_with_norm_is_behind_each_convolution():
    "The convolutions are the old ones without their bias; colour and non-square images pass."
    torch.manual_seed(0)
    old = networks['article'](3, 5, (30, 24))
    new = with_norm(copy.deepcopy(old))
    assert [type(new.conv1[i]) for i in (0, 1)] == [nn.Conv2d, nn.BatchNorm2d]
    assert len(norm_layers(new)) == 3 and all(getattr(new, f'conv{i}')[0].bias is None for i in (1, 2, 3))
    x = torch.rand(4, 3, 30, 24)
    want = F.batch_norm(F.conv2d(x, old.conv1.weight), None, None, training=True)
    assert same(new.conv1(x), want, 1e-4) and new(x).shape == (4, 5)


@pytest.mark.parametrize('norm', [nn.GroupNorm, nn.InstanceNorm2d, nn.BatchNorm2d])
def test_networks_with_norms_stay(norm):
    args = (2, 4) if norm is nn.GroupNorm else (4,)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(norm(*args)))
    before = str(net)
    assert str(with_norm(net)) == before
    with pytest.warns(UserWarning, match='has norm layers already'): WithBatchNorm().structure(net)


def test_with_norm_bad_input():
    with pytest.raises(ValueError, match='matches itself'): with_norm(nn.Conv2d(1, 2, 3))
    with pytest.raises(ValueError, match='matches itself'): without_norm(nn.BatchNorm2d(2))
    for bad in (dict(momentum=0.), dict(momentum=1.1), dict(jitter=-1.)):
        with pytest.raises(ValueError, match=f'{next(iter(bad))}='): WithBatchNorm(**bad)
    with pytest.raises(ValueError, match='groups=0'): WithGroupNorm(0)


def test_without_norm():
    "What is left is x + b; the dtype is kept, and all kinds of batch norm go."
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(4)), nn.SyncBatchNorm(2)).double()
    assert without_norm(net) is net and net[0].bias.dtype == torch.float64
    assert [type(m) for m in (net[0], net[1][0], net[2])] == [ChannelBias]*3
    x = torch.rand(2, 3, 4, 5)
    bias = ChannelBias(3)
    nn.init.normal_(bias.bias)
    by_loop = torch.stack([x[:, c] + bias.bias[c] for c in range(3)], 1)
    assert torch.equal(bias(x), by_loop) and ChannelBias(3)(torch.ones(7, 3)).shape == (7, 3)
    assert sum(p.numel() for p in without_norm(networks['plain'](1, 10, 28)).stem.parameters()) == 24*25 + 24


def test_shared_norm_stays_shared():
    norm = nn.BatchNorm2d(3)
    net = without_norm(nn.Sequential(norm, nn.ReLU(), norm))
    assert net[0] is net[2] and len(list(net.parameters())) == 1


def test_jitter():
    "Training: the mean and spread over channels are those asked for, alike for all images. Eval: as usual."
    torch.manual_seed(0)
    m, x = JitteredNorm(2000, 0.3), torch.randn(8, 2000, 3, 3)
    y, plain = m(x), nn.BatchNorm2d(2000)(x)
    shift = y.mean((0, 2, 3))
    scale = y.std((0, 2, 3), correction=0)
    assert abs(shift.std() - 0.3) < 0.02 and abs(shift.mean()) < 0.03
    assert abs(scale.mean() - 1) < 0.03 and abs(scale.std() - 0.3) < 0.02
    assert same((y - shift.view(-1, 1, 1)).abs(), plain.abs()*scale.view(-1, 1, 1), 1e-3)
    assert not torch.equal(m(x), y) and torch.equal(m.eval()(x), F.batch_norm(x, m.running_mean, m.running_var))


def test_group_norm_trick():
    "In the place of batch norm with its scale and shift; fewer groups where 8 do not divide."
    net = networks['resnet'](1, 10, 28, width=12)
    gammas = [m.weight.detach().clone() for m in norm_layers(net)]
    WithGroupNorm().structure(net)
    new = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
    assert not norm_layers(net) and len(new) == len(gammas)
    assert {m.num_groups for m in new} == {4, 8} and all(torch.equal(m.weight, g) for m, g in zip(new, gammas))
    bare = WithGroupNorm(groups=5).structure(networks['article'](1, 10, 28))
    assert bare.conv1[1].num_groups == 1 and bare.conv1[0].bias is not None
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False))
    assert WithGroupNorm(2).structure(plain)[1].weight.tolist() == [1.]*4


@pytest.mark.parametrize('trick', [WithBatchNorm(), WithBatchNorm(jitter=0.2), WithGroupNorm()], ids=str)
def test_trained_network_is_built_again(data, tmp_path, trick):
    "A recipe with the trick survives JSON; the trained network survives saving."
    from cnn_tricks.core.result import load_trained
    r = Recipe(steps=3, batch_size=16) + trick
    assert Recipe.from_json(r.to_json()) == r
    result = train(r, data, progress=False)
    result.trained.save(tmp_path)
    x = data.valid.x[:9]
    assert same(load_trained(tmp_path).predict(x), result.trained.predict(x), 1e-6)


def test_batch_norm_on_the_same_start(data):
    "Both arms begin with the same convolutions: the trick draws no random numbers."
    from cnn_tricks.core.train import learner
    a, b = (learner(r, data, seed=5).model for r in (Recipe(steps=1), Recipe(steps=1) + WithBatchNorm()))
    assert torch.equal(a.conv2.weight, b.conv2[0].weight) and torch.equal(a.dense2.weight, b.dense2.weight)


@pytest.mark.parametrize('name, size', [('plain', (28, 28)), ('resnet', (31, 18))])
def test_fold_registered_networks(name, size):
    net = used(networks[name](3, 7, size), 8, 3, *size)
    kept, x = copy.deepcopy(net.state_dict()), torch.randn(5, 3, *size)
    with torch.no_grad(): want, lean = net(x), fold_batch_norm(net.train())
    assert net.training and all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    assert not norm_layers(lean) and not lean.training and type(lean) is type(net)
    assert same(lean(x), want)


@pytest.mark.parametrize('make, norms', [(resnet18, 20), (mobilenet_v2, 52)])
def test_fold_torchvision(make, norms):
    torch.manual_seed(0)
    net = used(make(num_classes=4), 4, 3, 33, 40)
    x = torch.randn(2, 3, 33, 40)
    with torch.no_grad(): assert len(conv_norm_pairs(net)) == norms and same(fold_batch_norm(net)(x), net(x), 1e-3)


class Both(nn.Module):
    "The convolution's output is read by the norm and by a shortcut."
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    def forward(self, x): return self.norm(y := self.conv(x)) + y


def odd_networks():
    conv, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    return {'shared convolution': nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3)),
            'shared norm': nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm),
            'shortcut': Both(), 'norm first': nn.Sequential(norm, conv),
            'no running statistics': nn.Sequential(conv, nn.BatchNorm2d(3, track_running_stats=False))}


@pytest.mark.parametrize('name', odd_networks())
def test_fold_leaves_what_it_may_not_touch(name):
    net = odd_networks()[name].eval()
    for _ in range(3): net.train()(2*torch.randn(4, 3, 5, 6) + 1)
    net.eval()
    x = torch.randn(2, 3, 5, 6)
    assert conv_norm_pairs(net) == [] and torch.equal(fold_batch_norm(net)(x), net(x))


def test_fold_other_dimensions_and_layouts():
    for d, conv, norm in ((1, nn.Conv1d, nn.BatchNorm1d), (3, nn.Conv3d, nn.BatchNorm3d)):
        net = used(nn.Sequential(conv(2, 4, 3, groups=2, bias=False), norm(4)), 3, 2, *[5]*d)
        x = torch.randn(2, 2, *[5]*d)
        assert not norm_layers(lean := fold_batch_norm(net)) and same(lean(x), net(x))
    net = used(networks['plain'](1, 10, 28), 8, 1, 28, 28).to(memory_format=torch.channels_last)
    lean = fold_batch_norm(net)
    assert lean.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    half = fold_batch_norm(copy.deepcopy(net).bfloat16())
    assert half.stem[0].weight.dtype == torch.bfloat16


def test_fold_says_what_it_cannot_follow():
    class Branch(nn.Module):
        def forward(self, x): return x if x.sum() > 0 else -x
    with pytest.raises(ValueError, match='cannot follow Branch'): fold_batch_norm(Branch())


def test_registered_networks_take_the_tricks():
    for name in ('article', 'plain', 'resnet'):
        for trick in (WithBatchNorm(), WithGroupNorm()):
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                net = trick.structure(networks[name](3, 4, (32, 20)))
            assert net(torch.rand(2, 3, 32, 20)).shape == (2, 4)
