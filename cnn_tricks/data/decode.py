"""Pictures from files to arrays of one size, in several processes"""
import os, re, sys, warnings
import numpy as np, PIL
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from PIL import Image, ImageOps, UnidentifiedImageError
from .download import SlowBar, room

__all__ = ['SUFFIXES', 'printable', 'is_image', 'decoders', 'decode_picture', 'read_images', 'still_bad', 'as_size']


SUFFIXES = frozenset('.jpg .jpeg .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pnm .avif .jp2'.split())
_formats = 'JPEG MPO PNG BMP GIF WEBP TIFF PPM AVIF JPEG2000'.split()
_see_through = {'RGBA', 'LA', 'PA', 'RGBa', 'La'}

def printable(path: str | os.PathLike) -> str:
    "A path as text, whatever its bytes"
    return os.fsencode(path).decode('utf-8', 'replace')

def is_image(path: str | os.PathLike) -> bool:
    "Does its suffix say so?"
    return os.path.splitext(path)[1].lower() in SUFFIXES

def _readable():
    Image.init()
    return [f for f in _formats if f in Image.OPEN]

def decoders() -> str:
    "What decodes the files here: Pillow's version and the formats that it can open"
    return ' '.join([PIL.__version__, *_readable()])

def _open(path): return Image.open(path, formats=_readable())


class _Unusable(ValueError):
    "A picture that is whole and still cannot be used; the message is the reason"

def _family(path):
    "Do its first bytes promise a picture of a family that Pillow reads in part: TIFF, HEIC, AVIF?"
    with open(path, 'rb') as f: head = f.read(12)
    return head[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+') or head[4:8] == b'ftyp'

def _reason(path, e):
    "Why a file cannot be used, in a few words"
    if isinstance(e, _Unusable): return str(e)
    if os.path.islink(path) and not os.path.exists(path): return 'a link to nothing'
    if isinstance(e, PermissionError): return 'no permission to read it'
    if isinstance(e, Image.DecompressionBombError): return 'too many pixels'
    if os.path.exists(path) and not os.path.getsize(path): return 'empty'
    if isinstance(e, UnidentifiedImageError):
        return 'of a kind that Pillow cannot read' if _family(path) else 'not an image'
    return 'cut short' if 'truncated' in str(e) else 'damaged'


_whites = 1, 3, 15, 255, 1023, 4095, 16383, 65535  # what 1, 2, 4, 8, 10, 12, 14 and 16 bits can hold

def _raw(im):
    "How the values lie in the file, in Pillow's words"
    args = im.tile[0][3] if im.tile else ''
    return str(args[0]) if args and isinstance(args, tuple) else str(args)

def _depth(im):
    "'16', '32' or 'float', where the values are no bytes; Pillow shows a colour of 16 bits as one of 8"
    if im.mode == 'F': return 'float'
    if im.mode.startswith('I;16') or im.format in ('PNG', 'TIFF') and re.search(';1[26]', _raw(im)): return '16'
    return None if im.mode != 'I' else '32' if im.format == 'TIFF' else '16'

def _number(v): return f'{v:,}' if isinstance(v, int) else f'{v:,.4g}'
def _highest(a, depth):
    "The largest value; refuses what has no place between black and white"
    low, high, slack = a.min().item(), a.max().item(), 0.1*(depth == 'float')  # resampling shoots over a little
    if not np.isfinite([low, high]).all(): raise _Unusable('holds values that are no numbers')
    if low < -slack*high: raise _Unusable(f'holds values from {_number(low)} to {_number(high)}: black must be 0')
    if high > _whites[-1]*(1 + slack): raise _Unusable(f'holds values up to {_number(high)}: more than 16 bits')
    if 1 + slack < high < 16 and slack: raise _Unusable(f'holds values up to {_number(high)}: is white 1 or 255?')
    return high

def _white(high, depth): return next(w for w in _whites if high <= w*(1.1 if depth == 'float' else 1))


def _retold(im, raw):
    "Have the file's bytes read in another way"
    args = [(raw, *t[3][1:]) if isinstance(t[3], tuple) else raw for t in im.tile]
    im.tile = [type(t)._make((*t[:3], a)) if hasattr(t, '_make') else (*t[:3], a) for t, a in zip(im.tile, args)]

def _values(path, im):
    "The colours as the file has them, (H, W) or (H, W, C), and what is seen of each pixel, (H, W), or None"
    raw, clear = _raw(im), im.info.get('transparency')
    if im.mode == 'F' or im.mode.startswith('I'): a = np.asarray(im)
    elif raw == 'LA;16B':  # two values of two bytes, read as four of one
        _retold(im, 'RGBA')
        a = np.asarray(im).astype(np.int64)
        a = a[..., ::2]*256 + a[..., 1::2]
    else:  # Pillow keeps the upper byte of two; with the bytes exchanged, it keeps the lower one
        with _open(path) as twin:
            _retold(twin, raw[:-1] + 'BL'[raw[-1] == 'B' or raw[-1] == 'N' and sys.byteorder == 'big'])
            a = np.asarray(im).astype(np.int64)*256 + np.asarray(twin)
    if im.mode in _see_through: return a[..., :-1].squeeze(-1) if a.shape[-1] == 2 else a[..., :-1], a[..., -1]
    if clear is None: return a, None
    return a, 65535*(a.reshape(*a.shape[:2], -1) != np.ravel(clear)).any(-1)  # one colour is not seen


def _eight_bit(path, im, ranges):
    "A picture of bytes"
    depth, mode, (a, seen) = _depth(im), im.mode, _values(path, im)
    high, white = _highest(a, depth), ranges.get(depth)
    if white is None: white = _white(high, depth)
    if high > white*(1.1 if depth == 'float' else 1):
        raise _Unusable(f'holds values up to {_number(high)}, where white was {white:,} in training')
    a = np.rint(np.clip(a/white, 0, 1)*255) if depth == 'float' else a.astype(np.int64)*255//white
    if seen is not None: a = np.dstack([a, seen*255//(65535 if seen.max() > 255 else 255)])
    kind = mode if mode in ('CMYK', 'RGBa') else {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}[a[0, 0].size]
    out = Image.frombytes(kind, a.shape[1::-1], a.astype(np.uint8).tobytes())
    if turned := im.getexif().get(0x0112): out.getexif()[0x0112] = turned
    return out


def _probe(path):
    "(size, is it grey?, what must be handled, depth and largest value if no byte); or why the file cannot be used"
    try:
        with _open(path) as im:
            size, depth, raw = im.size, _depth(im), _raw(im)  # asked first: a PNG's EXIF marks load all of it
            values = depth and (depth, _highest(_values(path, im)[0], depth))
            tags = [t for t, hit in (('transparent', im.mode in _see_through or 'transparency' in im.info),
                                     ('cmyk', im.mode == 'CMYK'),
                                     ('animated', getattr(im, 'n_frames', 1) > 1 and im.format != 'MPO'),
                                     ('turned', im.getexif().get(0x0112, 1) in range(2, 9))) if hit]
            grey = im.mode in {'1', 'L', 'LA', 'La', 'F'} or im.mode.startswith('I') or raw == 'LA;16B'
            return size, grey, tags, values
    except Exception as e: return _reason(path, e)  # Pillow's readers raise errors of every kind on damaged files

def _one_mode(im, channels):
    "Grey or RGB; what is transparent is laid on white"
    mode = 'L' if channels == 1 else 'RGB'
    if im.mode not in _see_through and 'transparency' not in im.info: return im.convert(mode)
    im = im.convert('RGBA')
    return Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im).convert(mode)


def _fit(im, size, channels):
    "A picture's middle at the wanted shape, scaled to `size`: uint8 (C, H, W)"
    im, (h, w) = _one_mode(ImageOps.exif_transpose(im), channels), size
    scale = min(im.width/w, im.height/h)
    left, top = (im.width - scale*w)/2, (im.height - scale*h)/2
    box = left, top, im.width - left, im.height - top
    a = np.asarray(im.resize((w, h), Image.Resampling.BILINEAR, box=box, reducing_gap=3))
    return a[None] if channels == 1 else a.transpose(2, 0, 1)

def _decode(path, size, channels, ranges=None):
    "The image as uint8 (C, H, W); or why it cannot be used. `ranges`: what was white, where values are no bytes"
    try:
        with _open(path) as im:
            if _depth(im): im = _eight_bit(path, im, ranges or {})
            else: im.draft(None, (4*size[1], 4*size[0]))  # a JPEG is decoded near the size that is needed
            return _fit(im, size, channels)
    except Exception as e: return _reason(path, e)

def decode_picture(source: str | os.PathLike | Image.Image,  # A file, or a picture that is open
                   size: tuple, channels: int,  # (height, width); 1 or 3
                   ranges: dict | None = None,  # What is white where values are no bytes: see `ImageData`
                   ) -> np.ndarray:  # uint8 (C, H, W)
    "A picture as training sees its own; `ValueError` says why it cannot be used"
    if not isinstance(source, Image.Image): out = _decode(source, size, channels, ranges)
    else: out = _fit(_eight_bit(source.filename, source, ranges or {}) if _depth(source) else source, size, channels)
    if isinstance(out, str): raise ValueError(f'{printable(source)}: {out}')
    return out


def _map(fn, items, label, progress):
    "`fn` of each item, in order, by threads: Pillow decodes outside Python's lock"
    with SlowBar(label, len(items), progress) as bar, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # many pixels, odd metadata
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for i in range(0, len(items), 256):
                yield from pool.map(fn, items[i:i + 256])
                bar.update(min(i + 256, len(items)))


def read_images(paths: list,  # Image files
                size: tuple | None,  # (height, width); None: the median of the smaller sides, at most 64
                max_memory: int,  # Bytes; see `room`
                progress: bool,  # Show a bar where it takes long?
                ) -> tuple:  # The images, the indices of the paths that they come from, what was noticed
    "Decode image files to one size; grey where all are grey, else RGB"
    probes = list(_map(_probe, paths, 'looking at the images', progress))
    bad = {i: p for i, p in enumerate(probes) if isinstance(p, str)}
    good, keep = [i for i in range(len(paths)) if i not in bad], []
    side = int(np.median([min(probes[i][0]) for i in good] or [1]))
    size, channels = size or (min(side, 64),)*2, 1 if all(probes[i][1] for i in good) else 3
    ranges, seen = _ranges([probes[i][3] for i in good]), Counter()
    x = room(len(good), (channels, *size), max_memory)
    decode = partial(_decode, size=size, channels=channels, ranges=ranges)
    for i, image in zip(good, _map(decode, [paths[i] for i in good], 'reading the images', progress)):
        if isinstance(image, str): bad[i] = image
        else:
            x[len(keep)] = image
            seen['dark'] += x[len(keep)].max() < 16
            keep.append(i)
    seen.update(t for i in keep for t in _tags(probes[i], size))
    seen = {t: int(n) for t, n in seen.items()}
    return x[:len(keep)], keep, dict(side=side, size=size, bad=bad, seen=seen, ranges=ranges)


def _ranges(found):
    "{depth: what is white}: the smallest usual range that holds the values of all pictures of that depth"
    highest = {}
    for depth, high in filter(None, found): highest[depth] = max(high, highest.get(depth, 0))
    return {depth: _white(high, depth) for depth, high in sorted(highest.items())}

def _tags(probe, size):
    "What a picture was"
    (w, h), _, tags, depth = probe
    more = dict(small=min(w, h) < min(size), oblong=w*size[0] != h*size[1])
    return [*tags, *(t for t, hit in more.items() if hit), *([f'depth {depth[0]}'] if depth else [])]

def still_bad(path: str,  # A file that could not be used
              size: tuple, channels: int,  # (height, width); 1 or 3
              ) -> str:  # Why it cannot be used now; empty where it can
    "Try a file once more"
    found = _probe(path)
    if not isinstance(found, str): found = _decode(path, size, channels)
    return found if isinstance(found, str) else ''

def as_size(size: int | tuple,  # Pixels: both sides, or (height, width)
            ) -> tuple:  # (height, width)
    "Both sides of a size; raises for what is no size"
    h_w = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(h_w) != 2 or any(isinstance(s, bool) or not isinstance(s, int) for s in h_w):
        raise TypeError(f'size={size!r}: must be a whole number or (height, width)')
    if not 1 <= min(h_w) <= max(h_w) <= 4096: raise ValueError(f'size={size}: must be between 1 and 4096 pixels')
    return h_w
