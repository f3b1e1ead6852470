"""Images from files: found fit for use or not, decoded to one size by threads, and why one cannot be used"""
import os, warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np, PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from ..base.display import SlowBar
from .bit_depth import SEE_THROUGH, Unusable, bit_depth, colour_layout, highest_value, to_bytes, white_of
from .cache import room
from .framing import Framing, frame

__all__ = ['SUFFIXES', 'printable', 'is_image', 'as_size', 'decoders', 'read_images', 'decode_picture',
           'decode_or_reason', 'still_bad']


SUFFIXES = frozenset('.jpg .jpeg .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .pnm .avif .jp2'.split())
FORMATS = 'JPEG MPO PNG BMP GIF WEBP TIFF PPM AVIF JPEG2000'.split()


def printable(path: str | os.PathLike) -> str:
    "A path as text, whatever its bytes"
    return os.fsencode(path).decode('utf-8', 'replace')


def is_image(path: str | os.PathLike) -> bool:
    "Does its suffix say so?"
    return os.path.splitext(path)[1].lower() in SUFFIXES


def as_size(size: int | tuple,  # Pixels: both sides, or (height, width)
            ) -> tuple:  # (height, width)
    "Both sides of a size; `TypeError` for what is no size, `ValueError` outside 1 to 4096 pixels"
    h_w = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(h_w) != 2 or any(isinstance(s, bool) or not isinstance(s, int) for s in h_w):
        raise TypeError(f'size={size!r}: must be a whole number or (height, width)')
    if not 1 <= min(h_w) <= max(h_w) <= 4096: raise ValueError(f'size={size}: must be between 1 and 4096 pixels')
    return h_w


def decoders() -> str:
    "What decodes the files here: Pillow's version and the formats that it can open"
    return ' '.join([PIL.__version__, *_readable()])


def read_images(paths: list,  # Image files
                size: tuple | None,  # (height, width); None: the median of the smaller sides, at most 64
                max_memory: int,  # Bytes; see `room`
                progress: bool,  # Show a bar where it takes long?
                framing: Framing | None = None,  # How they are resized and cropped; None: the middle, bilinear
                ) -> tuple:  # The images, the indices of the paths that they come from, what was noticed
    "Decode image files to one size; grey where all are grey, else RGB"
    probes = list(_map(_probe, paths, 'looking at the images', progress))
    bad = {i: p for i, p in enumerate(probes) if isinstance(p, str)}
    good, keep = [i for i in range(len(paths)) if i not in bad], []
    side = int(np.median([min(probes[i][0]) for i in good] or [1]))
    size, channels = size or (min(side, 64),)*2, 1 if all(probes[i][1] for i in good) else 3
    ranges, seen = _ranges([probes[i][3] for i in good]), Counter()
    x = room(len(good), (channels, *size), max_memory)
    decode = partial(decode_or_reason, size=size, channels=channels, ranges=ranges, framing=framing)
    for i, image in zip(good, _map(decode, [paths[i] for i in good], 'reading the images', progress)):
        if isinstance(image, str): bad[i] = image
        else:
            x[len(keep)] = image
            seen['dark'] += x[len(keep)].max() < 16
            keep.append(i)
    seen.update(t for i in keep for t in _tags(probes[i], size))
    seen = {t: int(n) for t, n in seen.items()}
    return x[:len(keep)], keep, dict(side=side, size=size, bad=bad, seen=seen, ranges=ranges)


def decode_picture(source: str | os.PathLike | Image.Image,  # A file, or a picture that is open
                   size: tuple, channels: int,  # (height, width); 1 or 3
                   ranges: dict | None = None,  # What is white where values are no bytes: see `ImageData`
                   framing: Framing | None = None,  # How it is resized and cropped; None: the middle, bilinear
                   ) -> np.ndarray:  # uint8 (C, H, W)
    "A picture as training sees its own; `ValueError` says why it cannot be used"
    if not isinstance(source, Image.Image): out = decode_or_reason(source, size, channels, ranges, framing)
    else:
        im = to_bytes(source.filename, source, ranges or {}) if bit_depth(source) else source
        out = _fit(im, size, channels, framing)
    if isinstance(out, str): raise ValueError(f'{printable(str(source))}: {out}')
    return out


def decode_or_reason(path: str | os.PathLike,  # A file
                     size: tuple, channels: int,  # (height, width); 1 or 3
                     ranges: dict | None = None,  # What is white where values are no bytes: see `ImageData`
                     framing: Framing | None = None,  # How it is resized and cropped; None: the middle, bilinear
                     ) -> np.ndarray | str:  # uint8 (C, H, W); or why the file cannot be used
    "Decode a file, for callers that go on after one that fails: raises nothing"
    try:
        with _open(path) as im:
            full = im.size
            if bit_depth(im): im = to_bytes(path, im, ranges or {})
            else:  # a JPEG is decoded near the size that is needed
                times = 4/framing.crop_pct if framing else 4
                im.draft(None, (int(times*size[1]), int(times*size[0])))
            return _fit(im, size, channels, framing, full)
    except Exception as e: return _reason(path, e)


def still_bad(path: str,  # A file that could not be used
              size: tuple, channels: int,  # (height, width); 1 or 3
              ) -> str:  # Why it cannot be used now; empty where it can
    "Try a file once more"
    found = _probe(path)
    if not isinstance(found, str): found = decode_or_reason(path, size, channels)
    return found if isinstance(found, str) else ''


def _readable():
    Image.init()
    return [f for f in FORMATS if f in Image.OPEN]


def _open(path): return Image.open(path, formats=_readable())


def _family(path):
    "Do its first bytes promise a picture of a family that Pillow reads in part: TIFF, HEIC, AVIF?"
    with open(path, 'rb') as f: head = f.read(12)
    return head[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+') or head[4:8] == b'ftyp'


def _reason(path, e):
    "Why a file cannot be used, in a few words"
    if isinstance(e, Unusable): return str(e)
    if os.path.islink(path) and not os.path.exists(path): return 'a link to nothing'
    if isinstance(e, PermissionError): return 'no permission to read it'
    if isinstance(e, Image.DecompressionBombError): return 'too many pixels'
    if os.path.exists(path) and not os.path.getsize(path): return 'empty'
    if isinstance(e, UnidentifiedImageError):
        return 'of a kind that Pillow cannot read' if _family(path) else 'not an image'
    return 'cut short' if 'truncated' in str(e) else 'damaged'


def _probe(path):
    "(size, is it grey?, what must be handled, depth and largest value if no byte); or why the file cannot be used"
    try:
        with _open(path) as im:
            size, depth, raw = im.size, bit_depth(im), colour_layout(im)  # first: a PNG's EXIF marks load all of it
            values = depth and (depth, highest_value(path, im))
            tags = [t for t, hit in (('transparent', im.mode in SEE_THROUGH or 'transparency' in im.info),
                                     ('cmyk', im.mode == 'CMYK'),
                                     ('animated', getattr(im, 'n_frames', 1) > 1 and im.format != 'MPO'),
                                     ('turned', im.getexif().get(0x0112, 1) in range(2, 9))) if hit]
            grey = im.mode in {'1', 'L', 'LA', 'La', 'F'} or im.mode.startswith('I') or raw == 'LA;16B'
            return size, grey, tags, values
    except Exception as e: return _reason(path, e)  # Pillow's readers raise errors of every kind on damaged files


def _one_mode(im, channels):
    "Grey or RGB; what is transparent is laid on white"
    mode = 'L' if channels == 1 else 'RGB'
    if im.mode not in SEE_THROUGH and 'transparency' not in im.info: return im.convert(mode)
    im = im.convert('RGBA')
    return Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im).convert(mode)


def _fit(im, size, channels, framing=None, full=None):
    "A picture at `size` by a rule, or its middle at the wanted shape, scaled: uint8 (C, H, W); `full`: see `frame`"
    lying = im.getexif().get(0x0112, 1) >= 5 if framing else False  # a quarter turn exchanges the sides
    im, (h, w) = _one_mode(ImageOps.exif_transpose(im), channels), size
    if framing:
        a = np.asarray(frame(im, size, framing, full[::-1] if full and lying else full))
        return a[None] if channels == 1 else a.transpose(2, 0, 1)
    scale = min(im.width/w, im.height/h)
    left, top = (im.width - scale*w)/2, (im.height - scale*h)/2
    box = left, top, im.width - left, im.height - top
    a = np.asarray(im.resize((w, h), Image.Resampling.BILINEAR, box=box, reducing_gap=3))
    return a[None] if channels == 1 else a.transpose(2, 0, 1)


def _map(fn, items, label, progress):
    "`fn` of each item, in order, by threads: Pillow decodes outside Python's lock"
    with SlowBar(label, len(items), progress) as bar, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # many pixels, odd metadata
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for i in range(0, len(items), 256):
                yield from pool.map(fn, items[i:i + 256])
                bar.update(min(i + 256, len(items)))


def _ranges(found):
    "{depth: what is white}: the smallest usual range that holds the values of all pictures of that depth"
    highest = {}
    for depth, high in filter(None, found): highest[depth] = max(high, highest.get(depth, 0))
    return {depth: white_of(high, depth) for depth, high in sorted(highest.items())}


def _tags(probe, size):
    "What a picture was"
    (w, h), _, tags, depth = probe
    more = dict(small=min(w, h) < min(size), oblong=w*size[0] != h*size[1])
    return [*tags, *(t for t, hit in more.items() if hit), *([f'depth {depth[0]}'] if depth else [])]
