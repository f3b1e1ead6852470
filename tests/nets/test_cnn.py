"What the lesson cannot say: torchvision's published numbers for many models, and models that misbehave."
import pytest
import torch
import torchvision
from torch import nn

from cnn_tricks.nets.layer_costs import (
    conv_macs, conv_out, conv_params, count_macs, count_params, layer_table, pool_out,
                            receptive_field, same_padding)
from cnn_tricks.nets.networks import networks

MODELS = ['alexnet', 'convnext_tiny', 'densenet121', 'efficientnet_b0', 'googlenet', 'mnasnet1_0', 'mobilenet_v2',
          'mobilenet_v3_small', 'resnet18', 'resnet50', 'resnext50_32x4d', 'shufflenet_v2_x1_0',
          'squeezenet1_1', 'vgg11', 'vgg16_bn', 'wide_resnet50_2']


@pytest.mark.parametrize('name', MODELS)
def test_counts_are_those_that_torchvision_publishes(name):
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    options = dict(aux_logits=False, init_weights=False) if name == 'googlenet' else {}
    with torch.device('meta'): model = torchvision.models.get_model(name, weights=None, **options)
    rows = layer_table(model, (3, 224, 224))
    assert count_params(model) == rows.params == meta['num_params']
    # published with three decimals
    assert count_macs(model, (3, 224, 224)) == rows.macs == pytest.approx(meta['_ops'] * 1e9, abs=0.6e6)


@pytest.mark.parametrize('batch', [(4, 1, 28, 28), torch.rand(4, 1, 28, 28)], ids=['shape', 'tensor'])
def test_a_batch_costs_as_many_times_as_it_has_images(batch):
    model = networks['article'](1, 10, 28)
    assert count_macs(model, batch) == 4 * count_macs(model, (1, 28, 28))


def test_counting_leaves_no_trace():
    model = networks['resnet'](1, 10, 28).train()
    model.stem.eval()  # a frozen part among the training ones
    modes = [m.training for m in model.modules()]
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    rows = layer_table(model, (1, 28, 28))
    assert modes == [m.training for m in model.modules()] and not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert rows.params == count_params(model)


def test_a_failing_model_is_left_as_it_was():
    model = networks['article'](1, 10, 28).train()
    with pytest.raises(RuntimeError): layer_table(model, (1, 40, 40))
    assert all(m.training for m in model.modules()) and not any(m._forward_hooks for m in model.modules())


def test_shared_and_idle_layers():
    "A layer that runs twice costs twice and counts its parameters once; one that does not run costs nothing."
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.idle, self.scale = nn.Conv2d(2, 2, 1), nn.Linear(5, 5), nn.Parameter(torch.ones(3))

        def forward(self, x): return self.conv(self.conv(x)) * self.scale.sum()

    net = Net()
    rows = layer_table(net, (2, 4, 4))
    assert rows.macs == 2 * 4 * 16 and rows.params == count_params(net) == 6 + 30 + 3
    assert [(r.layer, r.output) for r in rows if r.name == 'idle'] == [('Linear', None)]


@pytest.mark.parametrize('layer', [nn.MultiheadAttention(4, 2), nn.ConvTranspose2d(1, 1, 2), nn.GRU(2, 2)],
                         ids=lambda m: type(m).__name__)
def test_what_cannot_be_counted_is_refused(layer):
    with pytest.raises(ValueError, match=f'1: {type(layer).__name__} is not counted here'):
        count_macs(nn.Sequential(nn.ReLU(), layer), (1, 8, 8))


def test_table_shows_itself():
    lines = layer_table(networks['article'](1, 10, 28), (1, 28, 28))._repr_markdown_().splitlines()
    assert lines[2] == '| conv1 | Conv2d | 32 × 26 × 26 | 320 | 0.3% | 194,688 | 7.0% |'
    assert lines[-1] == '| total |  |  | 93,322 | 100.0% | 2,794,240 | 100.0% |'
    assert '0.0%' in layer_table(nn.ReLU(), (1, 2, 2))._repr_markdown_()  # nothing to divide by


@pytest.mark.parametrize('call, error, words', [
    (lambda: conv_out(0, 3), ValueError, 'size=0'), (lambda: conv_out(28, 3, stride=0), ValueError, 'stride=0'),
    (lambda: conv_out(28, 3, padding=-1), ValueError, 'padding=-1'), (lambda: conv_out(2.0, 1), TypeError, 'size=2.0'),
    (lambda: conv_out(28, True), TypeError, 'kernel_size=True'), (lambda: conv_out((1, 2, 3), 1), ValueError, 'one number'),
    (lambda: conv_out((28, 2), 3), ValueError, 'does not fit into 2'), (lambda: pool_out(5, 2, padding=2), ValueError, 'half'),
    (lambda: same_padding((3, 2)), ValueError, 'even'), (lambda: conv_params(3, 4, 3, groups=2), ValueError, 'groups=2'),
    (lambda: conv_macs(3, 4, 0, 5), ValueError, 'kernel_size=0'), (lambda: receptive_field([(3,)]), ValueError, 'layer='),
    (lambda: receptive_field([(3, 0)]), ValueError, 'stride=0'),
])
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words): call()


def test_whole_numbers_of_other_libraries_will_do():
    size = torch.tensor(28).numpy()[()]
    assert conv_out(size, 3) == 26 and type(conv_out(size, 3)) is int


@pytest.mark.parametrize('name', ['article', 'plain', 'resnet'])
@pytest.mark.parametrize('channels, size', [(1, (28, 28)), (3, (32, 32)), (3, (37, 53))])
def test_networks_take_any_channels_and_size(name, channels, size):
    model = networks[name](channels, 7, size).eval()
    assert model(torch.rand(2, channels, *size)).shape == (2, 7)


def test_article_starts_as_keras_does():
    "Glorot-uniform: within sqrt(6 / (fan in + fan out)), and nearly as far; biases zero."
    model = networks['article'](1, 10, 28)
    for m, fans in ((model.conv2, 9 * 32 + 9 * 64), (model.dense1, 576 + 64)):
        limit = (6 / fans) ** 0.5
        assert 0.99 * limit < m.weight.abs().max() <= limit and not m.bias.any()


def test_each_block_starts_as_its_shortcut():
    model = networks['resnet'](1, 10, 28, blocks=(2, 1)).train()
    x = torch.rand(4, 16, 8, 8)
    for block in (*model.stage1, *model.stage2):
        assert torch.equal(block(x), block.shortcut(x).relu())
        x = block(x).detach()
