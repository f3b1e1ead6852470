"""One step of training, ready to be measured: a network, a batch, an optimiser, and nothing else"""
import copy, random
from contextlib import contextmanager

import torch
from fastai.torch_core import no_random, to_device

from ..data.images import ImageData
from ..data.loaders import ImageLoader
from .plan import plan
from .recipe import Recipe
from .train import learner

__all__ = ['TrainingStep', 'recipe_step', 'first_batch', 'batch_inputs', 'unmoved', 'is_channels_last']


class TrainingStep:
    "One training step of a `Learner`, on copies: its weights, optimiser and loaders stay as they are"
    def __init__(self,
        learn, # fastai `Learner`
        channels_last:bool=None # memory layout; None: the model's own
    ):
        self.layout = is_channels_last(learn.model) if channels_last is None else channels_last
        form = torch.channels_last if self.layout else torch.contiguous_format
        self.model = copy.deepcopy(learn.model).train().to(memory_format=form)
        self.form, self.device = form, next(self.model.parameters()).device
        self.loader, self.loss_func = learn.dls.train, learn.loss_func
        batch = self.load()
        self.xb = batch_inputs(learn, batch)
        self.yb, self.batch_size = batch[len(self.xb):], len(batch[0])
        self.opt = learn.opt_func(learn.splitter(self.model), lr=1e-6) # so small that the step can be repeated

    def load(self): # -> tuple of tensors
        "A batch, on the model's device"
        return to_device(tuple(first_batch(self.loader)), self.device)

    def forward(self): # -> the loss
        "Lay out the batch, run the network, take the loss"
        xb = [x.contiguous(memory_format=self.form) if x.dim() == 4 else x for x in self.xb]
        return self.loss_func(self.model(*xb), *self.yb)

    def update(self):
        "The optimiser's part"
        self.opt.step()
        self.opt.zero_grad()

    def __call__(self):
        "Forward, backward, update"
        self.forward().backward()
        self.update()


def recipe_step(
    recipe:Recipe, # its tricks act, callbacks excepted
    data:ImageData, # at least one batch of training images
    device=None # torch device; None picks the fastest kind here
)->TrainingStep: # to be called again and again
    "The training step of a recipe; `ValueError` for fewer training images than one batch"
    n = plan(recipe).recipe.batch_size
    if n > len(data.train): raise ValueError(f'batch_size={n}: there are only {len(data.train):,} training images')
    learn = learner(recipe.replace(steps=1), data, device=device)
    learn.model.to(learn.dls.device)
    return TrainingStep(learn)


def first_batch(
    dl # a loader of fastai's or of PyTorch's
): # -> the first batch of its next iteration: tuple or list of tensors
    "Look at a batch; the loader goes on as if nobody had looked"
    if isinstance(dl, ImageLoader): # uses no global random numbers
        kept, dl.skip, dl.limit = (dl.skip, dl.limit), 0, None # what a resumed run leaves out is no matter here
        try: return dl.one_batch()
        finally: dl.skip, dl.limit = kept
    with unmoved(dl): return dl.one_batch() if hasattr(dl, 'one_batch') else next(iter(dl))


def batch_inputs(
    learn, # fastai `Learner`
    batch # of one of its loaders: tuple or list of tensors
)->tuple: # what the network takes of it, on the network's device
    "The inputs of a batch, without the targets"
    n = getattr(learn.dls, 'n_inp', max(1, len(batch) - 1))
    return to_device(tuple(batch[:n]), next(learn.model.parameters()).device)


@contextmanager
def unmoved(
    dl # a loader of fastai's or of PyTorch's
):
    "The loader may be used in this block: afterwards its random numbers, and all global ones, are as they were"
    own = [(g, g.getstate() if isinstance(g, random.Random) else g.get_state()) for g in _generators(dl)]
    rng = getattr(dl, '__dict__', {}).get('rng')
    with no_random():
        try: yield
        finally:
            for g, state in own: g.setstate(state) if isinstance(g, random.Random) else g.set_state(state)
            if rng is not None: dl.rng = rng # fastai's loaders take a new one for each iteration


def _generators(dl): # the random numbers that a loader has of its own: fastai's `rng`, PyTorch's `generator`
    parts = [dl, getattr(dl, 'sampler', None), getattr(getattr(dl, 'batch_sampler', None), 'sampler', None)]
    return [g for p in parts for g in getattr(p, '__dict__', {}).values()
            if isinstance(g, (random.Random, torch.Generator))]


def is_channels_last(
    model # `nn.Module`
)->bool: # False where no weight can tell
    "Do the convolutions' weights lie channels last?"
    told = [p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2:].numel() > 1]
    return bool(told) and all(p.is_contiguous(memory_format=torch.channels_last) for p in told)
