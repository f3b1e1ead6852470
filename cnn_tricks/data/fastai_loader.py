"""A loader's settings, and what fastai asks of it: copies, batches and predictions shown, augmented validation"""
import math
from importlib import import_module
from types import MethodType

import torch
from fastai.data.load import DataLoader

from ..base.fields import check_value
from ..base.machine import random_device
from .images import Part
from .items import as_part

__all__ = ['FastaiLoader']


class FastaiLoader(DataLoader):
    "A fastai `DataLoader` of a `Part`: its settings and what fastai asks; a subclass makes the batches"

    def __init__(self,
                 part: Part,  # The images and labels
                 batch_size: int = 64,  # Images a batch, over all processes; at most `len(part)`
                 *, shuffle: bool = False,  # A new order each epoch?
                 drop_last: bool = False,  # Leave out a last batch that is not full?
                 seed: int = 0,  # Of the order and of `augment`
                 mean: torch.Tensor | None = None,  # To subtract, per channel, in [0, 1] units; None: nothing
                 std: torch.Tensor | None = None,  # To divide by, per channel, in [0, 1] units; with `mean`
                 channels_last: bool = False,  # Lay batches out with the channels innermost?
                 device=None,  # Where batches go; None: where the images are
                 augment: tuple = (),  # Functions (x, y, generator) -> (x, y) of a batch in [0, 1]
                 rank: int = 0, world_size: int = 1,  # This process, of how many: it takes its share of every batch
                 vocab=None,  # The classes' names
                 **kwargs):  # As for fastai's `DataLoader`
        "`TypeError` or `ValueError` for a batch size or a process that cannot be, and for `mean` without `std`"
        for name, v in (('batch_size', batch_size), ('world_size', world_size)): check_value(name, v, int, ge=1)
        check_value('rank', rank, int, ge=0, lt=world_size)
        if (mean is None) != (std is None): raise ValueError('mean and std: give both or neither')
        super().__init__(part, bs=min(batch_size, max(len(part), 1)), shuffle=shuffle, drop_last=drop_last,
                         device=device or part.x.device, **kwargs)
        self.seed, self.mean, self.std, self.channels_last = seed, mean, std, channels_last
        self.augment, self.rank, self.world_size, self.vocab = list(augment), rank, world_size, vocab
        # the next iteration's epoch; how many batches it leaves out at its start, and after how many it ends
        self.epoch, self.skip, self.limit, self.n_inp = 0, 0, None, 1
        # for fastai: the batch size asked for; does it give labels; `augment` for its `tta`; how files are read
        self.asked, self.labelled, self.spare, self.ranges, self.framing = batch_size, True, (), {}, None

    def new(self,
            dataset=None,  # A `Part`, or items as for `as_part`; None: the same images
            cls: type | None = None,  # The class of the copy; None: the same
            **kwargs):  # What is to be different
        "A loader like this one, but for what is given"
        names = 'shuffle drop_last seed mean std channels_last device augment rank world_size vocab'.split()
        old = dict({n: getattr(self, n) for n in names}, batch_size=kwargs.pop('bs', self.asked))
        if dataset is None: part, labelled = self.dataset, self.labelled
        else: part, labelled = as_part(dataset, self.dataset, self.ranges, self.framing)
        # methods that were replaced, as fastai's `get_preds` replaces the order, stay replaced
        given = {n: o for n in self._methods if not isinstance(o := getattr(self, n), MethodType)}
        if dataset is not None: given.pop('get_idxs', None)
        res = (cls or type(self))(part, **{**old, **given, **kwargs})
        res.epoch, res.labelled, res.spare = self.epoch, labelled, self.spare
        res.ranges, res.framing = self.ranges, self.framing
        return res

    def one_batch(self):
        "The next iteration's first batch; looking at it changes nothing. `ValueError` where there is none"
        kept = self.epoch, self.skip, self.limit
        try: return next(iter(self))
        except StopIteration: raise ValueError('this loader has no batch: fewer images than one batch') from None
        finally: self.epoch, self.skip, self.limit = kept

    def add_augment(self,
                    fn,  # A function (x, y, generator) -> (x, y) of a batch in [0, 1]
                    ):  # The loader
        "Augment with `fn` too, after what there is"
        self.augment.append(fn)
        return self

    def augment_spare(self,
                      x: torch.Tensor, y: torch.Tensor,  # A batch in [0, 1], (B, C, H, W), and its labels
                      generator: torch.Generator,  # For the augmentation
                      ) -> torch.Tensor:  # Images as `x`
        "`spare` augmentation, for fastai's `tta`; what changes labels (mixing images, say) is left out"
        for fn in self.spare:
            changed, labels = fn(x, y, generator)
            if labels is y: x = changed
        return x

    @property
    def work_device(self):  # `torch.device`
        "Where batches are made: the loader's device, or the processor where that cannot draw with a seed of its own"
        return random_device(self.device)

    def per_channel(self,
                    name: str,  # 'mean' or 'std'
                    ) -> torch.Tensor:  # float32 (C, 1, 1)
        "`mean` or `std`, shaped to meet a batch, on `work_device`; kept from batch to batch"
        kept = self.__dict__.setdefault('_per_channel', {})
        key = name, device = name, self.work_device
        if key not in kept: kept[key] = torch.as_tensor(getattr(self, name)).float().to(device).view(-1, 1, 1)
        return kept[key]

    def decode_batch(self,
                     b: tuple,  # (x,) or (x, y), as the loader gives it
                     max_n: int = 9,  # How many images, from the first
                     full: bool = True,  # As fastai calls it; of no meaning here
                     ) -> list:  # (image, text of its label)
        "The first `max_n` images of a batch as before normalising, in [0, 1], each with its label's text"
        x, y = b[0][:max_n].detach().to(self.work_device), b[1][:max_n].tolist() if len(b) > 1 else [None]*len(b[0])
        if self.mean is not None: x = x*self.per_channel('std') + self.per_channel('mean')
        return list(zip(x.clamp(0, 1).cpu(), map(self._label, y)))

    def show_batch(self,
                   b: tuple | None = None,  # (x,) or (x, y); None: `one_batch()`
                   max_n: int = 9,  # How many images, from the first
                   ctxs: list | None = None,  # matplotlib's axes to draw on; None: a new figure
                   titles: list | None = None,  # A text for each image; None: its label
                   **kwargs):  # As fastai calls it; not used
        "The first `max_n` images of a batch, as before normalising, with their labels"
        x, labels = zip(*self.decode_batch(self.one_batch() if b is None else b, max_n))
        if ctxs is None:
            cols = math.ceil(len(x)**0.5)
            rows = math.ceil(len(x)/cols)
            plt = import_module('matplotlib.pyplot')
            ctxs = list(plt.subplots(rows, cols, figsize=(cols*1.5, rows*1.6), squeeze=False)[1].flat)
            for ax in ctxs: ax.axis('off')
        for ax, image, title in zip(ctxs, x, titles or labels):
            ax.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap='gray', vmin=0, vmax=1)
            ax.set_title(title, fontsize=9)

    def show_results(self,
                     b: tuple,  # (x, y), as the loader gives it
                     out: tuple,  # What was predicted: labels, or a tuple that begins with them
                     max_n: int = 9,  # How many images, from the first
                     **kwargs):  # As fastai calls it; passed on to `show_batch`
        "The first images of a batch, titled with the label and, below it, what was predicted"
        said = (out[0] if isinstance(out, (tuple, list)) else out).tolist()
        titles = [f'{self._label(t)}\n{self._label(p)}' for t, p in zip(b[1].tolist(), said)]
        self.show_batch(b, max_n, titles=titles, **kwargs)

    def _label(self, i): return '' if i is None else str(self.vocab[i]) if self.vocab else str(i)
