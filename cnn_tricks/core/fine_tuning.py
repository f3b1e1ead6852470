"""What fine-tuning asks of a recipe's other tricks: settings of its fit, and that they leave the pretrained body alone"""
import copy

import torch

from ..data.images import ImageData
from ..nets.networks import networks
from ..nets.pretrained import Pretrained, load_body, split_head
from .fitting import random_kept
from .recipe import Recipe, Trick

__all__ = ['FineTuningTrick', 'fine_tuning_args', 'sets_schedule', 'spoils_body']


class FineTuningTrick(Trick):
    "A trick that changes how `fine_tune` trains, and needs it in the recipe"
    def fit_args(self): # -> dict
        "Settings of the fit, by name; two tricks of a recipe may not give the same one"
        return {}

    def callbacks(self):
        "None; stated here, so that whoever looks which hooks a trick has sees that it changes the training"
        return []

    def applies(self, recipe, data, machine):
        if not any(t.name == 'fine_tune' for t in recipe.tricks): return 'it changes how fine_tune trains: add that first'
        return next((f'{self.name} and {t.name} both set {k}: use one of them' for t in recipe.tricks if t is not self
                     for k in fine_tuning_args(t).keys() & self.fit_args().keys()), '')


def fine_tuning_args(
    *tricks # of a recipe
)->dict: # name -> value
    "The settings that tricks give to the fit of `fine_tune`"
    return {k: v for t in tricks if isinstance(t, FineTuningTrick) for k, v in t.fit_args().items()}


def sets_schedule(
    trick:Trick # a trick of the recipe
)->str: # '' where it does not; else why that is in vain beside `fine_tune`
    "Does a trick set a schedule, which the fit of `fine_tune` would never ask?"
    plain = Recipe(steps=1)
    try: new = trick.recipe(plain)
    except ValueError: return '' # it has another recipe in mind
    if (new.schedule, new.schedule_args) == (plain.schedule, plain.schedule_args): return ''
    return f'{trick.name} would change nothing: fine_tune has a schedule of its own'


@torch.no_grad()
def _features(net, x): # what the head sees, in eval mode
    seen = []
    hook = split_head(net)[1].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    net.eval().forward(x) # hooks of the whole network, as of several views, are left out
    hook.remove()
    return seen[0]


def _shapes(net): return sorted(tuple(v.shape) for v in net.state_dict().values())


@random_kept()
def spoils_body(
    trick:Trick, # a trick of the recipe
    recipe:Recipe, # its size in pixels decides, if it has one
    data:ImageData, # decides channels, classes and size
    body:Pretrained, # the network and the weights that training starts from
    before:bool=False # does the trick come before the one that loads them?
)->str: # '' where it leaves the body as it is; else the reason, in a line
    """Does a trick change what the pretrained layers compute?

    The network is made twice, once with the trick. Both must have weights of the same shapes and, in eval mode, the
    same features of the same images. So dropout passes, and another activation does not.
    """
    if all(getattr(type(trick), hook) is getattr(Trick, hook) for hook in ('structure', 'initialise')): return ''
    size = (recipe.size, recipe.size) if recipe.size else data.size
    net = networks[body.network](data.channels, data.n_classes, size, **body.network_args)
    x = torch.randn(2, data.channels, *size)
    try:
        new = copy.deepcopy(net if before else load_body(net, body))
        new = trick.initialise(trick.structure(new))
        if before: new = load_body(new, body)
        want, found = (_features(m, x) for m in (load_body(net, body), new))
    except (ValueError, RuntimeError) as e:
        return f'{trick.name} does not go with pretrained weights: {(str(e) or type(e).__name__).splitlines()[0]}'
    if _shapes(net) != _shapes(new):
        return f'{trick.name} adds or removes weights, and fine_tune has trained ones for the unchanged network alone'
    if want.shape == found.shape and torch.allclose(want, found, rtol=1e-3, atol=1e-4*float(want.abs().max())): return ''
    return f'{trick.name} changes what the pretrained layers compute, so their weights would be worth little'
