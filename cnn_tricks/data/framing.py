"""Resizing and cropping a picture as pretrained weights expect it: the rule of their configuration in timm"""
import math
from typing import NamedTuple

from PIL import Image

from ..base.fields import check_value

__all__ = ['Framing', 'as_framing', 'least_decoded', 'frame']


class Framing(NamedTuple):
    "How a picture comes to its size, in the words of timm's configurations"
    interpolation: str = 'bicubic'  # bilinear, bicubic or lanczos
    crop_pct: float = 0.875  # The side that is kept, over the side to which the picture is resized: in (0, 1]
    crop_mode: str = 'center'  # center: the shape is kept, the middle taken; squash: both sides are scaled


_MODES = dict(bilinear=Image.Resampling.BILINEAR, bicubic=Image.Resampling.BICUBIC, lanczos=Image.Resampling.LANCZOS)


def as_framing(value: tuple | list | None,  # As a file holds it, or None: the package's own rule
               ) -> Framing | None:
    "`value`, checked; `ValueError` or `TypeError` where it is no rule"
    if value is None: return None
    if not isinstance(value, (tuple, list)) or len(value) not in (1, 2, 3):
        raise TypeError(f'framing={value!r}: must be (interpolation, crop_pct, crop_mode)')
    made = Framing(*value)
    check_value('crop_pct', made.crop_pct, float, interval='(0, 1]')
    for name, known in (('interpolation', _MODES), ('crop_mode', ('center', 'squash'))):
        if (given := getattr(made, name)) not in known:
            raise ValueError(f'{name}={given!r}: must be one of {", ".join(known)}')
    return made


def _resized(image, size, rule):
    "(width, height) to which timm resizes a picture of `image` = (width, height) before it crops"
    (w, h), (th, tw) = image, (math.floor(s/rule.crop_pct) for s in size)
    if rule.crop_mode == 'squash': return tw, th
    if th == tw:  # torchvision's `Resize` of the shorter side, which rounds the longer one down
        return (tw, int(tw*h/w)) if w <= h else (int(th*w/h), th)
    ratio = min(h/th, w/tw)  # timm's `ResizeKeepRatio`
    return round(w/ratio), round(h/ratio)


def least_decoded(image: tuple,  # (width, height) of the file
                  size: tuple,  # (height, width) that is wanted
                  rule: Framing,
                  ) -> tuple:  # (width, height)
    """How small a decoder may make a picture before `frame` resizes it, in pixels

    A picture of less than four times the size to which the rule resizes it is decoded whole, so that its pixels are those
    of timm. A larger one may be decoded as small as it is resized: it is read three times as fast, and its pixels differ
    by about one level of 255.
    """
    made = _resized(image, size, rule)
    return made if all(a >= 4*b for a, b in zip(image, made)) else image


def frame(im: Image.Image,  # Grey or RGB
          size: tuple,  # (height, width)
          rule: Framing,
          full: tuple | None = None,  # (width, height) upright, where `im` was decoded smaller; None: that of `im`
          turned: int = 1,  # The camera's mark (EXIF 0x0112) by which `im` was made upright
          ) -> Image.Image:
    """The picture at `size`, as timm's evaluation transform gives it (`timm.data.create_transform`)

    Resized whole and then cropped, as timm does: Pillow's resizing of a part alone rounds otherwise.
    """
    (w0, h0), (h, w) = full or im.size, size
    rw, rh = _resized((w0, h0), size, rule)
    times = max(1, round(w0/im.width))  # a JPEG decoded at a half, a quarter or an eighth may end in part of a pixel
    rest = max(0, im.width - w0/times), max(0, im.height - h0/times)  # which lay right and below as the file has it
    x, y = rest[0]*(turned in (2, 3, 6, 7)), rest[1]*(turned in (3, 4, 7, 8))
    whole = x, y, x + im.width - rest[0], y + im.height - rest[1]
    left, top = round((rw - w)/2), round((rh - h)/2)
    resized = im.resize((rw, rh), _MODES[rule.interpolation], box=whole)
    return resized.crop((left, top, left + w, top + h))
