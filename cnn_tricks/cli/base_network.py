"""Which network a folder of images gets, at which size: a pretrained one where photographs and weights allow it"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..core.recipe import Recipe
from ..data.label_table import find_files
from ..nets.networks import networks
from ..nets.pretrained import missing_weights, pretrained
from ..nets.timm_networks import timm_config
from .errors import UsageError

__all__ = ['DEFAULT_WEIGHTS', 'FolderLook', 'look_at', 'choose_base', 'head_recipe', 'tuning_recipe', 'scratch_recipe']

DEFAULT_WEIGHTS = 'timm/tf_efficientnet_lite0'  # 3.4 million parameters without its head; the plain install has them
_own_names = {'efficientnet_lite0': 'imagenet'}  # networks of ours whose weights have another name
_changes = dict(name='augment', flip=0.5, degrees=10., zoom=1.2, translate=0.07)
_grey = {'1', 'L', 'LA', 'La', 'F', 'I', 'I;16', 'I;16B', 'I;16L'}


@dataclass(frozen=True)
class FolderLook:
    "What some files of a folder say of themselves"
    side:int # median of the smaller sides, in pixels
    colour:bool # does at least half of them have colours?

    @property
    def photographs(self): # -> bool
        "Are they large and coloured enough for what was learned on photographs?"
        return self.colour and self.side >= 96


def _header(path):
    "(smaller side, has it colours?) of a picture; None where it cannot be opened"
    try:
        with Image.open(path) as im: return min(im.size), im.mode not in _grey
    except Exception: return None  # Pillow's readers raise errors of every kind; reading the images says which


def look_at(
    folder:str, # of images, as `read_folder` takes it
    most:int=100 # files to open, spread over all of them
)->FolderLook:
    "Open the first bytes of some files. Raises `FolderError` where there are no labelled images"
    files = [f[2] for f in find_files(folder)[1]]
    some = [h for f in files[::max(1, len(files)//most)] if (h := _header(f))]
    if not some: return FolderLook(0, False)
    return FolderLook(int(np.median([side for side, _ in some])), sum(c for _, c in some)*2 >= len(some))


def _size(o, weights, look, device):
    "Side of the images in pixels, unless it was given"
    if o['size']: return o['size']
    rule = pretrained[weights]().preprocessing
    name = weights.removeprefix('timm/').partition('@')[0]
    if weights.startswith('timm/') and timm_config(name)[1].fixed_input_size: return rule.size[0]
    side = look.side if look else 64
    sizes = (224, 192, 160, 128, 96) if device != 'cpu' else (128, 96)
    return next((s for s in sizes if s <= side), 96 if look and look.photographs else 64)


def choose_base(
    o:dict, # options: `folder`, `network`, `weights`, `from_scratch`, `size`
    own_recipe:bool, # was a recipe asked for? Then it says which network
    device:str='cpu' # where it will be trained: 'cpu', 'cuda', 'mps'
)->tuple: # what was chosen, as plain values, or None: nothing but the recipe; a line to say, or ''
    """The network, its weights and the size of the images.

    Raises `UsageError` for options that contradict each other, `ValueError` for an unknown network."""
    if own_recipe and (o['network'] or o['weights']):
        raise UsageError('--recipe says which network is trained: give it or --network, not both')
    if o['weights'] and o['from_scratch']: raise UsageError('--from-scratch uses no --weights: give one of them')
    if own_recipe: return None, ''
    look = None if o['folder'] is None else look_at(o['folder'])
    if not o['network'] and not o['weights'] and not (look and look.photographs): return None, ''
    name = o['network'] or DEFAULT_WEIGHTS
    weights = _own_names.get(name, name) if name in pretrained or name in _own_names else ''
    if weights and o['weights']: weights = f'{weights.partition("@")[0]}@{o["weights"]}'
    elif o['weights']: raise UsageError(f'--weights goes with a network of timm (--network timm/NAME), not {name!r}')
    if not weights: _ = networks[name]
    what = f'{"photographs" if look and look.photographs else "images"} of {look.side} pixels' if look else 'images'
    return _chosen(o, name, weights, what, look, device)


def _chosen(o, name, weights, what, look, device):
    "The choice, and a line that says it"
    missing = missing_weights(weights) if weights and not o['from_scratch'] else ''
    if weights and not missing and not o['from_scratch']:
        where = pretrained[weights]().find()
        where = f' ({where[1]}: {Path(where[0]).name})' if where else ''
        size = _size(o, weights, look, device)
        said = (f'{what}: {name} with its pretrained weights{where} is fine-tuned at {size} x {size} pixels, since few '
                'images go far with what it has learned from millions (--from-scratch: without)')
        return dict(network=name, weights=weights, size=size), said
    if missing and o['weights']: raise UsageError(f'--weights: {missing}')
    own = o['network'] or 'resnet'
    because = 'as --from-scratch says' if o['from_scratch'] else f'fine-tuning would be better, but {missing}' \
        if missing else 'since there are no trained weights of it'
    return dict(network=own, weights='', size=o['size']), f'{what}: {own} is trained from scratch, {because}'


def head_recipe(
    base:dict, # of `choose_base`, with weights
    o:dict # options: `batch_size`, `lr`
)->Recipe: # of one step, which is not made: what is solved on frozen features
    "The pretrained network with a head of its own"
    return tuning_recipe(base, o).replace(steps=1)


def tuning_recipe(
    base:dict, # of `choose_base`, with weights
    o:dict, # options: `batch_size`, `lr`
    decay:float=None # of the probe that the head starts from; None: it starts at random
)->Recipe: # with a budget of one step, to be replaced
    """All layers from the pretrained weights, early ones at a tenth of the head's rate, images changed a little.

    Label smoothing and a head that starts from a probe (Kumar et al. 2022, arXiv 2202.10054), the usual mild changes
    of photographs: mirrored, turned by up to 10 degrees, enlarged by up to a fifth."""
    start = [] if decay is None else [dict(name='head_start', decay=decay)]
    tuned = dict(name='fine_tune', weights=base['weights'], lr_mult=10.)
    return Recipe.from_dict(dict(
        network='article', optimizer='adamw', lr=o['lr'] or 4e-3, batch_size=o['batch_size'] or 32, steps=1,
        loss_args=dict(label_smoothing=0.1), channels_last=True, tricks=[tuned, *start, _changes]))


def scratch_recipe(
    base:dict, # of `choose_base`
    o:dict # options: `batch_size`, `lr`
)->Recipe: # with its own epochs
    """The network untrained, one cycle, label smoothing, images changed a little

    The residual network sees small images first, so that it makes more steps in the same seconds."""
    name = base['network'] if not base['weights'] else 'resnet'
    own = name == 'resnet'
    args, lr = (dict(width=16, blocks=(1, 1, 1)), 6e-3) if own else ({}, 2e-3)
    tricks = [_changes, dict(name='progressive_resizing')] if own else [dict(name='flip_shift', p=0.5, pixels=4)]
    return Recipe.from_dict(dict(
        network=name, network_args=args, size=64 if base['weights'] else None, optimizer='adamw', lr=o['lr'] or lr,
        schedule='one_cycle', epochs=20, batch_size=o['batch_size'] or 64, loss_args=dict(label_smoothing=0.1),
        channels_last=True, tricks=tricks))
