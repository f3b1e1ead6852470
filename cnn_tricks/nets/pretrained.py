"""Networks with trained weights by name, their bodies, heads and parameter groups"""
import hashlib, json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files

import torch
from safetensors.torch import load
from torch import nn

from .networks import networks
from ..base.registry import Registry

__all__ = ['pretrained', 'Preprocessing', 'Pretrained', 'missing_weights', 'fashion', 'rotation', 'split_head',
           'layer_groups', 'parameter_groups', 'load_body', 'efficientnet_lite0', 'imagenet']

pretrained = Registry('pretrained network')


@dataclass(frozen=True)
class Preprocessing:
    "What weights expect of an image, in the words of timm's configurations"
    mean:tuple # per channel, in [0, 1] units
    std:tuple # per channel, in [0, 1] units
    size:tuple # (height, width) in pixels that it was trained or tested with
    interpolation:str = 'bicubic' # of resizing
    crop_pct:float = 0.875 # the side that is kept, over the side to which the image is resized
    crop_mode:str = 'center' # center or squash

    @property
    def framing(self): # -> tuple
        "What `read_folder(..., framing=...)` takes: how files come to their size"
        return self.interpolation, self.crop_pct, self.crop_mode

    def moments(self,
        channels:int # of the images: 1 grey, 3 colour
    )->tuple: # mean and std, a list of `channels` numbers each
        "What to subtract and to divide by; for grey images the average over the three colours"
        if len(self.mean) == channels: return list(self.mean), list(self.std)
        return tuple([sum(v)/len(v)]*channels for v in (self.mean, self.std))

    def normalise(self,
        dls # fastai `DataLoaders` of `ImageLoader`s
    ): # -> the same
        "Have the loaders normalise by these numbers and not by those of their own images"
        for dl in dls.loaders: dl.mean, dl.std = map(torch.tensor, self.moments(dl.dataset.x.shape[1]))
        return dls


@dataclass(frozen=True, eq=False)
class Pretrained:
    "The body of a trained network: everything but its last layer; its weights are read when they are asked for"
    network:str # a name in `networks`
    network_args:dict # keyword arguments of that network
    channels:int # of the images it was trained on: 1 or 3
    read:Callable # function of nothing: its `weights`
    about:str = '' # what it was trained on, in a line
    preprocessing:Preprocessing|None = None # what it expects of an image; None: its own mean and deviation
    source:str = '' # the name of the data set that it has seen, as `ImageData.name` begins with it; '': another

    @cached_property
    def weights(self): # -> parameter or buffer name -> tensor, as in `state_dict`, without the last layer
        "Read once; `FileNotFoundError` where they are missing, `RuntimeError` where they are damaged"
        return self.read()

    def weights_for(self,
        model:nn.Module # the same network, for images of another kind perhaps
    )->dict: # name -> tensor, without the last layer
        "The weights as `model` takes them: with its number of channels. Raises as `weights`, and `ValueError`"
        new, own = dict(self.weights), model.state_dict()
        first = next((k for k, v in own.items() if v.ndim == 4), '')
        if first in new: new[first] = _stem(new[first], own[first].shape[1])
        return new

    def normalise(self, dls): # fastai `DataLoaders` of `ImageLoader`s -> the same
        "As `preprocessing` has it, where there is one"
        return self.preprocessing.normalise(dls) if self.preprocessing else dls

    def find(self):
        "Raises where the weights cannot be had, as `weights` does"
        _ = self.weights


def missing_weights(
    name:str, # in `pretrained`
    **kwargs # of that entry: `weights_file`
)->str: # '' or the reason why they cannot be had, in a line
    "Are the trained weights at hand? Downloads them where that is what it takes"
    try: pretrained[name](**kwargs).find()
    except (ImportError, OSError) as e: return str(e)
    return ''


@cache
def _shipped(name): # -> Pretrained
    folder = files('cnn_tricks.data.embedded')
    about = json.loads((folder/f'pretrained_{name}.json').read_text(encoding='utf-8'))

    def read():
        packed = (folder/f'pretrained_{name}.safetensors').read_bytes()
        if hashlib.sha256(packed).hexdigest() != about['sha256']:
            raise RuntimeError(f'pretrained_{name}.safetensors in {folder} is damaged: install cnn_tricks again')
        return {k: v.float() if v.is_floating_point() else v for k, v in load(packed).items()}

    text = f"{about['task']}; {about['images']:,} images, {about['steps']:,} steps of {about['batch_size']}"
    return Pretrained(about['network'], about['network_args'], about['channels'], read, text,
                      source=about['source'].partition(',')[0])


@pretrained.register('fashion')
def fashion(): # -> Pretrained
    "Trained on the labels of six classes of Fashion-MNIST (`SOURCE`); a damaged file raises `RuntimeError`"
    return _shipped('fashion')


@pretrained.register('rotation')
def rotation(): # -> Pretrained
    """Trained on the same images without their labels, to tell by how many quarter turns each was turned

    The task is that of Gidaris, Singh and Komodakis (2018, arXiv 1803.07728). A damaged file raises `RuntimeError`.
    """
    return _shipped('rotation')


def split_head(
    model:nn.Module # its last layer with weights is the head, or what timm calls its classifier: a `torch.nn.Linear`
)->tuple: # name of the head, the head
    """The last linear layer: what is new in every task

    Raises `ValueError` where the last layer with weights is of another kind.
    """
    told = getattr(model, 'get_classifier', lambda: None)()
    if isinstance(told, nn.Linear): return next((n, m) for n, m in model.named_modules() if m is told)
    named = [(n, m) for n, m in model.named_modules() if next(m.parameters(False), None) is not None]
    if not named or not isinstance(named[-1][1], nn.Linear):
        raise ValueError(f'{type(model).__name__}: its last layer with weights must be torch.nn.Linear')
    return named[-1]


def _units(model): # the layers of a network in their order, blocks whole: lists of parameters
    found = []
    for c in model.children():
        for u in _units(c) if isinstance(c, nn.Sequential) else [list(c.parameters())]:
            if found and all(p.ndim < 2 for p in u): found[-1] += u # a norm goes with its convolution
            elif u: found.append(u)
    return found


def layer_groups(
    model:nn.Module # with a linear layer at its end
)->list: # lists of parameters: each layer's, blocks whole, in their order; the head's come last
    """Split the parameters by layers, for `Learner(splitter=...)` with a learning rate for each

    Raises `ValueError` for a network that does not end in a linear layer.
    """
    head = list(split_head(model)[1].parameters())
    mine = {id(p) for p in head}
    units = [u for u in _units(model) if id(u[0]) not in mine]
    if loose := list(model.parameters(False)): units = [loose + units[0], *units[1:]] if units else [loose]
    return [*units, head]


def parameter_groups(
    model:nn.Module # with a linear layer at its end
)->list: # three lists of parameters: early body, late body, head; an empty one is left out
    """Split the parameters for `freeze` and for learning rates that differ, as fastai's `Learner(splitter=...)`

    Raises `ValueError` for a network that does not end in a linear layer. Groups with learning rates of their own:
    Howard and Ruder (2018, arXiv 1801.06146), section 3.
    """
    *units, head = layer_groups(model)
    cut = (len(units) + 1)//2
    parts = [[p for u in us for p in u] for us in (units[:cut], units[cut:])]
    return [p for p in parts + [head] if p]


def _stem(w, channels): # first convolution for another number of channels
    if w.shape[1] == channels: return w
    if w.shape[1] == 1: return w.expand(-1, channels, -1, -1)/channels # as if it saw their mean
    if channels == 1: return w.sum(1, keepdim=True) # as if grey were given to each
    raise ValueError(f'channels={channels}: weights for {w.shape[1]} channels can be used for 1 or {w.shape[1]}')


@torch.no_grad()
def load_body(
    model:nn.Module, # the same network, with any head; changed in place
    source:Pretrained # where the weights come from
)->nn.Module: # the same model
    """Copy every weight and statistic but those of the head; grey weights serve colour images and the other way round

    Raises `ValueError` where a tensor is missing, is one too many or has another shape, and where the weights' channels
    cannot be turned into the network's; the network is then as it was.
    """
    own, (head, _), new = model.state_dict(), split_head(model), source.weights_for(model)
    if missing := {k for k in own if not k.startswith(f'{head}.')} ^ set(new):
        raise ValueError(f'model: {min(missing)!r} is not in both the network and the weights')
    for k, v in new.items():
        if v.shape != own[k].shape:
            raise ValueError(f'model: {k!r} is {tuple(own[k].shape)}, the weights {tuple(v.shape)}')
    model.load_state_dict(new, strict=False)
    return model


@networks.register('efficientnet_lite0')
def efficientnet_lite0(
    in_channels:int, # channels of the images: 1 grey, 3 colour
    n_classes:int, # number of classes, the length of the output
    size:int|tuple, # image size in pixels, 32 or more; not used
)->nn.Module: # (N, in_channels, H, W) -> (N, n_classes) scores, before softmax
    "EfficientNet-Lite0 of timm (4.6 million parameters with 1,000 classes), untrained: `timm/tf_efficientnet_lite0`"
    return networks['timm/tf_efficientnet_lite0'](in_channels, n_classes, size)


@pretrained.register('imagenet')
def imagenet(
    weights_file:str='' # to be used before all else
): # -> Pretrained
    """EfficientNet-Lite0 trained on ImageNet's 1,000 classes: `timm/tf_efficientnet_lite0` under its name of old

    Reading its weights raises `FileNotFoundError` where there are none, `RuntimeError` where the package that carries
    them does not fit this version of timm.
    """
    made = pretrained['timm/tf_efficientnet_lite0'](weights_file)
    return replace(made, network='efficientnet_lite0', about='ImageNet, 1.28 million images of 1,000 classes')
