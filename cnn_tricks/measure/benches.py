"""Benches: named data, a frozen base recipe, run lengths and the arms that are compared with the base"""
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from ..base.registry import Registry
from ..core.recipe import Recipe, recipes, tricks
from ..data.datasets import cifar10, embedded, fashion_mnist
from ..data.download import DownloadError
from ..data.image_folder import read_folder
from ..data.images import ImageData
from ..nets.pretrained import pretrained

__all__ = ['benches', 'Bench', 'Change', 'change_of', 'in_epochs', 'whole_data', 'draw', 'clothes_images',
           'fashion_images', 'cifar10_images', 'photo_images']

benches = Registry('bench')


@dataclass(frozen=True)
class Change:
    "What an arm has that the base lacks, or the other way round"
    add: tuple = () # plain values of tricks: {'name': 'augment', 'flip': 0.5}
    fields: dict = field(default_factory=dict) # fields of the recipe that change
    drop: str = '' # the name of a trick of the base that the arm lacks
    without: bool = False # the arm lacks what the row is named after: its effect is the base minus the arm
    tuned: bool = False # does it move the best learning rate, so that its own is looked for?
    about: str = '' # the registered trick that it is about

    def of(self,
        base:Recipe # of a bench
    )->Recipe:
        "The recipe of the arm; `ValueError` where it cannot be made, or where it is the base"
        d = base.to_dict() | self.fields
        kept = [t for t in d['tricks'] if t['name'] != self.drop]
        if self.drop and len(kept) == len(d['tricks']): raise ValueError(f'the base has no trick {self.drop!r}')
        r = Recipe.from_dict(d | {'tricks': kept + list(self.add)})
        if r == base: raise ValueError('the base is the same')
        return r


_tune = {'name': 'fine_tune', 'weights': 'timm/tf_efficientnet_lite0', 'lr_mult': 10.} # as in the base
_named = {
    'muon': Change(({'name': 'optimizer', 'to': 'muon'},), tuned=True, about='optimizer'),
    'sgd': Change(({'name': 'optimizer', 'to': 'sgd'},), tuned=True, about='optimizer'),
    'batch_x4': Change(({'name': 'batch_size', 'factor': 4.},), tuned=True, about='batch_size'),
    'mirror': Change(({'name': 'augment', 'flip': 0.5, 'degrees': 0., 'zoom': 1., 'translate': 0.},), about='augment'),
    'cosine': Change(fields={'schedule': 'cosine', 'schedule_args': {}}, tuned=True, about='one_cycle'),
    'fixed_rate': Change(fields={'schedule': 'fixed', 'schedule_args': {}}, tuned=True, about='one_cycle'),
    'frozen_first': Change((_tune | {'freeze_epochs': 0.},), drop='fine_tune', without=True, about='fine_tune'),
    'layerwise_rates': Change((_tune | {'lr_mult': 1.},), drop='fine_tune', without=True, about='fine_tune'),
    'decay': Change(fields={'optimizer_args': {'weight_decay': 0.}}, without=True, about='weight_decay'), # against none
}


def change_of(
    name:str, # of an arm: 'muon', or a registered trick: 'ema'
    base:Recipe # that it changes
)->Change:
    "What an arm changes; a trick that the base has is taken out, and counts the other way round. `ValueError`"
    if name in _named: return _named[name]
    if name not in tricks: raise ValueError(f'no arm and no trick {name!r}; arms: {", ".join(_named)}; '
                                            f'tricks: {", ".join(tricks.names())}')
    tuned = tricks[name].moves_lr
    if any(t.name == name for t in base.tricks): return Change(drop=name, without=True, tuned=tuned, about=name)
    return Change(({'name': name},), tuned=tuned, about=name)


@dataclass(frozen=True)
class Bench:
    "One bench: what is trained on which images, for how long, and what it is compared with"
    name: str # of the bench and of its record
    base: str # name of its frozen recipe in `recipes`
    images: Callable # function of nothing -> `ImageData`: what is drawn from in train, what judges in test
    valid: int|float # images of each draw that are validated on: a number, or a share
    lengths: dict # passes over the images -> names of the arms that run so long; ('*',): every trick
    middle: float # the length at which rates are tuned
    delta: float # the smallest difference that matters, in accuracy
    target: float # the accuracy to which seconds are counted
    left_out: dict = field(default_factory=dict) # name of an arm -> why it is not run here
    seeds: int = 5 # of each arm: 0, 1, ...
    tuning_seeds: tuple = (100, 101, 102) # none of those that are compared
    notes: tuple = () # what a reader of the figures has to know

    @property
    def recipe(self): "The base, as it was frozen"; return recipes[self.base]

    def arms(self,
        epochs:float # one of `lengths`
    )->list: # their names, without the base's
        "What is compared with the base at a length"
        named = self.lengths[epochs]
        if '*' not in named: return list(named)
        apart = {'optimizer', 'weight_decay', *self.left_out}
        every = [n for n in tricks.names() if n not in apart and not tricks[n].cost_alone]
        return sorted({*every, *(n for n, c in _named.items() if not c.drop)})

    def changes(self,
        base:Recipe=None # with the rates that were found; None: as it was frozen
    )->dict: # name -> `Change`
        "All arms but the base, of whatever length"
        names = dict.fromkeys(n for e in self.lengths for n in self.arms(e))
        return {n: change_of(n, base or self.recipe) for n in names}


def in_epochs(
    epochs:float # a length
)->str: # '1 epoch', '4 epochs'
    "A length in words"
    return f'{epochs:g} epoch' + 's'*(epochs != 1)


# images: what is drawn from, and what judges

@lru_cache(2)
def whole_data(
    images:Callable # of a `Bench`
)->ImageData:
    "The images of a bench; those of the last two are kept. No validation images are set apart yet"
    return images()


def draw(
    bench:Bench,
    seed:int # of the run
)->ImageData: # test images are the same for every seed
    "What a run sees: each seed draws its own validation images, and trains on the others"
    return _drawn(bench.images, bench.valid, seed)


@lru_cache(1) # all arms of a seed follow each other
def _drawn(images, valid, seed): return whole_data(images).split(valid, seed)


def _pool(data): return replace(data, train=data.train.join(data.valid), valid=data.valid[:0])


def clothes_images()->ImageData:
    "The images in the package: 14,000 to draw from, 4,000 to judge"
    return _pool(embedded())


def fashion_images()->ImageData:
    "Fashion-MNIST: 60,000 to draw from, the 6,000 official test images that the package leaves out to judge"
    return _pool(fashion_mnist(unread=True))


def cifar10_images()->ImageData:
    "CIFAR-10: 50,000 to draw from, the 10,000 official test images to judge"
    return _pool(cifar10())


def photo_images()->ImageData:
    """Photographs in class folders that `CNN_TRICKS_DATA` names (or its folder `clothing`), at 128 pixels; resized as
    the ImageNet weights of the base expect it. `DownloadError` where nothing is named"""
    named = os.environ.get('CNN_TRICKS_DATA')
    if not named: raise DownloadError('no photographs: name a folder with class folders in CNN_TRICKS_DATA')
    home = Path(named).expanduser()
    framing = pretrained['timm/tf_efficientnet_lite0']().preprocessing.framing
    return _pool(read_folder(home/'clothing' if (home/'clothing').is_dir() else home, 128, framing=framing))


# the benches

_known = {'fine_tune': 'its weights come from images of Fashion-MNIST', 'one_cycle': 'the base has it',
          'framing': 'its images are not read from files'}
_photos = 'mirror', 'augment', 'mixup', 'label_smoothing', 'ema', 'cutmix', 'frozen_first', 'layerwise_rates'
_long = ('augment', 'mixup', 'cutmix', 'label_smoothing', 'ema', 'swa', 'dropout', 'decay', 'stochastic_depth', 'muon',
         'sgd', 'progressive_resizing')
_colour = 'flip_shift', 'label_smoothing', 'ema', 'muon', 'group_norm', 'progressive_resizing'

benches.register('clothes', Bench(
    'clothes', 'bench_clothes', clothes_images, 4000, {1: ('*',), 4: ('*',)}, middle=4, delta=0.01, target=0.86,
    left_out=_known, seeds=8, notes=('Earlier records of the course have read these test images.',)))
benches.register('fashion', Bench(
    'fashion', 'bench_fashion', fashion_images, 5000, {1: ('*',), 4: ('*',), 16: _long}, middle=4, delta=0.005,
    target=0.92, left_out=_known))
benches.register('cifar10', Bench(
    'cifar10', 'bench_cifar10', cifar10_images, 5000, {16: _colour}, middle=4, delta=0.005,
    target=0.88))
benches.register('photos', Bench(
    'photos', 'bench_photos', photo_images, 0.1, {4: _photos}, middle=4, delta=0.02, target=0.85))
