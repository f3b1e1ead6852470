"""An image from its file: what it is, decoded to a size, or why it cannot be used"""
import os
from typing import NamedTuple

import numpy as np, PIL
from PIL import Image, ImageOps, UnidentifiedImageError

from .bit_depth import SEE_THROUGH, Unusable, bit_depth, colour_layout, highest_value, to_bytes
from .framing import Framing, frame, least_decoded

__all__ = ['SUFFIXES', 'printable', 'is_image', 'as_size', 'decoders', 'Probe', 'probe_or_reason', 'read_or_reason',
           'decode_picture', 'decode_or_reason', 'still_bad']


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


class Probe(NamedTuple):
    "What a picture is, as its file says before it is decoded"
    size: tuple  # (width, height)
    grey: bool
    tags: list  # What must be handled: 'transparent', 'cmyk', 'animated', 'turned'
    depth: tuple | None  # Where values are no bytes: their depth and the largest one


def probe_or_reason(path: str | os.PathLike,  # A file
                    ) -> Probe | str:  # Or why the file cannot be used
    "Look at a file without decoding it, unless its values are no bytes: raises nothing"
    try:
        with _open(path) as im: return _probe(path, im)
    except Exception as e: return _reason(path, e)  # Pillow's readers raise errors of every kind on damaged files


def read_or_reason(path: str | os.PathLike,  # A file
                   size: tuple,  # (height, width)
                   framing: Framing | None = None,  # How it is resized and cropped; None: the middle, bilinear
                   ) -> tuple | str:  # (`Probe`, uint8 (C, H, W)), grey with C = 1; or why the file cannot be used
    "Look at a file and decode it, opening it once: raises nothing. Where values are no bytes, None stands for the image"
    try:
        with _open(path) as im:
            probe = _probe(path, im)
            return probe, None if probe.depth else _drafted(im, size, 1 if probe.grey else 3, framing)
    except Exception as e: return _reason(path, e)


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
            if not bit_depth(im): return _drafted(im, size, channels, framing)
            return _fit(to_bytes(path, im, ranges or {}), size, channels, framing)
    except Exception as e: return _reason(path, e)


def still_bad(path: str,  # A file that could not be used
              size: tuple, channels: int,  # (height, width); 1 or 3
              ) -> str:  # Why it cannot be used now; empty where it can
    "Try a file once more"
    found = probe_or_reason(path)
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


def _probe(path, im):
    "A picture's `Probe`"
    size, depth, raw = im.size, bit_depth(im), colour_layout(im)  # first: a PNG's EXIF marks load all of it
    values = depth and (depth, highest_value(path, im))
    tags = [t for t, hit in (('transparent', im.mode in SEE_THROUGH or 'transparency' in im.info),
                             ('cmyk', im.mode == 'CMYK'),
                             ('animated', getattr(im, 'n_frames', 1) > 1 and im.format != 'MPO'),
                             ('turned', im.getexif().get(0x0112, 1) in range(2, 9))) if hit]
    grey = im.mode in {'1', 'L', 'LA', 'La', 'F'} or im.mode.startswith('I') or raw == 'LA;16B'
    return Probe(size, grey, tags, values)


def _drafted(im, size, channels, framing):
    "A JPEG is decoded near the size that is needed, where it is far larger"
    full, upright = im.size, -1 if _turned(im) in range(5, 9) else 1  # a quarter turn exchanges the sides
    least = least_decoded(full[::upright], size, framing)[::upright] if framing else (int(1.25*max(size)),)*2
    im.draft(None, least)
    return _fit(im, size, channels, framing, full[::upright])


def _turned(im):
    "The camera's mark: 1 is upright, up to 8"
    return im.getexif().get(0x0112, 1)


def _one_mode(im, channels):
    "Grey or RGB; what is transparent is laid on white"
    mode = 'L' if channels == 1 else 'RGB'
    if im.mode not in SEE_THROUGH and 'transparency' not in im.info: return im if im.mode == mode else im.convert(mode)
    im = im.convert('RGBA')
    return Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im).convert(mode)


def _fit(im, size, channels, framing=None, full=None):
    "A picture at `size` by a rule, or its middle at the wanted shape, scaled: uint8 (C, H, W); `full`: see `frame`"
    turned, (h, w) = _turned(im), size
    im = _one_mode(ImageOps.exif_transpose(im) if turned in range(2, 9) else im, channels)
    if framing: return _planes(frame(im, size, framing, full, turned))
    scale = min(im.width/w, im.height/h)
    left, top = (im.width - scale*w)/2, (im.height - scale*h)/2
    box = left, top, im.width - left, im.height - top
    return _planes(im.resize((w, h), Image.Resampling.BILINEAR, box=box, reducing_gap=3))


def _planes(im):
    "Grey or RGB as uint8 (C, H, W)"
    a = np.asarray(im)
    return a[None] if a.ndim == 2 else np.ascontiguousarray(a.transpose(2, 0, 1))
