"""The head of a pretrained network, solved on frozen features: an answer before any layer of the body is trained"""
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback

from ..base.machine import default_device, machine
from ..core.fitting import random_kept
from ..core.plan import plan
from ..core.recipe import Recipe
from ..core.result import Result, Trained, images_at_once
from ..core.train import learner
from ..data.images import ImageData
from ..data.loaders import ImageLoader
from ..nets.pretrained import split_head
from ..tricks.transfer import features_of, linear_probe

__all__ = ['DECAYS', 'KeptFeatures', 'best_head', 'frozen_head']

DECAYS = 0.003, 0.01, 0.03, 0.1, 0.3


class KeptFeatures(Callback):
    "Hands what was computed on to the trick `head_start`, which then starts at once"
    def __init__(self,
        given:tuple # features and labels of the training images, in their order, as `features_of` gives them
    ): self.given = given


def best_head(
    train:tuple, # features (N, F) and labels (N,)
    valid:tuple, # the same of other images
    n_classes:int, # outputs
    decays:tuple=DECAYS # L2 penalties to try, on standardised features
)->tuple: # head, decay, {decay: (loss on valid, accuracy on valid)}
    "Logistic regressions, of which the one with the smallest loss on the validation images is taken"
    heads, found = {}, {}
    for decay in decays:
        heads[decay] = linear_probe(*train, n_classes, decay)
        with torch.no_grad(): scores = heads[decay](valid[0])
        found[decay] = (F.cross_entropy(scores, valid[1]).item(),
                        (scores.argmax(1) == valid[1]).float().mean().item())
    decay = min(found, key=lambda d: found[d][0])
    return heads[decay], decay, found


@random_kept()
def frozen_head(
    recipe:Recipe, # with the trick `fine_tune`, whose weights are taken; nothing is trained by its schedule
    data:ImageData, # what to fit the head to; its test part is not read
    seed:int=42, # of the loaders; the head does not depend on it
    device=None, # torch device; None picks the fastest kind here
    each:Callable=lambda n: None, # called with the number of images of each batch that is done
    decays:tuple=DECAYS # L2 penalties to try
)->tuple: # `Result` of no step and one validation, whose `chosen` says which decay it took; `KeptFeatures`
    """A network whose body is pretrained and whose head is a logistic regression on what the body makes of the images

    The features of each image are computed once. `ValueError` where the recipe cannot be used on `data`.
    """
    began, device = time.perf_counter(), device or default_device()
    p, learn = plan(recipe, data), learner(recipe, data, seed, device)
    model, dl = learn.model.to(learn.dls.device), learn.dls.train
    how = dict(mean=dl.mean, std=dl.std, channels_last=p.recipe.channels_last, device=learn.dls.device)
    parts = {k: features_of(model, ImageLoader(p.data.parts[k], images_at_once(p.data.size), **how), each)
             for k in ('train', 'valid')}
    head, decay, found = best_head(parts['train'], parts['valid'], data.n_classes, decays)
    split_head(model)[1].load_state_dict(head.state_dict())
    with torch.no_grad(): train_loss = F.cross_entropy(head(parts['train'][0]), parts['train'][1]).item()
    seconds = time.perf_counter() - began
    history = [dict(epoch=0, step=0, seconds=seconds, train_loss=train_loss, valid_loss=found[decay][0],
                    accuracy=found[decay][1])]
    mean, std = (torch.as_tensor(v).tolist() for v in (dl.mean, dl.std))
    trained = Trained(model.eval(), p.asked, list(data.classes), data.channels, p.data.size, mean, std, data.ranges,
                      p.data.framing)
    chosen = dict(frozen_head=dict(decay=decay, valid_loss={str(d): v[0] for d, v in found.items()}))
    result = Result(p.asked, trained, p.data, seed, 0, seconds, history, [], [], machine(device), chosen=chosen)
    return result, KeptFeatures(parts['train'])
