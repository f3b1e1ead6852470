"The head on frozen features: the features are what the head sees, the decay is that of the smallest loss, and it is handed on."
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.train import learner, train
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.nets.pretrained import split_head
from cnn_tricks.tools.frozen_head import KeptFeatures, best_head, frozen_head
from cnn_tricks.tricks.transfer import features_of


def images(n=24, k=3):
    "Colours tell the class."
    def part(seed):
        g, y = torch.Generator().manual_seed(seed), torch.arange(n) % k
        x = torch.randint(120, (n, 3, 32, 32), generator=g)
        x[torch.arange(n), y] += 100
        return Part(x.to(torch.uint8), y)
    return ImageData(part(0), part(1), part(2), [f'c{i}' for i in range(k)], name='colours')


def recipe(folder, *more):
    torch.manual_seed(0)
    save_file(timm.create_model('test_resnet').state_dict(), folder/'w.safetensors')
    tuned = dict(name='fine_tune', weights=f'timm/test_resnet@{folder}/w.safetensors')
    return Recipe.from_dict(dict(steps=1, batch_size=8, lr=1e-3, optimizer='adamw', tricks=[tuned, *more]))


def test_features_are_what_the_head_sees():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).train()
    x, y, seen = torch.randn(7, 3, 8, 8), torch.arange(7) % 2, []
    features, labels = features_of(model, [(x[:4], y[:4]), (x[4:], y[4:])], seen.append)
    assert torch.equal(features, model.eval()[:4](x)) and torch.equal(labels, y) and seen == [4, 3]
    assert not features.requires_grad and not model[-1]._forward_pre_hooks


def test_the_mode_of_the_network_is_left_alone():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).train()
    features_of(model, [(torch.randn(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64))])
    assert model.training


def test_the_decay_of_the_smallest_validation_loss_is_taken():
    "Few noisy images of many features: without a penalty the head is sure of what it learned by heart."
    g = torch.Generator().manual_seed(0)
    def part(n):
        y = torch.arange(n) % 2
        x = torch.randn(n, 60, generator=g)
        x[:, 0] += y
        return x, y
    learn, valid = part(40), part(200)
    head, decay, found = best_head(learn, valid, 2, (1e-4, 0.1, 1., 100.))
    assert decay == min(found, key=lambda d: found[d][0]) and 1e-4 < decay < 100 and list(found) == [1e-4, 0.1, 1., 100.]
    with torch.no_grad(): scores = head(valid[0])
    assert abs(F.cross_entropy(scores, valid[1]).item() - found[decay][0]) < 1e-6


def test_a_head_is_a_result(tmp_path):
    data, made = images(), recipe(tmp_path)
    result, kept = frozen_head(made, data, device='cpu')
    assert result.steps == 0 and result.finished and len(result.history) == 1 and result.losses == [] and result.test_reads == 0
    predicted = result.trained.predict(data.valid.x).argmax(1)
    assert result.accuracy == (predicted == data.valid.y).float().mean().item() > 0.8
    assert result.trained.mean == [.5]*3 and kept.given[0].shape[0] == len(data.train)
    assert result.chosen['frozen_head']['decay'] in (0.003, 0.01, 0.03, 0.1, 0.3)
    body = learner(made, data, device='cpu').model.state_dict()
    name = split_head(result.trained.model)[0]
    assert all(torch.equal(v, body[k]) for k, v in result.trained.model.state_dict().items() if not k.startswith(f'{name}.'))


def test_fine_tuning_starts_from_the_features_that_are_there(tmp_path):
    "What is handed on gives the same run as features that are computed again."
    data, made = images(), recipe(tmp_path, dict(name='head_start', decay=0.1)).replace(steps=2)
    _, kept = frozen_head(made.replace(steps=1), data, device='cpu')
    other = KeptFeatures((kept.given[0].flip(0), kept.given[1]))
    again, handed, wrong = (train(made, data, progress=False, cbs=cbs, device='cpu') for cbs in ([], [kept], [other]))
    assert again.losses == handed.losses != wrong.losses
