"What several test files of lessons use."
import torch
from fastai.callback.core import Callback


class StopAt(Callback):
    "As if someone pressed Ctrl-C at this step."
    order = 90
    def __init__(self, step): self.at = step
    def after_batch(self):
        if self.training and self.run_control.state.step == self.at: self.run_control.state.stop = True


def same(a, b):
    "Do two dicts of tensors agree to the bit?"
    return a.keys() == b.keys() and all(bool(torch.equal(a[k], b[k])) for k in a)
