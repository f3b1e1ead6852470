"""Fused optimisers and the memory layout of a network within fastai"""
import torch

from .fitting import FitCallback, Order

__all__ = ['match_layout', 'fuse', 'is_fused', 'FuseOptimizer']


def _optimizer(opt): # the one inside fastai's wrapper: PyTorch's own
    return getattr(opt, 'opt', opt)


def match_layout(
    opt # optimiser, PyTorch's or fastai's
):
    "Store what an optimiser keeps for each weight in the same order as the weight; no value changes"
    for p, state in _optimizer(opt).state.items():
        for k, v in state.items():
            if torch.is_tensor(v) and v.shape == p.shape: state[k] = torch.empty_like(p, dtype=v.dtype).copy_(v)


def fuse(
    opt # optimiser, PyTorch's or fastai's; changed in place
)->bool: # False where it has no fused version; it stays as it is
    """Let an optimiser update each weight in one pass over memory; its values change by rounding only

    Sources: PyTorch's documentation of `torch.optim.Adam`, argument `fused`; its pull request 123074 (2024) for CPUs.
    """
    groups = _optimizer(opt).param_groups if hasattr(_optimizer(opt), 'param_groups') else []
    if not groups or any('fused' not in g or g.get('differentiable') for g in groups): return False
    match_layout(opt)
    for g in groups: g.update(fused=True, foreach=None)
    for p, state in _optimizer(opt).state.items(): # a GPU's fused version wants the count beside the weights
        if torch.is_tensor(state.get('step')): state['step'] = state['step'].to(p.device)
    return True


def is_fused(
    opt # optimiser, PyTorch's or fastai's
)->bool: # does it update in one pass?
    "Is it a fused version?"
    return any(g.get('fused') for g in getattr(_optimizer(opt), 'param_groups', []))


class FuseOptimizer(FitCallback):
    """Makes the learner's optimiser fused when a fit begins, after everything that may replace or load it

    The fit raises `ValueError` where the optimiser has no fused version.
    """
    order = Order.FUSE

    def begin(self):
        if not fuse(self.learn.opt):
            name = type(_optimizer(self.learn.opt)).__name__
            raise ValueError(f'fused_optimizer: {name} has no fused version; torch.optim.AdamW and others have')
