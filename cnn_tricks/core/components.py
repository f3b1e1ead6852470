"""Optimisers, schedules and losses by name"""
import json

import torch
from fastai.callback.schedule import combined_cos
from fastai.losses import CrossEntropyLossFlat

from ..base.fields import check_value
from ..base.registry import Registry

__all__ = ['optimizers', 'schedules', 'losses', 'in_range', 'sgd', 'adam', 'adamw', 'cross_entropy', 'fixed',
           'one_cycle', 'plain_args']


optimizers, schedules, losses = Registry('optimizer'), Registry('schedule'), Registry('loss')


def in_range(
    name:str, # what the number is called, for the message
    value, # what was given
    interval:str, # where it must lie, as in '[0, 1)'; 'inf' for an open end
    whole:bool=False # must it be a whole number?
):
    "`check_value` for a number and an interval: `TypeError` or `ValueError`, in a line, where it is wrong"
    check_value(name, value, int if whole else float, interval=interval)


@optimizers.register('sgd')
def sgd(
    params, # parameters, or groups of them
    lr:float, # learning rate
    momentum:float=0.9, # share of the last step that is kept, in [0, 1)
    nesterov:bool=True, # look ahead along the momentum (only where there is some)
    weight_decay:float=0. # L2 term in the gradient, at least 0
): # -> `torch.optim.SGD`
    """`torch.optim.SGD`, with Nesterov momentum (Sutskever et al. 2013, section 2) unless told otherwise

    `ValueError` for a `momentum` or `weight_decay` out of its range; `TypeError` where one of them is no number, or
    `nesterov` not True or False.
    """
    in_range('momentum', momentum, '[0, 1)')
    in_range('weight_decay', weight_decay, '[0, inf)')
    if not isinstance(nesterov, bool): raise TypeError(f'nesterov={nesterov!r}: must be True or False')
    nesterov = nesterov and momentum > 0
    return torch.optim.SGD(params, lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


def _adam(make, params, lr, beta1, beta2, eps, weight_decay): # one of torch's Adams, its arguments checked
    for name, v in (('beta1', beta1), ('beta2', beta2)): in_range(name, v, '[0, 1)')
    in_range('eps', eps, '(0, inf)')
    in_range('weight_decay', weight_decay, '[0, inf)')
    return make(params, lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)


@optimizers.register('adam')
def adam(
    params, # parameters, or groups of them
    lr:float, # learning rate
    beta1:float=0.9, # share of the gradient's average that is kept, in [0, 1)
    beta2:float=0.999, # the same for its square
    eps:float=1e-8, # keeps the division finite, greater than 0
    weight_decay:float=0. # L2 term in the gradient, at least 0
): # -> `torch.optim.Adam`
    "`torch.optim.Adam` (Kingma and Ba 2015); its `weight_decay` is an L2 term in the gradient"
    return _adam(torch.optim.Adam, params, lr, beta1, beta2, eps, weight_decay)


@optimizers.register('adamw')
def adamw(
    params, # parameters, or groups of them
    lr:float, # learning rate
    beta1:float=0.9, # share of the gradient's average that is kept, in [0, 1)
    beta2:float=0.999, # the same for its square
    eps:float=1e-8, # keeps the division finite, greater than 0
    weight_decay:float=0.01 # decoupled: shrinks the weights by lr times this, at least 0
): # -> `torch.optim.AdamW`
    "`torch.optim.AdamW`, with decoupled weight decay (Loshchilov and Hutter 2019, section 2)"
    return _adam(torch.optim.AdamW, params, lr, beta1, beta2, eps, weight_decay)


class _CrossEntropy(CrossEntropyLossFlat):
    "fastai's flattened cross entropy; scores (N, classes) and labels (N,) are flat already and stay plain tensors"
    def __call__(self, inp, targ, **kwargs):
        plain = type(inp) is type(targ) is torch.Tensor and (inp.dim(), targ.dim(), self.axis) == (2, 1, -1)
        if not plain or targ.dtype != torch.int64: return super().__call__(inp, targ, **kwargs)
        return self.func(inp, targ, **kwargs)


@losses.register('cross_entropy')
def cross_entropy(
    label_smoothing:float=0. # share of the target that is spread over all classes, in [0, 1)
): # -> callable of logits (N, classes) and labels (N,), whose value is their mean in nats
    "Cross entropy of the logits, fastai's flattened form (it knows its own activation)"
    in_range('label_smoothing', label_smoothing, '[0, 1)')
    return _CrossEntropy(label_smoothing=label_smoothing)


@schedules.register('fixed')
def fixed(): # -> {'lr': function of the fraction done}
    "The same learning rate at every step"
    return {'lr': lambda frac: 1.}


@schedules.register('one_cycle')
def one_cycle(
    pct_start:float=0.25, # fraction of the run that goes up, in (0, 1)
    div:float=25., # the start is the peak divided by this, at least 1
    div_final:float=1e5, # so is the end
    moms:tuple=(0.95, 0.85, 0.95) # momentum at the start, at the peak, at the end, each in [0, 1)
): # -> {'lr': function, 'mom': function} of the fraction done
    """fastai's one-cycle policy (Smith and Topin 2018): cosine up, then down to almost 0, momentum the other way round

    `ValueError` for a number out of its range, and where `moms` is not a tuple or list of three; `TypeError` for what
    is no number.
    """
    in_range('pct_start', pct_start, '(0, 1)')
    for name, v in (('div', div), ('div_final', div_final)): in_range(name, v, '[1, inf)')
    if not isinstance(moms, (tuple, list)) or len(moms) != 3: raise ValueError(f'moms={moms!r}: must be three numbers')
    for v in moms: in_range('moms', v, '[0, 1)')
    return {'lr': combined_cos(pct_start, 1/div, 1., 1/div_final), 'mom': combined_cos(pct_start, *moms)}


def _make_once(kind, thing, args): # make the part for nothing, and ask it what can be asked
    if kind == 'optimizer': thing([torch.zeros(2, 2, requires_grad=True)], 1e-3, **args)
    if kind == 'loss': thing(**args)
    if kind != 'schedule': return
    for name, f in thing(**args).items():
        for t in (0., 0.01, 0.25, 0.5, 0.75, 0.99, 1.): in_range(f'its {name} at {t:g}', float(f(t)), '[0, inf)')


def plain_args(
    registry:Registry, # of `name`
    name:str, # a registered name
    args:dict, # the keyword arguments meant for it
    field:str # what to call them in an error: 'optimizer_args'
)->dict: # the same as a file would hold them: a tuple becomes a list
    "Check the arguments by making the part once: `ValueError` or `TypeError`, in one line, where that fails"
    registry.check_args(name, args, field)
    try: args = json.loads(json.dumps(args, allow_nan=False))
    except ValueError: raise ValueError(f'{field}={args!r}: numbers must be finite') from None
    except TypeError: raise TypeError(f'{field}={args!r}: must hold numbers, strings and lists of them') from None
    if not args: return args # defaults are the author's affair
    try: _make_once(registry.kind, registry[name], args)
    except Exception as e:
        why = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        kind = TypeError if isinstance(e, TypeError) else ValueError
        raise kind(f'{field}={args!r}: {registry.kind} {name!r} cannot be made: {why}') from e
    return args
