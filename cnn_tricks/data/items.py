"""Reads the labels out of any fastai `Datasets` or `DataLoaders`"""
import os, torch
import numpy as np
from contextlib import contextmanager
from itertools import count
from PIL import Image
from fastcore.basics import patch
from .images import Part
from .decode import decode_picture, printable

__all__ = ['as_part']


Part.turns = None  # the passes of fastai's test-time augmentation, counted

@patch
def new_empty(self: Part):
    "No images, of the same shape: what stays of the data in an exported `Learner`"
    return self[:0]

@patch
@contextmanager
def set_split_idx(self: Part,
                  i: int,  # 0: as for training; 1: as for validation
                  ):  # A context: within it, each pass is augmented anew where `i` is 0
    "How `Learner.tta` asks for augmented validation images"
    kept, self.turns = self.turns, count() if i == 0 else None
    try: yield self
    finally: self.turns = kept


def _as_image(item, shape, ranges):
    "uint8 (C, H, W)"
    if isinstance(item, tuple): item = item[0]
    if isinstance(item, (str, os.PathLike, Image.Image)):
        return torch.from_numpy(decode_picture(item, shape[1:], shape[0], ranges).copy())
    item = torch.as_tensor(item) if isinstance(item, (np.ndarray, torch.Tensor)) else item
    if not isinstance(item, torch.Tensor) or item.dtype != torch.uint8 or tuple(item.shape) != shape:
        kind = f'{item.dtype} {tuple(item.shape)}' if isinstance(item, torch.Tensor) else repr(item)[:50]
        raise ValueError(f'item: must be a file, a picture of PIL or uint8 {shape}, not {kind}')
    return item

def as_part(items,  # A `Part`; or files, pictures of PIL, uint8 images (C, H, W), or (image, label)
            like: Part,  # Has the shape to bring them to
            ranges: dict | None = None,  # What is white where values are no bytes: see `ImageData`
            ) -> tuple:  # The `Part`; does it have labels?
    "What is handed to fastai's `test_dl` or `predict`"
    if isinstance(items, Part): return items, True
    items, shape = list(items), tuple(like.x.shape[1:])
    labelled = bool(items) and all(isinstance(i, tuple) and len(i) == 2 for i in items)
    y = torch.tensor([int(i[1]) for i in items] if labelled else [0]*len(items), dtype=torch.int64)
    x = [_as_image(i, shape, ranges).to(like.x.device) for i in items]
    return Part(torch.stack(x) if x else like.x[:0], y.to(like.x.device)), labelled
