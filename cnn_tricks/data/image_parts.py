"""What images in memory can do besides what lesson 00 builds: show themselves, move, change size, lose classes"""
import hashlib, numbers
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from itertools import count

import torch
import torch.nn.functional as F

from ..base.fields import check_value
from .cache import room
from .framing import Framing

__all__ = ['PartBase', 'ImageDataBase', 'amount_of', 'rows_of']

LARGE = 1 << 30  # bytes; images beyond are mapped from a temporary file


class PartBase:
    "Images `x`, labels `y`, `masks` and `groups` or None: other parts made of them, and what fastai asks of a data set"
    turns = None  # the passes of fastai's test-time augmentation, counted

    def to(self,
           device: str | torch.device,  # As in torch: 'cuda', 'cpu'
           ):  # A part
        "The images and labels on `device`"
        return replace(self, **{k: None if (t := getattr(self, k)) is None else t.to(device)
                                for k in ('x', 'y', 'masks', 'groups')})

    def resize(self,
               size: tuple,  # (height, width) in pixels
               ):  # A part
        "The images at another size: bilinear, averaging where it shrinks"
        def scale(t):
            return torch.cat([F.interpolate(c.float(), size, mode='bilinear', antialias=True) for c in t.split(1024)])
        if not len(self): return replace(self, x=self.x.new_zeros(0, self.x.shape[1], *size), masks=None)
        masks = None if self.masks is None else scale(self.masks[:, None])[:, 0] >= 0.5
        return replace(self, x=scale(self.x).round_().clamp_(0, 255).to(torch.uint8), masks=masks)

    def join(self,
             other,  # A part with images of the same shape
             ):  # A part
        "The images of both, those of `other` last; masks and groups only where both have them"
        if not len(other): return self
        pairs = {k: (getattr(self, k), getattr(other, k)) for k in ('y', 'masks', 'groups')}
        more = {k: None if a is None or b is None else torch.cat([a, b]) for k, (a, b) in pairs.items()}
        return replace(self, x=_joined(self.x, other.x), **more)

    def relabel(self,
                new: torch.Tensor,  # The new label of each old one, int64 (classes,); below 0: the images leave
                ):  # A part
        "The images of some classes, with new labels, in their old order"
        part = self[(new.to(self.y.device)[self.y] >= 0).nonzero()[:, 0]]
        return replace(part, y=new.to(part.y.device)[part.y])

    def new_empty(self):
        "No images, of the same shape: what stays of the data in an exported `Learner`"
        return self[:0]

    @contextmanager
    def set_split_idx(self,
                      i: int,  # 0: as for training; 1: as for validation
                      ):  # A context: within it, each pass is augmented anew where `i` is 0
        "How `Learner.tta` asks for augmented validation images"
        kept, self.turns = self.turns, count() if i == 0 else None
        try: yield self
        finally: self.turns = kept


@dataclass(eq=False, frozen=True, repr=False)
class ImageDataBase:
    "Images in the parts `train`, `valid` and `test`, with `classes` and `name`"
    framing: Framing | None = field(default=None, kw_only=True)  # How files were resized and cropped; None: the middle
    origin: object = field(default=None, kw_only=True)  # `Origin`: how to read the files anew; None: not from files

    @property
    def n_classes(self) -> int:
        "How many classes"
        return len(self.classes)

    @property
    def channels(self) -> int:
        "1: grey, 3: colour"
        return self.train.x.shape[1]

    @property
    def size(self) -> tuple:
        "(height, width)"
        return tuple(self.train.x.shape[2:])

    @property
    def nbytes(self) -> int:
        "Bytes of all images"
        return sum(p.x.numel() for p in self.parts.values())

    @cached_property
    def fingerprint(self) -> str:  # 12 hexadecimal digits
        "A short hash of all images, labels and class names: equal data, equal fingerprint"
        h = hashlib.blake2b(repr(self.classes).encode(), digest_size=6)
        for name, part in self.parts.items():
            h.update(f'{name} {tuple(part.x.shape)}'.encode())
            for t in (*part.x.split(4096), part.y): h.update(t.contiguous().cpu().numpy())
        return h.hexdigest()

    def to(self,
           device: str | torch.device,  # As in torch: 'cuda', 'cpu'
           ):  # The data
        "All images and labels on `device`"
        return replace(self, **{name: part.to(device) for name, part in self.parts.items()})

    def resize(self,
               size: int | tuple,  # The new size in pixels: a number for both sides, or (height, width)
               ):  # The data
        "All images at another size: bilinear, averaging where it shrinks; `ValueError` below 1 pixel"
        h, w = (size, size) if isinstance(size, int) else size
        if min(h, w) < 1: raise ValueError(f'size={size}: must be at least 1 pixel')
        if (h, w) == self.size: return self
        return replace(self, **{name: part.resize((h, w)) for name, part in self.parts.items()})

    def resplit(self,
                seed: int,  # Another seed, another split
                ):  # The data
        "Train and valid split anew, valid as large as it is: stratified, groups kept whole. Raises as `split` does"
        return self.split(len(self.valid), seed)

    def take_classes(self,
                     classes: int | list | tuple,  # Names, in the order of the new labels; or how many, drawn at random
                     seed: int = 0,  # Of the draw: more classes of the same seed hold the fewer ones
                     ):  # The data
        """The images of some classes, two or more, in all three parts, labels counted from 0

        Raises `TypeError` for what is neither a number nor names, `ValueError` for an unknown or repeated name and for
        a number below 2 or above that of the classes.
        """
        old = self._labels_of(classes, seed)
        new = torch.full((self.n_classes,), -1)
        new[old] = torch.arange(len(old))
        names = tuple(self.classes[i] for i in old)
        said = f', {len(old)} classes' if isinstance(classes, numbers.Integral) else f': {", ".join(names)}'
        parts = {name: part.relabel(new) for name, part in self.parts.items()}
        return replace(self, **parts, classes=names, name=self.name + said)

    def _labels_of(self, classes, seed):
        if isinstance(classes, numbers.Integral) and not isinstance(classes, bool):
            if not 2 <= classes <= self.n_classes:
                raise ValueError(f'classes={classes}: must be between 2 and {self.n_classes}')
            order = torch.randperm(self.n_classes, generator=torch.Generator().manual_seed(seed))
            return order[:classes].sort().values.tolist()
        if not isinstance(classes, (list, tuple)): raise TypeError(f'classes={classes!r}: must be a number or names')
        if unknown := [c for c in classes if c not in self.classes]:
            raise ValueError(f"classes: unknown class {unknown[0]!r}; one of: {', '.join(self.classes)}")
        if len(set(classes)) < max(2, len(classes)):
            raise ValueError(f'classes={classes!r}: two or more, all different')
        return [self.classes.index(c) for c in classes]

    def show(self,
             n: int = 8, part: str = 'train',  # Images of each class; the part to show
             ):  # matplotlib's figure
        "A grid of images: a row for each class (the first 12 of them)"
        plt, p, k, (h, w) = import_module('matplotlib.pyplot'), self.parts[part], min(self.n_classes, 12), self.size
        grid = torch.full((k*(h + 2), n*(w + 2), self.channels), 255, dtype=torch.uint8)
        for c in range(k):
            for j, i in enumerate((p.y == c).nonzero()[:n, 0].tolist()):
                grid[c*(h + 2):c*(h + 2) + h, j*(w + 2):j*(w + 2) + w] = p.x[i].cpu().permute(1, 2, 0)
        inch = (56//max(h, w) or 56/max(h, w))/100  # the side of a pixel
        fig = plt.figure(figsize=(grid.shape[1]*inch + 1.3, grid.shape[0]*inch), dpi=100)
        ax = fig.add_axes((1.3/fig.get_figwidth(), 0, 1 - 1.3/fig.get_figwidth(), 1), frame_on=False)
        ax.imshow(grid.squeeze(-1).numpy(), cmap='gray', vmin=0, vmax=255, interpolation='nearest', aspect='auto')
        ax.set_yticks([c*(h + 2) + h/2 for c in range(k)], self.classes[:k])
        ax.tick_params(length=0, labelbottom=False)
        return plt.close(fig) or fig

    def _repr_markdown_(self):
        shape = f'{self.channels} × {self.size[0]} × {self.size[1]}'
        what = f'{self.n_classes} classes, {shape}, {self.nbytes/1e6:.1f} MB'
        rows = [f'**{self.name or "images"}**: {what}', '', '| part | images | images a class |', '|---|---:|---:|']
        for name, part in self.parts.items():
            n = torch.bincount(part.y.cpu(), minlength=self.n_classes)
            each = ' to '.join(f'{v:,}' for v in sorted({n.min().item(), n.max().item()}))
            rows.append(f'| {name} | {len(part):,} | {each} |')
        return '\n'.join(rows + [''] + [f'- {note}' for note in self.notes])

    def __repr__(self):
        n = ', '.join(f'{len(part)} {name}' for name, part in self.parts.items())
        return f'ImageData({self.name!r}, {n}, {self.channels}x{self.size[0]}x{self.size[1]}, {self.n_classes} classes)'


def amount_of(name: str,  # What to call it in the error
              n: int | float,  # A number of images, or a fraction in (0, 1]
              total: int,  # Of how many
              ) -> int:
    "`n` as a number of images; `TypeError` for what is no number, `ValueError` outside 1 to `total`"
    n = check_value(name, n, float)  # a whole number stays one
    if isinstance(n, float): n = round(check_value(name, n, float, interval='(0, 1]')*total)
    return check_value(name, n, int, ge=1, le=total)


def rows_of(x: torch.Tensor,  # Images: uint8, (N, C, H, W)
            i,  # Which: anything that is an index in torch
            ) -> torch.Tensor:
    "`x[i]`; where it would copy more than a gigabyte, into a temporary file that is mapped"
    if not isinstance(i, torch.Tensor) or x.device.type != 'cpu' or i.ndim != 1: return x[i]
    i = i.nonzero()[:, 0] if i.dtype == torch.bool else i
    return x[i] if len(i)*x[:1].numel() <= LARGE else _mapped((x[k] for k in i.split(256)), len(i), x.shape[1:])


def _joined(a, b):
    n = len(a) + len(b)
    if a.device.type != 'cpu' or n*b[:1].numel() <= LARGE: return torch.cat([a, b])
    return _mapped((*a.split(256), *b.split(256)), n, a.shape[1:])


def _mapped(pieces, n, shape):
    "`n` images, piece by piece, in a temporary file"
    new, start = room(n, tuple(shape), 0), 0
    x = torch.from_numpy(new.x)
    for piece in pieces:
        x[start:start + len(piece)] = piece
        start += len(piece)
        new.release()
    return x
