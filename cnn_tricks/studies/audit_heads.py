"""The first stage of an audit on a pretrained network: heads on frozen features, over many splits, in seconds"""
import time
from dataclasses import replace

import torch

from ..core.fitting import random_kept
from ..core.metrics import metrics
from ..core.plan import plan
from ..core.recipe import Recipe
from ..core.result import images_at_once
from ..core.train import learner
from ..data.images import ImageData, Part
from ..data.loaders import ImageLoader
from ..measure.comparison_display import points
from ..measure.statistics import corrected_t
from ..measure.verdict import Verdict
from ..tricks.imbalance import class_weights
from ..tricks.transfer import features_of, linear_probe
from .audit_boundary import level
from .audit_splits import Splits

__all__ = ['try_heads', 'head_rows']

_decay, _decays, MOST = 0.03, (0.003, 0.3), 12 # L2 penalty of the head; others to try; splits at most
_crop = 7/8 # of each side


def _features(recipe, data, device): # float32 (N, F) of train and valid, in this order
    p, learn = plan(recipe, data), learner(recipe, data, 0, device)
    dl, pool = learn.dls.train, p.data.train.join(p.data.valid)
    how = dict(mean=dl.mean, std=dl.std, channels_last=p.recipe.channels_last, device=learn.dls.device)
    return features_of(learn.model.to(learn.dls.device), ImageLoader(pool, images_at_once(p.data.size), **how))[0]


def _cropped(data): # the middle of each image, at the size that it had
    h, w = (round(s*_crop) for s in data.size)
    top, left = (data.size[0] - h)//2, (data.size[1] - w)//2
    def cut(part): return Part(part.x[:, :, top:top + h, left:left + w].contiguous(), part.y)
    return replace(data, **{k: cut(p) for k, p in data.parts.items()}).resize(data.size)


def _score(head, x, y, n_classes, metric):
    with torch.no_grad(): said = head(x).argmax(1)
    return metrics[metric](torch.bincount(y*n_classes + said, minlength=n_classes**2).view(n_classes, n_classes))


@random_kept()
def try_heads(
    recipe:Recipe, # with `fine_tune`, whose weights are taken
    data:ImageData, # its train and valid images are split anew each time; the test part is not read
    seconds:float, # for everything after the first features
    metric:str='accuracy', # what is compared: a name in `metrics`
    seed:int=0, # the first of the seeds of the splits
    device=None, # torch device
    tell=lambda what: None # is called with what is about to happen
)->dict: # plain values: `splits`, `base` (its mean score), `rows` ('what', 'difference', 'low', 'high', 'verdict')
    """Smaller images, cropped ones, another strength of the head's penalty, classes weighed alike: each against the
    head on the images as they are. The intervals hold together, and are corrected for images that splits share

    A head on frozen features is no fine-tuned network: a hint at what to try, no verdict on it."""
    tell('features of the images as they are')
    small = tuple(max(8, round(s*3/4)) for s in data.size)
    for t in recipe.tricks: data = t.images(data)
    pool, k, one = data.train.join(data.valid), data.n_classes, recipe.replace(steps=1)
    x, y, splits, start = _features(one, data, device), pool.y.cpu(), Splits(_numbered(pool, data)), time.monotonic()
    seen = {'as they are': x}
    changes = {f'{small[0]} x {small[1]} pixels': lambda: data.resize(small), 'cropped': lambda: _cropped(data)}
    for what, change in changes.items():
        tell(f'features of the images, {what}')
        seen[what] = _features(one, change(), device)
    arms = {'base': ('as they are', _decay, False), **{w: (w, _decay, False) for w in changes}}
    arms |= {f'decay {d:g}': ('as they are', d, False) for d in _decays}
    arms['class_weights'] = 'as they are', _decay, True
    if len(set(y.bincount(minlength=k).tolist())) == 1: del arms['class_weights'] # classes are even
    scores, n = {a: [] for a in arms}, 0
    while n < MOST and (n < 4 or (time.monotonic() - start)*(n + 1)/n < seconds):
        tell(f'heads on frozen features, split {n + 1}')
        train, valid = (_numbers(p) for p in (splits.round(seed + n).train, splits.round(seed + n).valid))
        for name, (which, decay, even) in arms.items():
            weight = class_weights(y[train].bincount(minlength=k)) if even else None
            head = linear_probe(seen[which][train], y[train], k, decay, weight=weight)
            scores[name].append(_score(head, seen[which][valid], y[valid], k, metric))
        n += 1
    return _told(scores, n, len(pool) - splits.valid, splits.valid)


def _numbered(pool, data): # each image replaced by its number, in four bytes, so that splits say who is in them
    n = torch.arange(len(pool))
    x = torch.stack([n >> 8*i & 255 for i in range(4)], 1).to(torch.uint8)[:, :, None, None]
    part = replace(pool, x=x, y=pool.y.cpu(), masks=None)
    cut = len(data.train)
    return replace(data, train=part[:cut], valid=part[cut:], test=part[:0])


def _numbers(part): return (part.x[:, :, 0, 0].long() << torch.tensor([0, 8, 16, 24])).sum(1)


def _told(scores, n, n_train, n_test): # -> plain values
    rows, at = [], level(len(scores) - 1, 1.)
    for name, s in scores.items():
        if name == 'base': continue
        d = torch.tensor(s, dtype=torch.float64) - torch.tensor(scores['base'], dtype=torch.float64)
        mean, low, high, _ = corrected_t(d.numpy(), n_train, n_test, at)
        rows.append(dict(what=name, difference=mean, low=low, high=high))
    return dict(splits=n, base=sum(scores['base'])/n, rows=sorted(rows, key=lambda r: -r['difference']))


def head_rows(
    heads:dict, # of `try_heads`
    delta:float # the smallest difference that matters
)->list: # of dicts of text
    "What a table of the heads shows"
    def row(r): return dict(what=r['what'], difference=points(r['difference']),
                            interval=f'{points(r["low"])} to {points(r["high"])}',
                            verdict=Verdict.of(r['low'], r['high'], delta))
    return [row(r) for r in heads.get('rows', ())]
