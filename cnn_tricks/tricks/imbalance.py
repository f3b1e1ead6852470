"""Class imbalance: weights in the loss, and batches that draw the rare classes more often"""
import copy

import torch

from ..base.fields import bounded, check_value
from ..core.components import losses
from ..core.fitting import FitCallback
from ..core.recipe import Card, Trick, trick
from ..core.training_step import unmoved
from ..data.images import Part
from ..data.loaders import ImageLoader, stream_seed

__all__ = ['class_weights', 'train_labels', 'WeightClasses', 'ClassWeights', 'balanced_order', 'BalancedLoader',
           'BalancedSampling']

LEAST_RATIO = 1.5 # of the largest class to the smallest: below, there is little to balance


def class_weights(
    counts:torch.Tensor, # training images of each class: int64 (classes,)
    beta:float=1. # 0: all the same; 1: one over the number of images; between: one over the effective number
)->torch.Tensor: # float32 (classes,); over the images their mean is 1; 0 for a class without one
    """What an image of each class counts in the loss: 1/n, or (1 - β)/(1 - βⁿ) (Cui et al. 2019, arXiv 1901.05555, section 4)

    With `beta=1` they equal scikit-learn's 'balanced' ones (King and Zeng 2001). `ValueError` for a `beta` out of
    [0, 1] and where no class has an image.
    """
    beta = check_value('beta', beta, float, ge=0, le=1)
    n = counts.double()
    if not n.sum() > 0: raise ValueError('counts: no class has an image')
    w = 1/n if beta == 1 else (1 - beta)/(1 - beta**n)
    w = torch.where(n > 0, w, 0.)
    return (w*n.sum()/(w*n).sum()).float()


def train_labels(
    dl # a loader of fastai's or of PyTorch's
)->torch.Tensor: # int64 (images,), in any order
    "The labels of a loader; one that holds no `Part` is read once, and goes on as if nobody had read it"
    if isinstance(getattr(dl, 'dataset', None), Part): return dl.dataset.y.cpu()
    with unmoved(dl): return torch.cat([b[-1].detach().cpu().as_subclass(torch.Tensor) for b in dl])


class WeightClasses(FitCallback):
    "Weights the classes in the cross entropy of training; validation losses stay plain"
    def __init__(self,
        beta:float=1. # as for `class_weights`
    ):
        self.beta, self.kept = check_value('beta', beta, float, ge=0, le=1), None

    def begin(self):
        "Counts the labels; `TypeError` for a loss without class weights"
        if not hasattr(getattr(self.loss_func, 'func', self.loss_func), 'weight'):
            raise TypeError(f'loss_func={self.loss_func!r}: class weights need a cross entropy')
        counts = train_labels(self.dls.train).bincount(minlength=getattr(self.dls, 'c', 0))
        self.weights = class_weights(counts, self.beta).to(next(self.model.parameters()).device)

    def before_train(self):
        super().before_train()
        self.kept, self.learn.loss_func = self.learn.loss_func, copy.deepcopy(self.learn.loss_func)
        getattr(self.learn.loss_func, 'func', self.learn.loss_func).weight = self.weights

    def after_train(self):
        if self.kept is not None: self.kept, self.learn.loss_func = None, self.kept

    def end(self):
        "Also where the fit was cut short"
        self.after_train()


def _even(data): # '' or why there is nothing to balance
    n = data.train.y.bincount(minlength=data.n_classes)
    n = n[n > 0]
    if n.max() >= LEAST_RATIO*n.min(): return ''
    return f'the classes are even: the largest has {n.max()/n.min():.2f} times as many training images as the smallest'


@trick('class_weights', Card(
    tldr='In the loss an image of a rare class counts for more: one over the number of images of its class.',
    when='Uneven classes, and each class matters alike: the score is balanced accuracy or macro F1.',
    when_not='The score is accuracy, and new images come as unevenly as those at hand. Even classes.',
    cost='Nothing.',
    suggested='beta=1 (King and Zeng 2001; scikit-learn\'s "balanced"); Cui et al. tried 0.9, 0.99, 0.999 and 0.9999, '
              'which weigh very rare classes less.',
    plays_well='balanced_accuracy or macro_f1 as the metric',
    plays_badly='balanced_sampling, which does the same again; networks that fit every training image, where weights '
                'fade (Byrd and Lipton 2019, arXiv 1812.03372)',
    sources=('King and Zeng 2001, Logistic Regression in Rare Events Data',
             'Cui et al. 2019, arXiv 1901.05555, section 4')))
class ClassWeights(Trick):
    "Weight the classes in the training loss by their number of images"
    beta: float = bounded(1., ge=0, le=1) # 1: one over the number of images; 0: no weights
    alone = 'balance the classes'

    def callbacks(self): return [WeightClasses(self.beta)]
    def applies(self, recipe, data, machine):
        loss = losses[recipe.loss](**recipe.loss_args)
        if not hasattr(getattr(loss, 'func', loss), 'weight'): return f'loss {recipe.loss!r} takes no class weights'
        return _even(data)


def _in_turns(items, k, generator): # -> k of them; none comes again before all others have come
    rounds = -(-k//len(items))
    return torch.cat([items[torch.randperm(len(items), generator=generator)] for _ in range(rounds)])[:k]


def balanced_order(
    y:torch.Tensor, # labels: int64 (N,)
    seed:int, # the run's seed
    epoch:int, # the epoch's number, from 0
    power:float=0. # a class of n images is drawn as often as n to this power: 0 all alike, 1 as they come
)->torch.Tensor: # N image numbers, int64
    """An order of one epoch in which classes come as often as `power` says, and the images of a class evenly

    After Kang et al. (2020, arXiv 1910.09217, eq. 1). `ValueError` for a `power` out of [0, 1].
    """
    power, y = check_value('power', power, float, ge=0, le=1), y.cpu()
    g = torch.Generator().manual_seed(stream_seed(seed, epoch, 5))
    n = y.bincount()
    share = torch.where(n > 0, n.double()**power, 0.)
    want = len(y)*share/share.sum()
    quota = want.floor().long()
    if left := len(y) - int(quota.sum()): # what rounding left goes to classes drawn in proportion
        quota[torch.multinomial(want - quota, left, generator=g)] += 1
    parts = [_in_turns((y == c).nonzero()[:, 0], k, g) for c, k in enumerate(quota.tolist()) if k]
    drawn = torch.cat(parts)
    return drawn[torch.randperm(len(drawn), generator=g)]


class BalancedLoader(ImageLoader):
    "An `ImageLoader` that draws rare classes more often, anew in every epoch; an epoch is as long as before"
    def __init__(self, *args, power:float=0., **kwargs):
        super().__init__(*args, **kwargs)
        self.power = power

    def new(self, *args, **kwargs): return super().new(*args, **{'power': self.power} | kwargs)
    def get_idxs(self): return balanced_order(self.dataset.y, self.seed, self.epoch, self.power)


@trick('balanced_sampling', Card(
    tldr='Draw images of rare classes more often, so that each class comes as often as any other.',
    when='Uneven classes, and each class matters alike: the score is balanced accuracy or macro F1.',
    when_not='The score is accuracy, and new images come as unevenly as those at hand. A handful of images in a '
             'class: they are soon known by heart.',
    cost='Nothing; an epoch has as many images as before, and leaves out some of the common classes.',
    suggested='power=0: all classes alike; 0.5, the square root, is between (Kang et al. 2020).',
    plays_well='augmentation, since rare images come often; balanced_accuracy or macro_f1 as the metric',
    plays_badly='class_weights, which does the same again',
    sources=('Kang et al. 2020, arXiv 1910.09217, eq. 1', 'Buda et al. 2018, arXiv 1710.05381')))
class BalancedSampling(Trick):
    "Draw each class as often as any other, whatever its number of images"
    power: float = bounded(0., ge=0, le=1) # a class of n images is drawn as often as n to this power; 1: as they come
    alone = 'balance the classes'

    def loaders(self, dls):
        kind = type(dls.train) # may be another trick's
        own = BalancedLoader if kind is ImageLoader else type('BalancedLoader', (BalancedLoader, kind), {})
        dls.loaders[0] = dls.train.new(cls=own, power=self.power)
        return dls
    def applies(self, recipe, data, machine): return _even(data)
