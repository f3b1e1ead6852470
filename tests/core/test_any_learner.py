"""Every callback and function of the package that is meant for a `Learner` works in any: fastai's own, on its own loaders.

Callbacks and functions are found by introspection, so a new one is tested too; what needs arguments is listed below.
"""
import copy, inspect, random
from functools import partial
from importlib import import_module
from pkgutil import walk_packages

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import ParamScheduler
from fastai.data.core import DataLoaders
from fastai.learner import CastToTensor, Learner, Recorder, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import Adam, OptimWrapper
from fastai.torch_core import set_seed
from fastai.vision.augment import Flip
from fastai.vision.data import ImageDataLoaders, Normalize, imagenet_stats
from PIL import Image
from rich.console import Console
from torch import nn

import cnn_tricks
from cnn_tricks.tricks.activations import LSUVInit, replace_activations
from cnn_tricks.tools.autotune import Setting, autotune, current_setting
from cnn_tricks.tricks.averaging import AverageWeights
from cnn_tricks.tools.batch_finder import find_batch_size
from cnn_tricks.tricks.batch_size import MicroBatches
from cnn_tricks.tricks.batchnorm import without_norm
from cnn_tricks.core.run_control import RunControl, RunState, chosen_by, stateful
from cnn_tricks.data.images import Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.imbalance import WeightClasses
from cnn_tricks.tricks.depthwise import ConvNeXtConv, to_depthwise
from cnn_tricks.core.fused_step import FuseOptimizer
from cnn_tricks.tools.frozen_head import KeptFeatures
from cnn_tricks.tools.gradcam import WatchHeat
from cnn_tricks.measure.bench_run import FreshStatistics
from cnn_tricks.tricks.hardware import lay_out, step_operations, step_phases, utilisation
from cnn_tricks.tricks.penalties import DecayWeights, ShrinkToZero
from cnn_tricks.tricks.precision import Autocast
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.tricks.resolution import ProgressiveResizing
from cnn_tricks.cli.progress import RunBar
from cnn_tricks.core.fitting import FitCallback, StepLimit, limited, planned_steps
from cnn_tricks.core.training_step import TrainingStep, batch_inputs, first_batch, unmoved
from cnn_tricks.tricks.fine_tuning import FreezeNorm
from cnn_tricks.tricks.stopping import KeepBest
from cnn_tricks.core.train import fit_steps
from cnn_tricks.tricks.transfer import fine_tune, start_head
from cnn_tricks.tricks.warmup import LinearWarmup

adamw = partial(OptimWrapper, opt=partial(torch.optim.AdamW))

# arguments for what has some without a default
MADE = {ShrinkToZero: partial(ShrinkToZero, 0.1), DecayWeights: partial(DecayWeights, 0.1),
        RunControl: lambda: RunControl(RunState(1000)), RunBar: lambda: RunBar('run', Console(quiet=True)),
        Autocast: partial(Autocast, 'bfloat16'), MicroBatches: partial(MicroBatches, 2),
        StepLimit: partial(StepLimit, 1000), KeptFeatures: partial(KeptFeatures, ())}
# those whose purpose it is that other weights come out; all others must not change a fit
CHANGES = {FreshStatistics, WeightClasses, FreezeNorm, LSUVInit, AverageWeights, ShrinkToZero, DecayWeights, Autocast, ProgressiveResizing, LinearWarmup, KeepBest,
           RunControl, MicroBatches, FuseOptimizer, StepLimit}
OPT = {FuseOptimizer: adamw} # fastai's own optimisers have no fused version


def modules(): return [import_module(m.name) for m in walk_packages(cnn_tricks.__path__, 'cnn_tricks.') if '._' not in m.name]


def public(kind):
    "What the package's modules define, by name, the private left out."
    found = {n: o for m in modules() for n, o in vars(m).items()
             if kind(o) and o.__module__ == m.__name__ and not n.startswith('_')}
    return dict(sorted(found.items()))


def first_parameter(o):
    try: ps = list(inspect.signature(o).parameters.values())
    except (TypeError, ValueError): return None
    return ps[0] if ps else None


def for_a_learner(o):
    if not (inspect.isfunction(o) or inspect.isclass(o) and not issubclass(o, Callback)): return False
    p = first_parameter(o)
    return p is not None and (p.name == 'learn' or p.annotation in (Learner, 'Learner'))


# what stands in for one of fastai's own keeps what that one keeps: tests/core/test_direct_learner.py holds them equal
CALLBACKS = {n: c for n, c in public(lambda o: inspect.isclass(o) and issubclass(o, Callback)).items()
             if c is not FitCallback and not issubclass(c, (CastToTensor, ParamScheduler, Recorder))}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Three easy classes, a dozen 32 px pictures each."
    out, rng = tmp_path_factory.mktemp('DATA'), np.random.default_rng(0)
    for k, c in enumerate(('red', 'green', 'blue')):
        (out/c).mkdir()
        for i in range(12):
            a = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            a[..., k] += 100
            Image.fromarray(a).save(out/c/f'{i}.png')
    return out


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 3))


def stock(folder, path, cbs=None, opt=Adam):
    set_seed(0)
    dls = ImageDataLoaders.from_folder(folder, valid_pct=1/3, seed=0, bs=8, num_workers=0, device='cpu',
                                       batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats, cuda=False)])
    set_seed(1)
    learn = Learner(dls, net(), opt_func=opt, lr=1e-3, cbs=cbs, metrics=accuracy, path=path)
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    learn.logger = print_nothing
    return learn


def print_nothing(*args): pass


def ours(path, cbs=None, opt=Adam):
    data = embedded().subset(48).subset(24, parts=('valid',))
    set_seed(1)
    small = nn.Sequential(nn.Conv2d(1, 3, 1), net())
    small[1][-1] = nn.Linear(16, 10)
    learn = Learner(data.loaders(8, device='cpu'), small, CrossEntropyLossFlat(), opt, 1e-3, cbs=cbs, metrics=accuracy,
                    path=path)
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    learn.logger = print_nothing
    return learn


# what may not change

def plain(v, depth=0):
    "Anything as plain values that can be compared; what is too deep is named by its type."
    if torch.is_tensor(v): return v.detach().tolist()
    if isinstance(v, nn.Module): return plain(v.state_dict(), depth)
    if isinstance(v, dict): return {repr(k) if isinstance(k, (str, int, tuple)) else type(k).__name__: plain(x, depth + 1)
                                    for k, x in v.items()}
    if isinstance(v, (list, tuple, set)): return [plain(x, depth + 1) for x in v]
    if isinstance(v, (int, float, str, bool, type(None))): return repr(v)
    if hasattr(v, 'state_dict'): return plain(v.state_dict(), depth + 1)
    return plain(vars(v), depth + 1) if isinstance(v, RunState) else type(v).__name__


def record(cb): return {k: plain(v) for k, v in vars(cb).items() if k not in ('learn', 'run', 'fitting', 'shown')}


def hooks(model): return [(len(m._forward_hooks), len(m._forward_pre_hooks), 'forward' in vars(m)) for m in model.modules()]


def weights(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}


def same(a, b): return a.keys() == b.keys() and all(bool(torch.equal(a[k], b[k])) for k in a)


def chance(): return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def loader_chance(learn): return [dl.rng.getstate() for dl in learn.dls.loaders]


USES = dict(validate=lambda learn, item: learn.validate(), get_preds=lambda learn, item: learn.get_preds(),
            train_preds=lambda learn, item: learn.get_preds(0, with_loss=True), tta=lambda learn, item: learn.tta(n=2),
            predict=lambda learn, item: learn.predict(item))


def check_uses(learn, other, item, uses=USES):
    "Each way of using a network gives what `other`, which has its weights, gives; and nothing is changed."
    other.model.load_state_dict(learn.model.state_dict())
    cb = learn.cbs[-1]
    for name, use in uses.items():
        was, kept, armed, moved = weights(learn), record(cb), hooks(learn.model), []
        for one in (other, learn):
            for dl in one.dls.loaders: dl.rng = random.Random(3)
            set_seed(3)
            got = use(one, item)
            moved.append((chance(), loader_chance(one)))
            got = torch.as_tensor(got[0] if name != 'predict' else got[2]) if name != 'validate' else None
            if one is other: want = got
        assert got is None or torch.allclose(got, want, atol=0.02), name
        assert same(weights(learn), was), f'{name} changes weights'
        assert record(cb) == kept, f'{name} changes what {cb} keeps'
        assert hooks(learn.model) == armed and learn.cbs[-1] is cb, name
        assert moved[0] == moved[1], f'{name} moves random numbers'


def test_case_13_all_are_found():
    assert {'Autocast', 'AverageWeights', 'KeepBest', 'RunControl', 'WatchHeat'} <= CALLBACKS.keys()
    assert set(public(for_a_learner)) == CALLS.keys(), 'say below how a new function for a `Learner` is called'


@pytest.mark.parametrize('name', CALLBACKS)
def test_case_13_callback(name, folder, tmp_path):
    kind, item = CALLBACKS[name], folder/'red'/'0.png'
    make, opt = MADE.get(kind, kind), OPT.get(kind, Adam)
    learn, other = stock(folder, tmp_path, make(), opt), stock(folder, tmp_path, opt=opt)
    check_uses(learn, other, item)
    for one in (stock(folder, tmp_path, opt=opt), learn):
        for dl in one.dls.loaders: dl.rng = random.Random(3)
        set_seed(3)
        one.fit(2)
        state = loader_chance(one)
        if one is not learn: want, moved = weights(one), state
    assert state == moved, 'the loader goes on elsewhere'
    assert kind in CHANGES or same(weights(learn), want), 'it only looks, and yet other weights came out'
    check_uses(learn, other, item)
    learn.export(tmp_path/'learner.pkl')
    back = load_learner(tmp_path/'learner.pkl')
    for _ in range(2): assert torch.allclose(back.predict(item)[2], learn.predict(item)[2], atol=0.02)
    was = weights(learn)
    learn.lr_find(num_it=7, show_plot=False)
    assert same(weights(learn), was) and hooks(learn.model) == hooks(net()), 'lr_find leaves something'
    check_uses(learn, other, item)
    learn.fit_one_cycle(1)


@pytest.mark.parametrize('name', CALLBACKS)
def test_case_13_callback_on_our_loaders(name, tmp_path):
    kind = CALLBACKS[name]
    make, opt = MADE.get(kind, kind), OPT.get(kind, Adam)
    learn, other, item = ours(tmp_path, make(), opt), ours(tmp_path, opt=opt), embedded().valid.x[0]
    whole = hasattr(Part, 'new_empty') # export, predict and tta want more of a data set than ours once had
    uses = {k: v for k, v in USES.items() if whole or k not in ('tta', 'predict')}
    check_uses(learn, other, item, uses)
    learn.fit(2)
    check_uses(learn, other, item, uses)
    if whole:
        learn.export(tmp_path/'learner.pkl')
        back = load_learner(tmp_path/'learner.pkl')
        assert torch.allclose(back.predict(item)[2], learn.predict(item)[2], atol=0.02)
    was = weights(learn)
    learn.lr_find(num_it=7, show_plot=False)
    assert same(weights(learn), was)


@pytest.mark.parametrize('name', CALLBACKS)
def test_case_13_callback_on_pytorch_loaders(name, tmp_path):
    "fastai's `DataLoaders` may hold PyTorch's own, which know no `one_batch`, `new` or `n_inp`."
    x, y = torch.randn(24, 3, 32, 32), torch.arange(24) % 3
    dls = DataLoaders(*(torch.utils.data.DataLoader(list(zip(x, y)), 8, shuffle=s) for s in (True, False)), device='cpu')
    kind = CALLBACKS[name]
    learn = Learner(dls, net(), CrossEntropyLossFlat(), OPT.get(kind, Adam), cbs=MADE.get(kind, kind)(), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.fit(1)
        assert learn.get_preds(dl=dls.valid)[0].shape == (24, 3)
        learn.lr_find(num_it=6, show_plot=False)


# functions

def step_once(learn):
    with torch.random.fork_rng(): TrainingStep(learn)() # its dropout draws, as that of any network


CALLS = dict(
    TrainingStep=step_once, step_phases=lambda learn: step_phases(learn, 1),
    step_operations=lambda learn: step_operations(learn, 1), utilisation=lambda learn: utilisation(learn, 0.01, 1e9),
    current_setting=current_setting, autotune=lambda learn: autotune(learn, 0.3, apply=False),
    stateful=stateful, chosen_by=chosen_by, planned_steps=planned_steps,
    limited=lambda learn: limited(learn, 5), lay_out=lambda learn: lay_out(learn, True),
    batch_inputs=lambda learn: batch_inputs(learn, first_batch(learn.dls.train)),
    start_head=lambda learn: start_head(learn, 10.), fine_tune=lambda learn: fine_tune(learn, 5, 1e-3), fit_steps=lambda learn: fit_steps(learn, Recipe(steps=5)))
TRAIN = 'fine_tune', 'fit_steps', 'start_head' # those that change the network


class Count(Callback):
    def before_fit(self): self.steps = getattr(self, 'steps', 0)
    def after_step(self): self.steps += 1


def everything(learn):
    opt = learn.opt and plain(learn.opt.state_dict())
    return (plain(learn.model), opt, loader_chance(learn), chance(), torch.get_num_threads(), learn.training,
            [m.training for m in learn.model.modules()], hooks(learn.model), list(learn.cbs), learn.splitter, learn.lr)


@pytest.mark.parametrize('opt', [Adam, adamw], ids=['Adam', 'AdamW of PyTorch'])
@pytest.mark.parametrize('name', CALLS)
def test_case_13_function(name, opt, folder, tmp_path):
    learn, item = stock(folder, tmp_path, opt=opt), folder/'red'/'0.png'
    for fitted in (False, True):
        if fitted: learn.fit(1)
        if name in TRAIN: CALLS[name](learn)
        else:
            was = everything(learn)
            CALLS[name](learn)
            assert everything(learn) == was, f'{name} leaves something changed'
    learn.validate()
    said = learn.get_preds()[0], learn.tta(n=1)[0]
    assert all(len(p) == 12 and bool(torch.isfinite(p).all()) for p in said)
    learn.lr_find(num_it=6, show_plot=False)
    learn.export(tmp_path/'learner.pkl')
    assert torch.allclose(load_learner(tmp_path/'learner.pkl').predict(item)[2], learn.predict(item)[2], atol=1e-4)
    learn.fit(1)


def test_case_13_a_loader_is_left_where_it_was(folder):
    "fastai's and PyTorch's loaders, and all global random numbers, though a batch was looked at."
    set_seed(0)
    theirs = stock(folder, folder).dls.train
    torchs = torch.utils.data.DataLoader(range(20), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    for dl, read in ((theirs, lambda b: b[1].tolist()), (torchs, lambda b: b.tolist())):
        before = chance()
        looked = [read(first_batch(dl)) for _ in range(2)]
        assert chance() == before
        assert looked[0] == looked[1] == read(next(iter(dl)))
    with pytest.raises(RuntimeError, match='broken'), unmoved(torchs):
        next(iter(torchs))
        raise RuntimeError('broken')
    state = torchs.generator.get_state()
    autotune(Learner(DataLoaders(torch.utils.data.DataLoader(
        list(zip(torch.randn(16, 3, 8, 8), torch.arange(16) % 3)), 8, shuffle=True, generator=torchs.generator), []),
        net(), CrossEntropyLossFlat()), 0.2, apply=False)
    assert bool(torch.equal(torchs.generator.get_state(), state))


# what was reported of each

@pytest.mark.parametrize('opt', [Adam, adamw])
@pytest.mark.parametrize('steps', [1, 2, 6, 30])
def test_case_13_fine_tune_in_steps(steps, opt, folder, tmp_path):
    learn = stock(folder, tmp_path, Count(), opt) # 3 batches an epoch
    fine_tune(learn, steps, 1e-3)
    assert learn.count.steps == steps and learn.train_bn is True
    lrs = learn.recorder.hps['lr']
    assert len(lrs) == steps - min(3, steps//2)
    if steps == 30: assert lrs[-1] < 0.02*max(lrs), 'the schedule ends with the steps'


@pytest.mark.parametrize('kw', [dict(steps=0), dict(steps=-3), dict(steps=2.5), dict(lr=0.), dict(lr=-1), dict(lr='a'),
                                dict(freeze_epochs=-1), dict(lr_mult=0.5), dict(steps=True), dict(lr=float('nan'))])
def test_case_13_fine_tune_refuses(kw, folder, tmp_path):
    learn = stock(folder, tmp_path)
    with pytest.raises((ValueError, TypeError), match=next(iter(kw))): fine_tune(learn, **dict(steps=6, lr=1e-3) | kw)
    assert learn.opt is None


def test_case_13_autocast_with_a_device_in_words(folder, tmp_path):
    for dtype in ('auto', 'float16', 'bfloat16'):
        learn = stock(folder, tmp_path, Autocast(dtype))
        learn.dls.to('cpu')
        learn.dls.device = 'cpu'
        learn.fit(1)
        assert learn.autocast.dtype in ('float32', 'float16', 'bfloat16')


def test_case_13_refused_by_a_line_and_predicts(folder, tmp_path):
    "fastai's own optimiser has no fused version: that is said when a fit begins, and predictions go on."
    learn = stock(folder, tmp_path, FuseOptimizer())
    learn.get_preds()
    with pytest.raises(ValueError, match='no fused version'): learn.fit(1)
    learn.get_preds()


def test_case_13_sizes_are_kept(folder, tmp_path):
    learn = stock(folder, tmp_path, ProgressiveResizing())
    learn.fit(3)
    sizes = list(learn.progressive_resizing.sizes)
    assert len(sizes) == 9 and sizes[0] == (16, 16) and sizes[-1] == (32, 32)
    learn.validate(), learn.get_preds()
    assert learn.progressive_resizing.sizes == sizes


def test_case_13_validation_is_no_best(folder, tmp_path):
    "A validation by itself is no look of early stopping, and no row of a run's record"
    control, best = RunControl(RunState(6)), KeepBest('accuracy')
    learn = stock(folder, tmp_path, [control, best])
    learn.fit(4)
    looks = [h for h in control.state.history if 'restored_step' not in h] # a row more tells what was put back
    assert control.state.step == 6 and len(looks) == 2 and len(control.state.lrs) == 6
    seen = best.best, best.wait, len(control.state.history)
    learn.validate()
    assert (best.best, best.wait, len(control.state.history)) == seen
    learn.fit(1) # the budget is used up
    assert control.state.step == 6


# checked at construction

@pytest.mark.parametrize('kind,kw', [
    (MicroBatches, dict(parts=0)), (MicroBatches, dict(parts=2.5)), (MicroBatches, dict(parts=True)),
    (MicroBatches, dict(parts='a')), (MicroBatches, dict(parts=None)),
    (Autocast, dict(init_scale=0)), (Autocast, dict(init_scale='a')), (Autocast, dict(init_scale=float('inf'))),
    (Autocast, dict(growth_interval=0)), (Autocast, dict(growth_interval=1.5)), (Autocast, dict(dtype=None)),
    (ProgressiveResizing, dict(recalibrate=0.5)), (ProgressiveResizing, dict(recalibrate=-1)),
    (ProgressiveResizing, dict(size_increment=1.5)), (ProgressiveResizing, dict(initial_scale=None)),
    (ProgressiveResizing, dict(initial_scale='a')), (ProgressiveResizing, dict(initial_strength=2)),
    (ProgressiveResizing, dict(finetune_fraction=float('nan'))), (ProgressiveResizing, dict(delay_fraction=None)),
    (WatchHeat, dict(n=1.5)), (WatchHeat, dict(n=0)), (WatchHeat, dict(keep='a')), (WatchHeat, dict(keep=-1)),
    (WatchHeat, dict(layer=3)), (WatchHeat, dict(masks=torch.zeros(4, 8, 8))), (WatchHeat, dict(masks=[1])),
    (Setting, dict(threads=0)), (Setting, dict(threads=1.5)), (Setting, dict(memory='all')), (ConvNeXtConv, dict(conv=3)),
    (partial(find_batch_size, Recipe(), embedded()), dict(share=2)),
    (partial(find_batch_size, Recipe(), embedded()), dict(steps=0)),
    (partial(find_batch_size, Recipe(), embedded()), dict(images=5)),
    (AverageWeights, dict(recalibrate=0.5)), (KeepBest, dict(patience=None)), (KeepBest, dict(patience=0))])
def test_case_15_checked_at_construction(kind, kw):
    name, = kw
    with pytest.raises((ValueError, TypeError), match=name) as e: kind(**kw)
    assert '\n' not in str(e.value)


def test_case_15_numbers_of_numpy_are_numbers():
    assert MicroBatches(np.int64(3)).parts == 3 and WatchHeat(n=np.int32(2)).n == 2


# pipelines

def gradients(folder, path, *cbs, opt=Adam):
    "Those of the first step of a fit without randomness in the network"
    kept = {}
    class Keep(Callback):
        order = 90
        def before_step(self):
            if not kept: kept.update({n: p.grad.clone() for n, p in self.model.named_parameters()})
    learn = stock(folder, path, [*cbs, Keep()], opt)
    learn.model.eval()
    for m in learn.model:
        if isinstance(m, (nn.BatchNorm2d, nn.Dropout)): m.train = lambda mode=True, m=m: m # stays as it is
    learn.dls.train.rng = random.Random(3)
    set_seed(3)
    learn.fit(1)
    return torch.cat([g.flatten() for g in kept.values()])


@pytest.mark.parametrize('mix', [MixUp, CutMix])
def test_case_16_micro_batches_with_mixup(mix, folder, tmp_path):
    "The parts' gradients add up to that of the whole mixed batch."
    whole, parts, unmixed = (gradients(folder, tmp_path, *cbs) for cbs in (
        [mix(1.)], [mix(1.), MicroBatches(3)], [MicroBatches(3)]))
    assert (parts - whole).norm() < 1e-4*whole.norm() < 1e-2*(unmixed - whole).norm()


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_case_16_micro_batches_in_16_bits(dtype, folder, tmp_path):
    "Each part is computed in the format, and each part's loss is scaled"
    exact, rounded = (gradients(folder, tmp_path, *cbs) for cbs in (
        [MicroBatches(3)], [Autocast(dtype), MicroBatches(3)]))
    assert 0 < (rounded - exact).norm() < 0.1*exact.norm()


def test_case_16_micro_batches_of_small_images(folder, tmp_path):
    "A network that flattens a map is helped with every part, and not with the first alone"
    learn = stock(folder, tmp_path, [ProgressiveResizing(), MicroBatches(3)])
    learn.model = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4*8*8, 3))
    learn.fit(2)
    assert learn.progressive_resizing.sizes[0] == (16, 16) and hooks(learn.model) == [(0, 0, False)]*5


def test_case_16_other_reductions_are_refused(folder, tmp_path):
    for cbs in ([MicroBatches()], [MixUp(), MicroBatches()]):
        learn = stock(folder, tmp_path, cbs)
        learn.loss_func = CrossEntropyLossFlat(reduction='sum')
        with pytest.raises(ValueError, match="reduction='sum'"): learn.fit(1)


# new layers

SURGERY = dict(to_depthwise=lambda m: to_depthwise(m), activations=lambda m: replace_activations(m, nn.PReLU),
               batchnorm=lambda m: without_norm(m))


@pytest.mark.parametrize('opt', [Adam, adamw])
@pytest.mark.parametrize('surgery', SURGERY)
def test_case_17_new_layers_are_told_of(surgery, opt, folder, tmp_path):
    learn = stock(folder, tmp_path, opt=opt)
    learn.fit(1)
    with pytest.warns(UserWarning, match='create_opt') as told: SURGERY[surgery](learn.model)
    assert len(told) == 1 and '\n' not in str(told[0].message) and told[0].filename == __file__
    learn.create_opt() # as the line says
    was = weights(learn)
    learn.fit(1)
    still = [k for k, v in learn.model.named_parameters() if bool(torch.equal(v, was[k]))]
    assert not still, 'all parameters have learned'


def test_case_17_nothing_to_tell(folder, tmp_path, recwarn):
    "No optimiser yet, a copy, or layers without parameters: no line"
    learn = stock(folder, tmp_path)
    to_depthwise(learn.model)
    learn.fit(1)
    recwarn.clear()
    replace_activations(learn.model, nn.GELU)
    other = copy.deepcopy(learn.model)
    without_norm(other)
    assert not [w for w in recwarn if 'create_opt' in str(w.message)]
