"""Makes training rougher, as another processor's rounding does, but by far more, so that it shows within seconds.

`CNN_TRICKS_ROUGH=0.001:1` (how much, and which of many ways) lets each optimiser multiply its gradients by
1 + 0.001 sin(...) before a step. The sine depends on the gradient alone and changes slowly with it: equal runs stay
equal, so do nearly equal ones, and everything that a few dozen steps decide comes out differently.
scripts/build/find_training_outputs.py runs notebooks this way.
"""
import os, sys
from importlib.machinery import PathFinder

eps, _, seed = os.environ['CNN_TRICKS_ROUGH'].partition(':')
EPS, SEED = float(eps), float(seed or 0)
SMALLEST = 64  # values: less is an example of arithmetic, not a network's weights


def roughen(optimizer, *args):
    "Multiply the gradients that `optimizer` holds by 1 + EPS sin(3 g/mean|g| + SEED)."
    import torch
    with torch.no_grad():
        for p in (p for group in optimizer.param_groups for p in group['params']):
            if p.grad is None or p.numel() < SMALLEST: continue
            size = p.grad.abs().mean().clamp_min(1e-30)
            p.grad.mul_(1 + EPS*torch.sin(3*p.grad/size + SEED))


class AfterImport:
    "A finder that calls `then(module)` once the module `name` has been loaded."

    def __init__(self, name, then): self.name, self.then = name, then

    def find_spec(self, name, path=None, target=None):
        if name != self.name: return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self.then(module)
        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, AfterImport('torch.optim.optimizer', lambda m: m.register_optimizer_step_pre_hook(roughen)))
