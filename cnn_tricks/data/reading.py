"""Many image files read to one size, in one pass by threads, into memory or into a file that is mapped"""
import os, warnings
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..base.display import SlowBar
from .bit_depth import white_of
from .cache import Room, room
from .decode import decode_or_reason, probe_or_reason, read_or_reason
from .framing import Framing
from .origin import pixel_key

__all__ = ['ReadImages', 'read_images']


@dataclass
class ReadImages:
    "Images that were read: `room.x[order.index(i)]` is that of file `i`, if it is not in `about['bad']`"
    order: list  # The file of each row
    room: Room | None = None  # None: no image could be read
    keys: dict = field(default_factory=dict)  # Of each file: a hash of its pixels
    about: dict = field(default_factory=dict)  # What was noticed; plain values


def read_images(paths: list,  # Image files
                size: tuple | None,  # (height, width); None: the median of the smaller sides, at most 64
                max_memory: int,  # Bytes; see `room`
                progress: bool,  # Show a bar where it takes long?
                framing: Framing | None = None,  # How they are resized and cropped; None: the middle, bilinear
                order: list | None = None,  # The file of each row; None: as they come
                ) -> ReadImages:
    "Decode image files to one size; grey where all are grey, else RGB. `OSError` where there is no room"
    res = ReadImages(list(range(len(paths))) if order is None else order)
    side = size is None and _side(paths, progress)
    size = size or (min(side, 64),)*2
    row, probes, bad, seen = {i: r for r, i in enumerate(res.order)}, {}, {}, Counter()
    def take(i, image):
        if isinstance(image, str): bad[i] = image
        else:
            _put(res, row[i], image, max_memory)
            seen['dark'] += image.max() < 16
    with SlowBar('reading the images', len(paths), progress) as bar:
        for i, found in enumerate(_map(partial(_read, size=size, framing=framing), paths)):
            if isinstance(found, str): bad[i] = found
            else:
                probes[i], image, res.keys[i] = found
                if image is not None: take(i, image)
            if i % 64 == 63: bar.update(i + 1)
            if i % 256 == 255 and res.room: res.room.release()
    deep = [i for i, p in probes.items() if p.depth]
    ranges = _ranges([probes[i].depth for i in deep])
    for i in deep:  # now it is known what is white
        take(i, image := decode_or_reason(paths[i], size, 1 if probes[i].grey else 3, ranges, framing))
        if not isinstance(image, str): res.keys[i] = pixel_key(image)
    seen.update(t for i, p in probes.items() if i not in bad for t in _tags(p, size))
    res.about = dict(side=side, size=size, bad=dict(sorted(bad.items())), seen={t: int(n) for t, n in seen.items()},
                     ranges=ranges)
    return res


def _read(path, size, framing):
    "(probe, image or None, its hash or None), or why the file cannot be used"
    found = read_or_reason(path, size, framing)
    return found if isinstance(found, str) else (*found, None if found[1] is None else pixel_key(found[1]))


def _put(res, row, image, max_memory):
    "Write an image; the room gets three channels with the first image in colour"
    n, (c, h, w) = len(res.order), image.shape
    if res.room is None: res.room = room(n, (c, h, w), max_memory)
    elif c > res.room.x.shape[1]:
        wide = room(n, (c, h, w), max_memory)
        for i in range(0, n, 256):
            wide.x[i:i + 256] = res.room.x[i:i + 256]
            wide.release(), res.room.release()
        res.room = wide
    res.room.x[row] = image


def _side(paths, progress):
    "The median of the smaller sides"
    with SlowBar('looking at the images', len(paths), progress) as bar:
        found = []
        for i, p in enumerate(_map(probe_or_reason, paths)):
            if not isinstance(p, str): found.append(min(p.size))
            if i % 64 == 63: bar.update(i + 1)
    return int(np.median(found or [1]))


def _map(fn, items):
    "`fn` of each item, in order, by threads: Pillow decodes outside Python's lock"
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter('ignore')  # many pixels, odd metadata
        waiting = deque()
        try:
            for item in items:
                waiting.append(pool.submit(fn, item))
                if len(waiting) >= 64: yield waiting.popleft().result()
            while waiting: yield waiting.popleft().result()
        finally:
            for f in waiting: f.cancel()


def _ranges(found):
    "{depth: what is white}: the smallest usual range that holds the values of all pictures of that depth"
    highest = {}
    for depth, high in found: highest[depth] = max(high, highest.get(depth, 0))
    return {depth: white_of(high, depth) for depth, high in sorted(highest.items())}


def _tags(probe, size):
    "What a picture was"
    (w, h), depth = probe.size, probe.depth
    more = dict(small=min(w, h) < min(size), oblong=w*size[0] != h*size[1])
    return [*probe.tags, *(t for t, hit in more.items() if hit), *([f'depth {depth[0]}'] if depth else [])]
