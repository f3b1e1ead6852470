"""Pictures whose values are no bytes (16 or 32 bits, floating point): what is white in them, and their bytes"""
import re, sys

import numpy as np
from PIL import Image

__all__ = ['Unusable', 'SEE_THROUGH', 'bit_depth', 'colour_layout', 'highest_value', 'white_of', 'to_bytes']


SEE_THROUGH = {'RGBA', 'LA', 'PA', 'RGBa', 'La'}  # Pillow's modes with transparency
WHITES = 1, 3, 15, 255, 1023, 4095, 16383, 65535  # what 1, 2, 4, 8, 10, 12, 14 and 16 bits can hold


class Unusable(ValueError):
    "A picture that is whole and still cannot be used; the message is the reason"


def colour_layout(im: Image.Image,  # Open, not yet loaded
                  ) -> str:
    "How the values lie in the file, in Pillow's words"
    args = im.tile[0][3] if im.tile else ''
    return str(args[0]) if args and isinstance(args, tuple) else str(args)


def bit_depth(im: Image.Image,  # Open
              ) -> str | None:  # '16', '32' or 'float'; None where the values are bytes
    "How deep a picture's values are; Pillow shows a colour of 16 bits as one of 8"
    if im.mode == 'F': return 'float'
    told = im.format in ('PNG', 'TIFF') and re.search(';1[26]', colour_layout(im))
    if im.mode.startswith('I;16') or told: return '16'
    return None if im.mode != 'I' else '32' if im.format == 'TIFF' else '16'


def white_of(high: float,  # The largest value
             depth: str | None,  # As of `bit_depth`
             ) -> int:
    "The smallest usual value of white that is not below it"
    return next(w for w in WHITES if high <= w*(1.1 if depth == 'float' else 1))


def highest_value(path,  # The file
                  im: Image.Image,  # It, open
                  ) -> float:  # int, where the file holds whole numbers
    "The largest value of a picture; `Unusable` where a value has no place between black and white"
    depth = bit_depth(im)  # asked first: a picture that is loaded no longer tells
    return _highest(_values(path, im)[0], depth)


def to_bytes(path,  # The file
             im: Image.Image,  # It, open, with values that are no bytes
             ranges: dict,  # What is white, by depth; where it lacks the depth, this picture says
             ) -> Image.Image:
    "The same picture in bytes; `Unusable` where its values have no place between black and white"
    depth, mode, (a, seen) = bit_depth(im), im.mode, _values(path, im)
    high, white = _highest(a, depth), ranges.get(depth)
    if white is None: white = white_of(high, depth)
    if high > white*(1.1 if depth == 'float' else 1):
        raise Unusable(f'holds values up to {_number(high)}, where white was {white:,} in training')
    a = np.rint(np.clip(a/white, 0, 1)*255) if depth == 'float' else a.astype(np.int64)*255//white
    if seen is not None: a = np.dstack([a, seen*255//(65535 if seen.max() > 255 else 255)])
    kind = mode if mode in ('CMYK', 'RGBa') else {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}[a[0, 0].size]
    out = Image.frombytes(kind, a.shape[1::-1], a.astype(np.uint8).tobytes())
    if turned := im.getexif().get(0x0112): out.getexif()[0x0112] = turned
    return out


def _number(v): return f'{v:,}' if isinstance(v, int) else f'{v:,.4g}'


def _highest(a, depth):
    "The largest value; refuses what has no place between black and white"
    low, high, slack = a.min().item(), a.max().item(), 0.1*(depth == 'float')  # resampling shoots over a little
    if not np.isfinite([low, high]).all(): raise Unusable('holds values that are no numbers')
    if low < -slack*high: raise Unusable(f'holds values from {_number(low)} to {_number(high)}: black must be 0')
    if high > WHITES[-1]*(1 + slack): raise Unusable(f'holds values up to {_number(high)}: more than 16 bits')
    if 1 + slack < high < 16 and slack: raise Unusable(f'holds values up to {_number(high)}: is white 1 or 255?')
    return high


def _retold(im, raw):
    "Have the file's bytes read in another way"
    args = [(raw, *t[3][1:]) if isinstance(t[3], tuple) else raw for t in im.tile]
    im.tile = [type(t)._make((*t[:3], a)) if hasattr(t, '_make') else (*t[:3], a) for t, a in zip(im.tile, args)]


def _values(path, im):
    "The colours as the file has them, (H, W) or (H, W, C), and what is seen of each pixel, (H, W), or None"
    raw, clear = colour_layout(im), im.info.get('transparency')
    if im.mode == 'F' or im.mode.startswith('I'): a = np.asarray(im)
    elif raw == 'LA;16B':  # two values of two bytes, read as four of one
        _retold(im, 'RGBA')
        a = np.asarray(im).astype(np.int64)
        a = a[..., ::2]*256 + a[..., 1::2]
    else:  # Pillow keeps the upper byte of two; with the bytes exchanged, it keeps the lower one
        with Image.open(path, formats=[im.format]) as twin:
            _retold(twin, raw[:-1] + 'BL'[raw[-1] == 'B' or raw[-1] == 'N' and sys.byteorder == 'big'])
            a = np.asarray(im).astype(np.int64)*256 + np.asarray(twin)
    if im.mode in SEE_THROUGH: return a[..., :-1].squeeze(-1) if a.shape[-1] == 2 else a[..., :-1], a[..., -1]
    if clear is None: return a, None
    return a, 65535*(a.reshape(*a.shape[:2], -1) != np.ravel(clear)).any(-1)  # one colour is not seen
