"""Where images came from, so that their files can be read anew with another framing"""
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from .framing import Framing, as_framing
from .image_parts import rows_of

__all__ = ['pixel_key', 'Origin', 'reframed']


def pixel_key(image: np.ndarray,  # uint8 (C, H, W)
              ) -> str:  # 16 hexadecimal digits
    "A hash of an image's pixels, by which it is known again in any part; one channel or three equal ones are the same"
    if len(image) == 3 and (image == image[:1]).all(): image = image[:1]
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).hexdigest()


@dataclass(frozen=True, eq=False)
class Origin:
    "How images were read"
    read: Callable  # Function of `framing`: the same files as `ImageData`, in the same parts and order
    size: tuple  # (height, width)
    keys: list  # `pixel_key` of each image as it was read, those of train first, then valid, then test

    @cached_property
    def row(self) -> dict:
        "Key -> which image"
        return {k: i for i, k in enumerate(self.keys)}


def reframed(data,  # `ImageData`, as `read_folder` read it; split, subset or with fewer classes, if need be
             framing: Framing | tuple | None,  # How to resize and crop its files
             ):  # -> `ImageData`: the same images, parts and labels
    """The same images with another framing, read anew from their files (once: they are kept in the cache folder)

    `ValueError` for images that were not read from files, that were changed since, or whose files were.
    """
    framing, origin = as_framing(framing), data.origin
    if data.framing == framing: return data
    kept = data.__dict__.setdefault('_kept_framings', {})
    if framing in kept: return kept[framing]
    if origin is None: raise ValueError('the images were not read from files, so they cannot be framed anew')
    rows = {name: [origin.row.get(pixel_key(x)) for x in part.x.cpu().numpy()] for name, part in data.parts.items()}
    if any(None in r for r in rows.values()): raise ValueError('the images were changed since their files were read')
    new = origin.read(framing=framing)
    if len(new.origin.keys) != len(origin.keys): raise ValueError('the files have changed since they were read')
    x = new.train.join(new.valid).join(new.test).x
    parts = {name: replace(part, x=rows_of(x, torch.tensor(rows[name], dtype=torch.int64)).to(part.x.device))
             for name, part in data.parts.items()}
    kept[framing] = replace(data, **parts, framing=framing, origin=new.origin)
    return kept[framing]
