"""Files, pictures and arrays that are handed to fastai's `predict` or `test_dl`, as a `Part`"""
import os

import numpy as np
import torch
from PIL import Image

from .decode import decode_picture
from .images import Part

__all__ = ['as_part']


def as_part(items,  # A `Part`; or files, pictures of PIL, uint8 images (C, H, W), or (image, label)
            like: Part,  # Has the shape to bring them to
            ranges: dict | None = None,  # What is white where values are no bytes: see `ImageData`
            framing=None,  # How files are resized and cropped: see `ImageData`
            ) -> tuple:  # The `Part`; does it have labels?
    "What is handed to fastai's `test_dl` or `predict`; `ValueError` for an item that is no such image"
    if isinstance(items, Part): return items, True
    items, shape = list(items), tuple(like.x.shape[1:])
    labelled = bool(items) and all(isinstance(i, tuple) and len(i) == 2 for i in items)
    y = torch.tensor([int(i[1]) for i in items] if labelled else [0]*len(items), dtype=torch.int64)
    x = [_as_image(i, shape, ranges, framing).to(like.x.device) for i in items]
    return Part(torch.stack(x) if x else like.x[:0], y.to(like.x.device)), labelled


def _as_image(item, shape, ranges, framing):
    "uint8 (C, H, W)"
    if isinstance(item, tuple): item = item[0]
    if isinstance(item, (str, os.PathLike, Image.Image)):
        return torch.from_numpy(decode_picture(item, shape[1:], shape[0], ranges, framing).copy())
    item = torch.as_tensor(item) if isinstance(item, (np.ndarray, torch.Tensor)) else item
    if not isinstance(item, torch.Tensor) or item.dtype != torch.uint8 or tuple(item.shape) != shape:
        kind = f'{item.dtype} {tuple(item.shape)}' if isinstance(item, torch.Tensor) else repr(item)[:50]
        raise ValueError(f'item: must be a file, a picture of PIL or uint8 {shape}, not {kind}')
    return item
