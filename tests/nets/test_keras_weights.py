"Keras models of several shapes give the same probabilities once their weights are in a network of torch."
import os

os.environ.update(KERAS_BACKEND='torch', KERAS_TORCH_DEVICE='cpu')

import numpy as np
import pytest
import torch
from torch import nn

from cnn_tricks.nets.keras_weights import keras_example, load_keras
from cnn_tricks.nets.networks import networks

keras = pytest.importorskip('keras', reason='keras is not installed (the extra dev has it)')


def same(model, net, shape):
    "The largest difference of two models' outputs on the same images; `shape` is (H, W, C)."
    x = torch.rand(5, *shape, generator=torch.Generator().manual_seed(1))
    theirs = torch.tensor(np.asarray(model.predict(x.numpy(), verbose=0)))
    with torch.no_grad(): ours = load_keras(net, model.get_weights()).eval()(x.permute(0, 3, 1, 2).contiguous())
    return (theirs - ours.softmax(1)).abs().max().item()


@pytest.mark.filterwarnings('ignore:Do not pass an `input_shape`')
def test_the_printed_example_trains_and_moves_to_the_article_network():
    keras.utils.set_random_seed(0)
    model, net = keras_example(), networks['article'](1, 10, 28)
    x, y = torch.rand(192, 28, 28, 1).numpy(), np.arange(192) % 3
    x[y == 0, :14] = 0
    x[y == 1, 14:] = 0
    losses = model.fit(x, y, epochs=5, batch_size=64, verbose=0).history['loss']
    assert losses[-1] < 0.8*losses[0]
    assert same(model, net, (28, 28, 1)) < 1e-5


def test_colours_and_sides_that_differ():
    layers, shape = keras.layers, (19, 24, 3)
    model = keras.Sequential([keras.Input(shape), *[layers.Conv2D(n, 3, activation='relu') for n in (4, 6)],
                              layers.MaxPooling2D(2), layers.Flatten(), layers.Dense(8, activation='relu'),
                              layers.Dense(5, activation='softmax')])
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                        nn.Linear(6*7*10, 8), nn.ReLU(), nn.Linear(8, 5))
    assert same(model, net, shape) < 1e-5
    plain = load_keras(net, model.get_weights())[6].weight  # without the new order the answers are others
    with torch.no_grad(): plain.copy_(torch.tensor(model.get_weights()[4].T.copy()))
    x = torch.rand(5, *shape)
    with torch.no_grad(): assert (net(x.permute(0, 3, 1, 2)).softmax(1)
                                  - torch.tensor(model.predict(x.numpy(), verbose=0))).abs().max() > 1e-3


@pytest.mark.parametrize('change, message', [
    (lambda w: w[:-1], 'weights: 9 arrays, but the network takes 10'),
    (lambda w: [*w[:2], w[0], *w[3:]], r'weights\[2\]: \(3, 3, 1, 32\) in Keras, \(32, 1, 3, 3\) in torch; the network takes'),
    (lambda w: [*w[:6], w[6][:-1], *w[7:]], r'weights\[6\]: \(575, 64\)')])
def test_weights_that_do_not_fit_change_nothing(change, message):
    net, other = (networks['article'](1, 10, 28) for _ in range(2))
    before = [p.clone() for p in net.parameters()]
    weights = [p.detach().numpy() for p in other.parameters()]
    weights = [w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T for w in weights]
    with pytest.raises(ValueError, match=message): load_keras(net, change(weights))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
    assert load_keras(net, weights) is net
    assert torch.equal(net.conv2.weight, other.conv2.weight)
