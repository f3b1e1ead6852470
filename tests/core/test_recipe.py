"Recipes, tricks and plans: what is refused, what is equal, what a plan holds, and which hooks a loaded network needs."
import random

import pytest
import torch
from torch import nn

from cnn_tricks.core.components import in_range
from cnn_tricks.core.plan import RunPlan, budget_steps, plan
from cnn_tricks.core.recipe import Card, Recipe, Trick, trick, tricks
from cnn_tricks.core.result import build_network, load_trained
from cnn_tricks.core.train import learner, steps_for, train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tricks.flip_shift import FlipShift

CARD = Card('t', 'w', 'n', 'c', 's')


@pytest.fixture(scope='module')
def data(): return embedded().subset(100).subset(40, parts=('valid', 'test'))


@pytest.fixture
def made():
    "Tricks of these tests, taken out of the registry afterwards."
    before = set(tricks.names())
    yield lambda name, **body: trick(name, CARD)(type(name, (Trick,), body))
    for name in set(tricks.names()) - before: tricks.remove(name)


# the recipe

@pytest.mark.parametrize('make, error, match', [
    (lambda: in_range('momentum', 2, '[0, 1)'), ValueError, r'momentum=2: must lie in \[0, 1\)'),
    (lambda: in_range('momentum', '0.9', '[0, 1)'), TypeError, "momentum='0.9': must be a number"),
    (lambda: Recipe(batch_size='64'), TypeError, 'batch_size'), (lambda: Recipe(batch_size=0), ValueError, 'batch_size'),
    (lambda: Recipe(lr=float('nan')), ValueError, 'lr=nan'),
    (lambda: Recipe(optimizer_args={'momentun': 0.9}, optimizer='sgd'), ValueError, "did you mean 'momentum'"),
    (lambda: Recipe(optimizer='sgd', optimizer_args={'momentum': 2}), ValueError, r'momentum=2: must lie in \[0, 1\)'),
    (lambda: Recipe(schedule='one_cycle', schedule_args={'pct_start': 2}), ValueError, 'pct_start=2'),
    (lambda: Recipe(tricks=('flip_shift',)), TypeError, 'must be Trick instances'),
    (lambda: Recipe.from_dict({'tricks': [{'name': 'flip_shift', 'pixle': 2}]}), ValueError, 'pixle')])
def test_refused_when_it_is_made(make, error, match):
    with pytest.raises(error, match=match): make()


def test_equal_by_value():
    assert Recipe(batch_size=1).batch_size == 1 and Recipe().epochs == 5
    assert hash(Recipe(epochs=5)) == hash(Recipe(epochs=5.)) and hash(FlipShift(p=1)) == hash(FlipShift(p=1.))
    assert FlipShift() == FlipShift(0.5) != FlipShift(pixels=3) and hash(FlipShift()) == hash(FlipShift(0.5))
    assert FlipShift() != 'flip_shift' and Recipe() + FlipShift() != Recipe()


# the plan

def test_two_tricks_that_set_one_field(made):
    set_lr = made('_lr', __annotations__={'lr': float}, lr=0.1, recipe=lambda self, r: r.replace(lr=self.lr))
    too = made('_lr_too', recipe=lambda self, r: r.replace(lr=0.3))
    assert plan(Recipe() + set_lr(0.2)).recipe.lr == 0.2
    with pytest.raises(ValueError, match="'_lr' and '_lr_too' both set lr"): plan(Recipe() + set_lr(0.2) + too())


@pytest.mark.parametrize('budget, steps', [(dict(epochs=2), 6), (dict(steps=5), 5), (dict(epochs=0.1), 1), (dict(seconds=3.), None)])
def test_a_plan_holds_what_the_run_needs(data, budget, steps):
    asked = Recipe(batch_size=32, size=14, **budget) + FlipShift()
    p, bare = plan(asked, data), plan(asked)
    assert isinstance(p, RunPlan) and p.asked is asked and p.steps == p.recipe.steps == steps
    assert p.data.size == (14, 14) and p.data.fingerprint != data.fingerprint
    assert bare.data is None and bare.recipe == asked and bare.steps == asked.steps and budget_steps(asked, data) == steps
    assert p.with_steps(7).recipe == asked.replace(steps=7) and p.with_steps(7).data is p.data
    with pytest.raises(ValueError, match='steps=0'): p.with_steps(0)


def test_planning_draws_nothing(data):
    states = random.getstate(), torch.get_rng_state()
    plan(Recipe(epochs=2) + FlipShift(), data), steps_for(Recipe(epochs=2), data)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


def test_a_run_asks_each_trick_once_what_it_changes(data, made):
    "A trick that doubles something must not do so again where the recipe is planned already."
    asked = []
    def double(self, r):
        asked.append(r.batch_size)
        return r.replace(batch_size=2*r.batch_size)
    recipe = Recipe(batch_size=10, steps=2) + made('_double', recipe=double)()
    run = train(recipe, data, progress=False)
    assert asked == [10] and run.recipe == run.trained.recipe == recipe and run.steps == 2


def test_applies_sees_the_planned_recipe(data, made):
    seen = []
    def applies(self, recipe, data, machine): seen.append((recipe.lr, data.size)); return ''
    watch = made('_watch', applies=applies)
    learner(Recipe(network='plain', size=14) + watch() + tricks['one_cycle'](lr=0.02), data)
    assert seen == [(0.02, (14, 14))]


# layers and initial weights

def test_a_loaded_network_is_built_and_not_initialised(data, made, tmp_path):
    called = []
    def structure(self, m): called.append('structure'); return nn.Sequential(m, nn.Identity())
    def initialise(self, m):
        called.append('initialise')
        for p in m.parameters(): p.data.fill_(0.01)
        return m
    recipe = Recipe(steps=1) + made('_both', structure=structure, initialise=initialise)()
    run = train(recipe, data, progress=False)
    assert called == ['structure', 'initialise']
    run.save(tmp_path)
    back = load_trained(tmp_path)
    assert called == ['structure', 'initialise', 'structure']
    assert torch.equal(back.predict(data.valid.x), run.trained.predict(data.valid.x))


def test_tricks_change_the_network_in_their_order(made):
    "Each its layers, then its weights: a layer that a later trick inserts keeps its own weights."
    ones = made('_ones', initialise=lambda self, m: [p.data.fill_(1.) for p in m.parameters()] and m)
    norm = made('_norm', structure=lambda self, m: nn.Sequential(m, nn.LayerNorm(10)))
    net = build_network(Recipe(tricks=(norm(), ones())), 1, 10, (28, 28))
    assert all((p == 1).all() for p in net.parameters())
    net = build_network(Recipe(tricks=(ones(), norm())), 1, 10, (28, 28))
    assert (net[1].bias == 0).all() and all((p == 1).all() for p in net[0].parameters())
    assert not all((p == 1).all() for p in build_network(Recipe(tricks=(ones(),)), 1, 10, (28, 28), start=False).parameters())


# the result

def test_a_result_answers_and_is_saved(data, tmp_path):
    recipe = Recipe(steps=3, batch_size=32)
    run = train(recipe, data, progress=False)
    assert run.confusion().sum() == len(data.valid) and run.time_to(2.) is None
    assert run.time_to(0.) == run.history[0]['seconds'] and run.test_reads == 0
    assert 0 <= run.test() <= 1 and run.test_reads == 1
    run.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['metrics.json', 'model.safetensors', 'recipe.json']
    back = load_trained(tmp_path)
    assert back.recipe == recipe and back.classes == list(data.classes)
    with pytest.raises(ValueError, match='must be uint8'): back.predict(data.valid.x[:5].float())


@pytest.mark.parametrize('other, match', [(dict(recipe=Recipe(steps=5, lr=0.5)), 'lr was'), (dict(seed=1), 'seed was'),
                                          (dict(data=True), 'images are others')])
def test_a_checkpoint_of_another_run_is_refused(data, tmp_path, other, match):
    kept = dict(out=tmp_path, checkpoint_every=0, progress=False)
    train(Recipe(steps=5), data, **kept)
    images = embedded().subset(90) if other.get('data') else data
    with pytest.raises(ValueError, match=match):
        train(other.get('recipe', Recipe(steps=5)), images, other.get('seed', 42), resume=True, **kept)


def test_a_hook_of_the_first_edition_is_refused():
    "It would be passed over without a word."
    class Old(Trick):
        def model(self, m): return m
    with pytest.raises(TypeError, match='`structure` and `initialise`'): trick('_old', CARD)(Old)
    assert '_old' not in tricks
