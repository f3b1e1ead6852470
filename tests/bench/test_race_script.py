"""The race's rivals are what was published, and its runs are made once, in turns, and counted as planned"""
import json, sys

import pytest
import torch
import torch.nn.functional as F

from cnn_tricks.core.recipe import Recipe
from cnn_tricks.data.datasets import embedded
from tests.common import ROOT

sys.path.insert(0, str(ROOT/'scripts'/'bench'))
import race, rivals  # noqa: E402

sys.path.pop(0)


@pytest.fixture(scope='module')
def data(): return embedded().subset(120, parts=('train', 'valid', 'test'))


def count(net): return sum(p.numel() for p in net.parameters())


def test_the_networks_have_the_published_sizes():
    assert count(rivals.airbench_net(3, 10)) == 1_972_792
    assert rivals.airbench_net(3, 10).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert count(rivals.fastai_net(1, 10)) == 4_907_588
    assert rivals.fastai_net(1, 10).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_whitened_patches_are_uncorrelated(data):
    x = (data.train.x.float()/255 - data.mean.view(-1, 1, 1))/data.std.view(-1, 1, 1)
    conv = rivals.airbench_net(1, 10, 4)[0]
    rivals.set_whitening(conv, x, eps=0.)
    y = F.conv2d(x, conv.weight).transpose(0, 1).flatten(1).double()
    second = y[:4] @ y[:4].T/y.shape[1]
    assert torch.allclose(second, torch.eye(4).double(), atol=1e-3) and torch.equal(conv.weight[4:], -conv.weight[:4])


def test_a_group_hands_its_input_on_at_the_start():
    conv, x = rivals._dirac(3, 8), torch.randn(2, 3, 6, 6)
    assert torch.allclose(conv(x)[:, :3], x)


def test_the_schedule_is_a_triangle():
    assert [round(rivals.triangle(t), 3) for t in (0, 0.115, 0.23, 0.615, 1)] == [0.2, 0.6, 1., 0.535, 0.07]


def test_six_views_are_a_mean():
    x = torch.arange(2*1*5*5.).view(2, 1, 5, 5)
    assert torch.allclose(rivals.six_views(lambda v: torch.ones(len(v), 3), x), torch.ones(2, 3))
    corner = lambda v: v[:, 0, 2, 2:3]  # noqa: E731 the middle pixel, which mirroring leaves
    assert torch.allclose(rivals.six_views(corner, x), x[:, 0, 2, 2:3]/2 + (x[:, 0, 1, [1, 3]].mean(1, True) +
                                                                         x[:, 0, 3, [3, 1]].mean(1, True))/4)


def test_moved_images_are_parts_of_the_padded_one():
    torch.manual_seed(0)
    x = torch.rand(20, 2, 6, 6)
    out = rivals.moved(x, 1)
    padded = F.pad(x, (1,)*4, 'reflect')
    places = [[torch.equal(o, p[:, r:r + 6, c:c + 6]) for r in range(3) for c in range(3)] for o, p in zip(out, padded)]
    assert all(sum(p) == 1 for p in places) and len({p.index(True) for p in places}) > 5


def test_airbench_learns():
    data = embedded().subset(500).subset(500, parts=('valid',))
    run = rivals.Run(data.valid, 8)
    rivals.airbench(run, data, 0, width=8, batch_size=32)
    assert run.steps == 120 and run.history[-1][2] > 0.4 and run.seconds == run.history[-1][1] > 0


def test_airbench_ends_in_the_middle_of_an_epoch_in_16_bits_too(data):
    run = rivals.Run(data.valid, 4.5, dtype=torch.bfloat16)
    rivals.airbench(run, data, 0, width=4, batch_size=20)
    assert run.steps == 27 and [h[0] for h in run.history] == [1, 2, 3, 4, 4.5]


def test_only_the_first_epoch_of_a_schedule(data):
    run = rivals.Run(data.valid, 5, only=1)
    rivals.fastai(run, data, 0, widths=(2, 4))
    assert [h[0] for h in run.history] == [1] and run.steps == 1


def test_the_tuned_arm_computes_the_same(data):
    runs = [rivals.Run(data.valid, 3) for _ in range(2)]
    for run, tuned in zip(runs, (False, True)): rivals.fastai(run, data, 0, tuned=tuned, widths=(2, 4))
    assert abs(runs[0].history[-1][2] - runs[1].history[-1][2]) < 0.1


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    "The race on a few images of the embedded part, with three short arms"
    monkeypatch.setattr(race, 'fashion_mnist', lambda valid: embedded())
    for name in 'measured_peak', 'best_speed': monkeypatch.setattr(race, name, lambda *args, **kwargs: 1e10)
    fast = Recipe(network='plain', network_args={'widths': [4]}, batch_size=20, optimizer='adamw', lr=0.01)
    arms = [race.Arm('fashion', 'airbench, width 2', 2, rivals.airbench, dict(width=2, batch_size=20), slow=True, rival=True),
            *(race.Arm('fashion', 'small', e, fast.replace(epochs=e)) for e in (1, 3))]
    monkeypatch.setattr(race, 'ARMS', arms)
    return lambda *args: race.main(['--images', '100', '--seeds', '2', '--device', 'cpu', '--out', str(tmp_path/'race.json'), *args])


def test_a_run_is_made_once_and_in_turns(tiny, tmp_path, capsys):
    tiny('--dry-run')
    said = capsys.readouterr().out
    assert 'airbench, width 2, 2 epochs: 1 whole, 5 of one epoch; about' in said and '10 runs to do' in said
    assert not (tmp_path/'race.json').exists()
    tiny('--hours', '0')
    assert '10 runs left' in capsys.readouterr().out or (tmp_path/'race.json').exists()
    tiny()
    said, kept = capsys.readouterr().out, json.loads((tmp_path/'race.json').read_text())
    assert len(kept['runs']) == 10 and '| target | reached first by |' in said and kept['judged'] == {'fashion': 20}
    order = list(kept['runs'])
    assert order.index('fashion, small, 1 epochs | seed 0 | whole') < order.index('fashion, small, 3 epochs | seed 0 | whole') \
        < order.index('fashion, small, 1 epochs | seed 1 | whole')
    assert all(r['seconds'] > 0 and r['peak'] for r in kept['runs'].values())
    tiny()
    assert '10/10' not in capsys.readouterr().out and json.loads((tmp_path/'race.json').read_text()) == kept
    tiny('--table')
    assert '| small, 3 epochs | 2 |' in capsys.readouterr().out


def test_held_out_images_are_no_test_images(tiny, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(race, 'one_run', lambda arm, data, judged, *rest: seen.append((data, judged)) or dict(
        seconds=1., steps=1, peak=1., history=[[1, 1., 0.5]]))
    tiny('--held-out', '--out', str(tmp_path/'a.json'))
    assert all(judged is data.valid for data, judged in seen)
    tiny('--out', str(tmp_path/'b.json'))
    assert all(judged is data.test and not len(data.valid) for data, judged in seen[len(seen)//2:])


def test_reached_is_the_shortest_planned_length_that_all_seeds_have_run():
    arms = [race.Arm('fashion', 'small', e, Recipe(epochs=e)) for e in (1, 2, 3)]
    def run(e, seed, accuracy): return f'{arms[e - 1].name} | seed {seed} | whole', dict(seconds=1.*e, history=[[e, 1.*e, accuracy]])
    runs = dict([run(1, 0, 0.95), run(2, 0, 0.8), run(2, 1, 0.9), run(3, 0, 0.9), run(3, 1, 0.9)])
    first = lambda target: [a.epochs for a, _ in race.reached(arms, runs, target, 2)]  # noqa: E731
    assert first(0.85) == [2] and first(0.86) == [3] and first(0.91) == []


def test_a_slow_arm_counts_its_timed_epochs():
    arm = race.Arm('fashion', 'slow', 4, rivals.fastai, slow=True, rival=True)
    runs = {f'{arm.name} | seed 0 | whole': dict(seconds=99., history=[[1, 9., 0.9], [4, 99., 0.8]])}
    runs |= {f'{arm.name} | seed {s} | epoch': dict(seconds=s + 1., history=[[1, 1., 0.5]]) for s in range(5)}
    assert race.found(arm, runs) == dict(accuracy=0.8, accuracies=[0.8], seconds=12., seeds=1)


def test_an_unknown_arm_is_named(capsys):
    with pytest.raises(SystemExit): race.main(['--arms', 'nobody'])
    assert 'none of these is part of a name' in capsys.readouterr().err
