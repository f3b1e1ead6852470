"""Drawn circles, squares and triangles: images without end, without a download"""
import colorsys, math

import torch

from ..base.fields import check_value
from .datasets import datasets
from .decode import as_size
from .images import ImageData, Part

__all__ = ['shapes']


def _triangle(u, v):
    return torch.stack([u*math.cos(a) + v*math.sin(a) for a in (math.pi/2, math.pi*7/6, math.pi*11/6)]).amax(0) - 0.7


_distance = dict(  # to the outline of a shape of about the unit circle's area, at (u, v)
    circle=lambda u, v: (u**2 + v**2).sqrt() - 1,
    square=lambda u, v: torch.maximum(u.abs(), v.abs()) - 0.88,
    triangle=_triangle,
    ring=lambda u, v: ((u**2 + v**2).sqrt() - 0.85).abs() - 0.25,
    cross=lambda u, v: torch.minimum(torch.maximum(u.abs() - 1.1, v.abs() - 0.4),
                                     torch.maximum(u.abs() - 0.4, v.abs() - 1.1)))


def _draw_part(y, size, classes, bias, channels, generator):
    "Images of the classes `y`, with masks. With chance `bias` the background is that of the class"
    (h, w), n, k = size, len(y), len(classes)
    def rand(low, high, *shape): return low + (high - low)*torch.rand(n, *shape, 1, 1, generator=generator)
    rows, cols = torch.arange(h)[:, None] - (h - 1)/2, torch.arange(w)[None] - (w - 1)/2
    radius, turn = rand(0.2, 0.33)*min(h, w), rand(0, 2*math.pi)
    r, c = (p - rand(-1, 1)*(n_px/2 - 1 - 1.4*radius).clamp(min=0) for p, n_px in ((rows, h), (cols, w)))
    u, v = (c*turn.cos() + r*turn.sin())/radius, (r*turn.cos() - c*turn.sin())/radius
    distance = torch.stack([_distance[name](u, v) for name in classes])[y, torch.arange(n)]
    cover = (0.5 - distance*radius).clamp(0, 1)[:, None]
    # a background: stripes whose direction and hue belong to one of the classes
    own = torch.rand(n, generator=generator) < bias
    kind = torch.where(own, y, torch.randint(k, (n,), generator=generator))
    angle = (kind*math.pi/k)[:, None, None]
    stripes = torch.sin((cols*angle.cos() + rows*angle.sin())*rand(0.5, 0.7)*32/min(h, w) + rand(0, 2*math.pi))
    back = (rand(0.25, 0.45) + 0.12*stripes)[:, None] * _hues(k, channels)[kind][:, :, None, None]
    image = back*(1 - cover) + rand(0.65, 0.95, 1)*cover + 0.06*torch.randn(n, channels, h, w, generator=generator)
    return Part((image.clamp(0, 1)*255).round().to(torch.uint8), y, cover[:, 0] >= 0.5)


def _hues(k, channels):
    "A colour for each background: (k, channels)"
    if channels == 1: return torch.ones(k, 1)
    return torch.tensor([colorsys.hsv_to_rgb(i/k, 0.6, 1.4) for i in range(k)])


@datasets.register('shapes')
def shapes(n: int = 1200,  # Images in all: 60% train, 20% valid, 20% test
           size: int | tuple = 32,  # Pixels: both sides or (height, width), at least 8
           classes: tuple = ('circle', 'square', 'triangle'),  # Of circle, square, triangle, ring, cross
           background_bias: float = 0.,  # The chance that a background tells the class, in train and valid, in [0, 1]
           test_bias: float = 0.,  # The same in test
           channels: int = 3,  # 1: grey, 3: colour
           seed: int = 0,  # Another seed, other pictures
           ) -> ImageData:  # Its parts have `masks`
    "Labelled pictures drawn from a seed, with the object's mask; `TypeError` or `ValueError` for a wrong argument"
    h, w = size = as_size(size)
    if unknown := [c for c in classes if c not in _distance]:
        raise ValueError(f'classes: unknown shape {unknown[0]!r}; one of: {", ".join(_distance)}')
    if len(set(classes)) < max(2, len(classes)): raise ValueError(f'classes={classes}: must be at least 2, and differ')
    if min(h, w) < 8: raise ValueError(f'size={size}: must be at least 8 pixels')
    if channels not in (1, 3): raise ValueError(f'channels={channels}: must be 1 or 3')
    n, seed = check_value('n', n, int, ge=5*len(classes)), check_value('seed', seed, int)
    background_bias = check_value('background_bias', background_bias, float, ge=0, le=1)
    test_bias = check_value('test_bias', test_bias, float, ge=0, le=1)
    parts = []
    for i, (share, bias) in enumerate(((0.6, background_bias), (0.2, background_bias), (0.2, test_bias))):
        g = torch.Generator().manual_seed(1_000_003*seed + i)
        parts.append(_draw_part(torch.arange(round(share*n)) % len(classes), size, classes, bias, channels, g))
    train, valid, test = parts
    return ImageData(train, valid, test, classes=classes, name='shapes')
