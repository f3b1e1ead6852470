"Cases that people reported of other libraries, tried here: what is validated is what is kept, state, and early checks."
import io, json, math
from contextlib import redirect_stdout

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from training import StopAt, same

from cnn_tricks.tricks.averaging import EMA, SWA, AverageWeights, averaging_fn, ema_decay
from cnn_tricks.tools.calibration import expected_calibration_error, reliability, temper
from cnn_tricks.core.run_control import Interrupted, RunControl, RunState
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tools.lr_finder import find_lr
from cnn_tricks.core.components import in_range, schedules
from cnn_tricks.core.recipe import Card, Recipe, Trick, trick, tricks
from cnn_tricks.tricks.flip_shift import FlipShift
from cnn_tricks.base.fields import bounded
from cnn_tricks.core.result import load_trained
from cnn_tricks.tricks.schedule import OneCycle, UsedHypers, curve
from cnn_tricks.tricks.stopping import EarlyStopping, KeepBest, LabelSmoothing
from cnn_tricks.core.train import fit_steps, learner, train
from cnn_tricks.tricks.warmup import LinearWarmup, Warmup, warmup_factor


@pytest.fixture(scope='module')
def data(): return embedded().subset(96).subset(200, parts=('valid',))


def tiny(**kw):
    "Two steps an epoch, at a rate at which the weights move a lot and the average lies far from them."
    return Recipe(**{'network': 'plain', 'network_args': {'widths': [4]}, 'batch_size': 48, 'lr': 0.1, 'steps': 24,
                     'optimizer': 'sgd', **kw})


def score(model, data):
    "Accuracy of a network on the validation images."
    model.eval()
    with torch.no_grad(): right = [(model(x).argmax(1) == y).sum().item() for x, y in data.loaders(48).valid]
    return sum(right)/len(data.valid)


# 10: the number told is the number of what is kept

class Exchange(Callback):
    "Weights that are exchanged for validation and back, as `AverageWeights` does: here halved."
    order = 50
    def before_validate(self): self._times(0.5)
    def before_train(self):
        if self.epoch: self._times(2.)
    def _times(self, factor):
        with torch.no_grad():
            for p in self.model.parameters(): p.mul_(factor)


class ThereAndBack(Exchange):
    "The same, with the weights of training back before the epoch ends."
    def __init__(self, order): self.order = order
    def before_train(self): pass
    def after_validate(self): self._times(2.)


@pytest.mark.parametrize('cb', [Exchange(), ThereAndBack(-20), ThereAndBack(50), ThereAndBack(80)])
@pytest.mark.parametrize('patience', [1, 99])
def test_case_10_whatever_exchanges_weights(data, cb, patience):
    "At whatever time the weights come and go."
    run = train(tiny(), data, progress=False, cbs=[KeepBest('accuracy', patience), cb])
    assert score(run.trained.model, data) == pytest.approx(max(h['accuracy'] for h in run.history), abs=1e-6)


@pytest.mark.parametrize('average', [EMA(share=0.5), EMA(share=1., recalibrate=0), SWA(start=0.), SWA(start=0.5)],
                         ids=['ema', 'ema, as it is', 'swa', 'swa, late'])
@pytest.mark.parametrize('keep', [EarlyStopping('accuracy', 2), EarlyStopping('valid_loss', 1), EarlyStopping('accuracy', 99)],
                         ids=['accuracy', 'loss', 'to the end'])
@pytest.mark.parametrize('first', [True, False])
def test_case_10_what_was_validated_is_what_is_kept(data, average, keep, first):
    run = train(tiny() + average + keep if first else tiny() + keep + average, data, progress=False)
    assert score(run.trained.model, data) == pytest.approx(run.accuracy, abs=1e-6)
    assert run.accuracy == max(h['accuracy'] for h in run.history) or keep.monitor == 'valid_loss'


@pytest.mark.parametrize('cb', [AverageWeights(share=0.5), AverageWeights(share=None, start=0.3), Exchange()])
def test_case_10_with_fastais_own_save_model(data, tmp_path, cb):
    keep = SaveModelCallback(monitor='accuracy')
    learn = learner(tiny(), data, cbs=[keep, cb])
    learn.path = tmp_path
    with learn.no_bar(), learn.no_logging(), redirect_stdout(io.StringIO()): fit_steps(learn, tiny())
    assert score(learn.model, data) == pytest.approx(float(keep.best), abs=1e-6)
    assert float(keep.best) == pytest.approx(max(float(v[2]) for v in learn.recorder.values))


@pytest.mark.parametrize('at', [5, 6, 11])
def test_case_10_resumed(data, tmp_path, at):
    recipe = tiny() + EMA(share=0.5) + EarlyStopping('accuracy', patience=99)
    with pytest.raises(Interrupted):
        train(recipe, data, progress=False, out=tmp_path, checkpoint_every=0, cbs=[StopAt(at)])
    resumed, whole = train(recipe, data, progress=False, out=tmp_path, resume=True), train(recipe, data, progress=False)
    assert same(resumed.trained.model.state_dict(), whole.trained.model.state_dict()) and resumed.accuracy == whole.accuracy


def test_case_10_training_goes_on_with_its_own_weights(data):
    run, plain = train(tiny() + EMA(share=0.5), data, progress=False), train(tiny(), data, progress=False)
    assert run.losses == plain.losses and run.history[5]['valid_loss'] != plain.history[5]['valid_loss']


# 11: two callbacks of one class

class Pull(Callback):
    "Pulls the weights to a slow copy of themselves, which it has to remember."
    order = 20
    def __init__(self, share): self.share, self.slow = share, None
    def after_step(self):
        with torch.no_grad():
            if self.slow is None: self.slow = [p.detach().clone() for p in self.model.parameters()]
            for p, s in zip(self.model.parameters(), self.slow):
                s.lerp_(p, self.share)
                p.lerp_(s, 0.1)
    def state_dict(self): return {'slow': self.slow}
    def load_state_dict(self, state): self.slow = state['slow']


@pytest.fixture
def pull():
    @trick('_pull', Card('A toy.', 'In tests.', 'Elsewhere.', 'A copy.', 'None.'))
    class PullTrick(Trick):
        share: float = bounded(0.5, gt=0, le=1)
        def callbacks(self): return [Pull(self.share)]
    yield PullTrick
    tricks.remove('_pull')


def test_case_11_two_of_a_class_resume(data, pull, tmp_path):
    recipe = tiny() + pull(0.5) + pull(0.1)
    with pytest.raises(Interrupted):
        train(recipe, data, progress=False, out=tmp_path, checkpoint_every=0, cbs=[StopAt(7)])
    assert sorted(torch.load(tmp_path/'checkpoint.pt', weights_only=True)['callbacks']) == ['pull', 'pull 2']
    resumed, whole = train(recipe, data, progress=False, out=tmp_path, resume=True), train(recipe, data, progress=False)
    assert same(resumed.trained.model.state_dict(), whole.trained.model.state_dict()) and resumed.losses == whole.losses
    other = train(tiny() + pull(0.1) + pull(0.5), data, progress=False)
    assert resumed.losses != other.losses  # so a mix-up of the two would show


def test_case_11_two_of_a_class_beside_a_recipe(data, tmp_path):
    "Callbacks given by hand, too; one more or one fewer than the checkpoint holds is named."
    def go(*cbs, **kw): return train(tiny(), data, progress=False, out=tmp_path, cbs=cbs, **kw)
    with pytest.raises(Interrupted): go(Pull(0.5), UsedHypers(), Pull(0.1), StopAt(7), checkpoint_every=0)
    with pytest.raises(ValueError, match=r"^cannot resume: callbacks with state were \['pull', 'pull 2', 'used_hypers'\], now \['pull'\]$"):
        go(Pull(0.5), resume=True)
    resumed = go(Pull(0.5), UsedHypers(), Pull(0.1), resume=True)
    whole = train(tiny(), data, progress=False, cbs=[Pull(0.5), Pull(0.1)])
    assert same(resumed.trained.model.state_dict(), whole.trained.model.state_dict())


@pytest.mark.parametrize('pair, both', [
    ((EMA(), SWA()), 'ema and swa both average the weights'), ((EMA(), EMA(share=0.5)), 'ema and ema both average the weights'),
    ((EarlyStopping(), EarlyStopping('accuracy')), 'early_stopping and early_stopping both keep the best weights')])
def test_case_11_refused_where_two_make_no_sense(data, pair, both):
    with pytest.raises(ValueError, match=f'^tricks {both}: use one of them$'): tiny() + pair[0] + pair[1]
    if isinstance(pair[0], EarlyStopping): return
    with pytest.raises(ValueError, match='only one average can be validated'):
        train(tiny(), data, progress=False, cbs=[AverageWeights(), AverageWeights(share=0.5)])


# 12: checked when the recipe is made, or before anything is claimed

JUNK = [
    (dict(schedule='one_cycle', schedule_args={'pct_start': 2}), 'pct_start=2'),
    (dict(schedule='one_cycle', schedule_args={'pct_start': 0}), 'pct_start=0'),
    (dict(schedule='one_cycle', schedule_args={'div': 0}), 'div=0'),
    (dict(schedule='one_cycle', schedule_args={'div_final': -1.}), 'div_final=-1.0'),
    (dict(schedule='one_cycle', schedule_args={'moms': [1]}), r'moms=\[1\]'),
    (dict(schedule='one_cycle', schedule_args={'moms': [0.9, 0.8, 1.]}), 'moms=1.0'),
    (dict(schedule='one_cycle', schedule_args={'moms': 0.9}), 'moms=0.9'),
    (dict(schedule='step', schedule_args={'at': 0.5}), 'at=0.5'), (dict(schedule='step', schedule_args={'at': ['x']}), "at='x'"),
    (dict(schedule='step', schedule_args={'gamma': 0}), 'gamma=0'), (dict(schedule='exponential', schedule_args={'final': 0}), 'final=0'),
    (dict(schedule='cosine', schedule_args={'final': True}), 'final=True'), (dict(schedule='wsd', schedule_args={'warmup': 2}), 'warmup=2'),
    (dict(schedule='wsd', schedule_args={'sqrt': 'yes'}), "sqrt='yes'"),
    (dict(loss_args={'label_smoothing': 5}), 'label_smoothing=5'), (dict(loss_args={'label_smoothing': -0.5}), 'label_smoothing=-0.5'),
    (dict(loss_args={'label_smoothing': 1.}), 'label_smoothing=1.0'), (dict(loss_args={'label_smoothing': None}), 'label_smoothing=None'),
    (dict(optimizer='sgd', optimizer_args={'momentum': 2}), 'momentum=2'), (dict(optimizer='sgd', optimizer_args={'momentum': '0.9'}), "momentum='0.9'"),
    (dict(optimizer='sgd', optimizer_args={'nesterov': 1}), 'nesterov=1'), (dict(optimizer='sgd', optimizer_args={'weight_decay': -1}), 'weight_decay=-1'),
    (dict(optimizer_args={'beta1': 1}), 'beta1=1'), (dict(optimizer_args={'beta2': 1.5}), 'beta2=1.5'), (dict(optimizer_args={'eps': 0}), 'eps=0'),
    (dict(optimizer='adamw', optimizer_args={'weight_decay': [1]}), r'weight_decay=\[1\]'),
    (dict(optimizer_args={'eps': math.nan}), 'optimizer_args.*finite'), (dict(network_args={'width': math.inf}, network='resnet'), 'network_args.*finite'),
    (dict(loss_args={'label_smoothing': torch.ones(1)}), 'loss_args.*numbers, strings and lists'), (dict(loss_args=None), 'loss_args=None'),
    (dict(tricks=None), 'tricks=None: must be a list'), (dict(tricks=5), 'tricks=5: must be a list'), (dict(tricks='ema'), "tricks='ema'"),
    (dict(lr=math.inf), 'lr=inf'), (dict(lr='0.1'), "lr='0.1'"), (dict(epochs=math.nan), 'epochs=nan'), (dict(batch_size=0.5), 'batch_size=0.5'),
    (dict(network=['resnet']), 'network='), (dict(optimizer=None), 'optimizer=None'), (dict(channels_last=1), 'channels_last=1')]


@pytest.mark.parametrize('fields, match', JUNK)
def test_case_12_recipe_refuses(fields, match):
    "From Python and from JSON alike, in one line, with what was given."
    with pytest.raises((ValueError, TypeError), match=match) as e: Recipe(**fields)
    assert '\n' not in str(e.value)
    try: text = json.dumps(fields)
    except TypeError: return
    with pytest.raises((ValueError, TypeError), match=match) as e: Recipe.from_json(text)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('named, match', [
    ('null', 'tricks=None: must be a list'), ('{"name": "ema"}', 'must be a list'), ('[null]', 'needs a name'), ('["ema"]', 'needs a name'),
    ('[{"name": ["ema"]}]', 'needs a name'), ('[{"name": null}]', 'needs a name'), ('[{"share": 0.1}]', 'needs a name'),
    ('[{"name": "ema", "share": NaN}]', 'share=nan'), ('[{"name": "ema", "share": "0.1"}]', "share='0.1'"),
    ('[{"name": "optimizer", "to": "sgd", "args": {"momentum": NaN}}]', 'optimizer')])
def test_case_12_tricks_of_a_file(named, match):
    with pytest.raises((ValueError, TypeError), match=match) as e: Recipe.from_json(f'{{"tricks": {named}}}')
    assert '\n' not in str(e.value)


def test_case_12_byte_order_mark():
    assert Recipe.from_json('\ufeff{"epochs": 2}') == Recipe(epochs=2)


def test_case_12_parts_of_ones_own():
    "A part that fails when it is made, or gives what is no number, is found when the recipe is made."
    schedules.register('_own', lambda power=1.: {'lr': lambda frac: (0.5 - frac)**power})
    try:
        assert Recipe(schedule='_own', schedule_args={'power': 2}).schedule_args == {'power': 2}
        with pytest.raises(ValueError, match=r"schedule_args=.*'_own' cannot be made: its lr at 0.75=-0.25: must lie in \[0, inf\)"):
            Recipe(schedule='_own', schedule_args={'power': 1})
        with pytest.raises((ValueError, TypeError), match='schedule_args.*cannot be made'): Recipe(schedule='_own', schedule_args={'power': 'a'})
    finally: schedules.remove('_own')


@pytest.mark.parametrize('seed', [2**63, -2**63 - 1, 2**64, 1.5, '7', None, True])
def test_case_12_seeds(data, tmp_path, seed):
    for call in (lambda: train(tiny(), data, seed, out=tmp_path/'run'), lambda: learner(tiny(), data, seed), lambda: RunState(1, seed)):
        with pytest.raises((ValueError, TypeError), match=f'seed={seed!r}: must'): call()
    assert not (tmp_path/'run').exists()


@pytest.mark.parametrize('seed', [2**63 - 1, -2**63, 0])
def test_case_12_seeds_at_the_edge(data, seed): assert train(tiny(steps=1), data, seed, progress=False).steps == 1


def images(n, side):
    "Grey noise in two classes."
    part = Part(torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8), torch.arange(n) % 2)
    return ImageData(part, part, part, ('a', 'b'))


def test_case_12_one_image_a_step(tmp_path):
    "Batch norm has nothing to normalise in a map of one value; where the map is larger, or there are two images, it trains."
    r = Recipe(network='resnet', network_args={'width': 4}, batch_size=1, steps=1)
    with pytest.raises(ValueError, match="^network='resnet', batch_size=1, images of 8 x 8 pixels: cannot be trained: ") as e:
        train(r, images(4, 8), out=tmp_path/'run', progress=False)
    assert '\n' not in str(e.value) and not (tmp_path/'run').exists()
    with pytest.raises(ValueError, match='batch_size=1'): learner(r.replace(batch_size=64), images(1, 8))
    assert train(r.replace(batch_size=2), images(4, 8), progress=False).steps == 1
    assert train(r, images(4, 28), progress=False).steps == 1


@pytest.mark.parametrize('why', ['trick', 'network', 'every'])
def test_case_12_nothing_is_claimed(data, tmp_path, why):
    "Whatever is refused before the first step leaves no folder."
    kw = {'checkpoint_every': math.nan} if why == 'every' else {}
    r = {'trick': tiny() + EarlyStopping(), 'network': tiny(), 'every': tiny()}[why]
    empty = ImageData(data.train, data.valid[torch.zeros(0, dtype=torch.long)], data.test, data.classes)
    d = {'trick': empty, 'network': images(8, 1), 'every': data}[why]
    with pytest.raises(ValueError): train(r, d, out=tmp_path/'run', progress=False, **kw)
    assert not (tmp_path/'run').exists()


# 15: every public constructor checks what it is given

def trained(data, *cbs): train(tiny(steps=4), data, progress=False, cbs=cbs)
def tricked(data, t): train(tiny(steps=4) + t, data, progress=False)


MAKERS = {  # maker, the names of its numbers, what must work with all that it accepts
    'AverageWeights': (AverageWeights, 'share decay start recalibrate', trained), 'KeepBest': (KeepBest, 'patience min_delta', trained),
    'LinearWarmup': (LinearWarmup, 'pct start', trained), 'EMA': (EMA, 'share decay recalibrate', tricked),
    'SWA': (SWA, 'start recalibrate', tricked), 'EarlyStopping': (EarlyStopping, 'patience min_delta', tricked),
    'LabelSmoothing': (LabelSmoothing, 'eps', tricked), 'Warmup': (Warmup, 'pct start', tricked),
    'OneCycle': (OneCycle, 'lr pct_start div div_final', tricked), 'FlipShift': (FlipShift, 'p pixels', tricked),
    'Recipe': (Recipe, 'size batch_size lr steps', None), 'RunState': (lambda **kw: RunState(**{'total': 3} | kw), 'total seed rank', None),
    'RunControl': (lambda **kw: RunControl(RunState(3), **kw), 'every', None), 'ema_decay': (lambda **kw: ema_decay(**{'steps': 9} | kw), 'steps share', None),
    'averaging_fn': (averaging_fn, 'decay', None), 'warmup_factor': (lambda **kw: warmup_factor(0.5, **kw), 'pct start', None),
    'curve': (lambda **kw: curve(Recipe(epochs=1), **kw), 'steps', None),
    'find_lr': (lambda **kw: find_lr(Recipe(), None, **kw), 'start end steps', None),
    'temper': (lambda **kw: temper(torch.tensor([[0.5, 0.5]]), **kw), 'temperature', None),
    'reliability': (lambda **kw: reliability(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), **kw), 'bins', None),
    'ece': (lambda **kw: expected_calibration_error(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), **kw), 'bins', None)}
VALUES = None, 'a', math.nan, math.inf, -math.inf, True, -1, -0.5, 0, 0.5, 1, 1.5, 2, [], {}, 1e-300
MAY_BE_NONE = {('AverageWeights', 'share'), ('AverageWeights', 'decay'), ('EMA', 'decay'), ('OneCycle', 'lr'), ('Recipe', 'size'), ('Recipe', 'steps')}


@pytest.mark.parametrize('maker, arg', [(m, a) for m, (_, args, _) in MAKERS.items() for a in args.split()])
def test_case_15_refused_at_once_or_it_works(data, maker, arg):
    make, _, use = MAKERS[maker]
    for v in VALUES:
        try: made = make(**{arg: v})
        except (ValueError, TypeError) as e:
            assert arg in str(e) and '\n' not in str(e), (maker, arg, v, str(e))
            continue
        except AttributeError: assert maker == 'find_lr'  # past its checks: there are no images
        assert isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) or (maker, arg) in MAY_BE_NONE, (maker, arg, v)
        if use: use(data, made)


@pytest.mark.parametrize('make, match', [
    (lambda: KeepBest(monitor=5), 'monitor=5'), (lambda: Card('a', 'b', 'c', 'd', 5), 'suggested=5'), (lambda: Card('a', 'b', 'c', 'd', 'e', sources='x'), "sources='x'"),
    (lambda: RunControl(None), 'state=None'), (lambda: in_range('x', 3, '[0, 1)'), r'x=3: must lie in \[0, 1\)')])
def test_case_15_others(make, match):
    with pytest.raises((ValueError, TypeError), match=match): make()


def test_case_15_monitor_that_is_not_there(data):
    with pytest.raises(ValueError, match="monitor='f1'.*must be one of 'train_loss', 'valid_loss', 'accuracy'"): trained(data, KeepBest('f1'))


# equal recipes, and what is saved

@pytest.mark.parametrize('a, b', [
    (Recipe(epochs=5), Recipe(epochs=5.)), (Recipe(optimizer_args={'beta1': .8, 'beta2': .9}), Recipe(optimizer_args={'beta2': .9, 'beta1': .8})),
    (Recipe() + FlipShift(p=1), Recipe() + FlipShift(p=1.)), (Recipe(lr=1), Recipe(lr=1.)),
    (Recipe(schedule='one_cycle', schedule_args={'moms': (0.9, 0.8, 0.9), 'div': 25}), Recipe(schedule='one_cycle', schedule_args={'div': 25., 'moms': [0.9, 0.8, 0.9]}))])
def test_equal_recipes_have_equal_hashes(a, b):
    assert a == b and hash(a) == hash(b) and len({a, b}) == 1 and Recipe.from_json(a.to_json()) == b
    assert all(s == t and hash(s) == hash(t) for s, t in zip(a.tricks, b.tricks))
    assert a != a.replace(lr=0.123) and hash(a) != hash(a.replace(lr=0.123))


def test_a_model_of_the_first_version_loads(data, tmp_path):
    run = train(tiny(steps=2) + EMA() + FlipShift(), data, progress=False)
    run.trained.save(tmp_path)
    about = json.loads((tmp_path/'recipe.json').read_text())
    assert set(about) == {'recipe', 'data', 'cnn_tricks'}
    (tmp_path/'recipe.json').write_text('\ufeff' + json.dumps(about | {'cnn_tricks': '0.1.0'}))
    assert torch.equal(load_trained(tmp_path).predict(data.valid.x), run.trained.predict(data.valid.x))
