"""A `Learner` that spends less Python on each step: fastai's loop, events and values, and nothing done twice"""
import torch
from fastai.callback.core import (Callback, CancelBackwardException, CancelBatchException, CancelEpochException,
                                  CancelFitException, CancelStepException, CancelTrainException, CancelValidException)
from fastai.callback.schedule import ParamScheduler
from fastai.learner import CastToTensor, Learner, Recorder
from fastai.optimizer import OptimWrapper, set_item_pg
from fastcore.basics import noop
from fastcore.xtras import modify_exception

__all__ = ['DirectLearner', 'SmoothLossRecorder', 'PlainTensors', 'ScalarScheduler', 'last_hyper']

in_batch = frozenset('before_batch after_pred after_loss before_backward after_cancel_backward after_backward '
                     'before_step after_cancel_step after_step after_cancel_batch after_batch'.split())
cancels = (CancelBackwardException, CancelBatchException, CancelEpochException, CancelFitException,
           CancelStepException, CancelTrainException, CancelValidException)


def last_hyper(
    opt, # optimiser of a `Learner`
    name:str # fastai's name: 'lr', 'mom', ...
): # -> its value
    "A hyperparameter of the last group of parameters, without the list of all of them that `hypers` makes"
    if type(opt) is not OptimWrapper: return opt.hypers[-1][name]
    key, _, i = opt.bwd_map[name].partition('__')
    value = opt.opt.param_groups[-1][key]
    return value[int(i)] if i else value


class SmoothLossRecorder(Recorder):
    "fastai's `Recorder`; in training it computes the smoothed loss once for each step instead of twice"
    name, _xtra = 'recorder', None # `_xtra`: fastcore looks for it with each attribute that is the learner's
    told = False # are losses told, some steps later? Where a read would make the processor wait for the device

    def after_batch(self):
        "Update the figures of the epoch; those of a training step are the smoothed loss and the learning rate"
        learn, smooth = self.learn, self.smooth_loss
        if self.told and learn.training: return self.lrs.append(last_hyper(learn.opt, 'lr'))
        loss = learn.loss
        plain = type(loss) is torch.Tensor and loss.device.type == 'cpu' and not loss.dim()
        if not learn.training or self.train_metrics or self.cancel_train or not plain: return super().after_batch()
        if not learn.yb: return
        smooth.count += 1
        smooth.val = torch.lerp(loss.detach(), smooth.val, smooth.beta)
        value = smooth.value
        self.lrs.append(last_hyper(learn.opt, 'lr'))
        self.losses.append(value)
        learn.smooth_loss = value

    def tell(self,
        losses # of the steps since the last call: float32 (steps,), on the processor
    ):
        "What `after_batch` does with the loss of each step"
        smooth = self.smooth_loss
        for loss in losses:
            smooth.count += 1
            smooth.val = torch.lerp(loss, smooth.val, smooth.beta)
            self.losses.append(smooth.value)
        self.learn.smooth_loss = smooth.value


class PlainTensors(CastToTensor):
    "fastai's `CastToTensor`, where there is something to cast"
    name, _xtra = 'cast_to_tensor', None

    def before_batch(self):
        "fastai's images and labels become plain tensors; plain ones are left"
        if any(type(t) is not torch.Tensor for t in (*self.learn.xb, *self.learn.yb)): super().before_batch()


class ScalarScheduler(ParamScheduler):
    "fastai's `ParamScheduler`; a number goes to all groups of parameters without lists on the way"
    name, _xtra = 'param_scheduler', None

    def before_batch(self):
        "Set each hyperparameter by its schedule at the fraction done"
        opt, pct = self.learn.opt, self.learn.pct_train
        for name, f in self.scheds.items():
            value = f(pct)
            if type(opt) is OptimWrapper and isinstance(value, float):
                for group in opt.opt.param_groups: set_item_pg(group, opt.bwd_map[name], value)
            else: opt.set_hyper(name, value)

    def after_batch(self):
        "Record what this step had"
        for name, kept in self.hps.items(): kept.append(last_hyper(self.learn.opt, name))


_lighter = {Recorder: SmoothLossRecorder, CastToTensor: PlainTensors}


class DirectLearner(Learner):
    """fastai's `Learner`, whose events in a batch reach only the callbacks that have a method for them

    Which ones have it is found out once for each epoch, and again when a callback is added or removed. In place of
    fastai's `Recorder` and `CastToTensor` it has the two lighter ones of this module.
    """
    _xtra = None # fastcore looks for it with each attribute that is the model's

    def add_cb(self,
        cb # `Callback`, or a class of them
    ):
        "As fastai's"
        self._answering = {}
        return super().add_cb(_lighter.get(cb, cb) if isinstance(cb, type) else cb)

    def remove_cb(self,
        cb # `Callback`, or a class of them
    ):
        "As fastai's"
        self._answering = {}
        return super().remove_cb(cb)

    def __call__(self,
        event_name # name of an event, or a list of names
    ):
        "Call the event's method of all callbacks, in order"
        if isinstance(event_name, str): self._call_one(event_name)
        else: super().__call__(event_name)

    def _call_one(self, event_name):
        if event_name not in in_batch:
            self._answering = {}
            return super()._call_one(event_name)
        if (found := self._answering.get(event_name)) is None:
            found = self._answering[event_name] = [cb for cb in self.cbs.sorted('order') if _answers(cb, event_name)]
        for cb in found: _call(cb, event_name, self.training)

    def _set_device(self, b):
        device = next(self.model.parameters()).device
        there = type(b) is tuple and all(type(t) is torch.Tensor and t.device == device for t in b)
        return b if there else super()._set_device(b)


def _answers(cb, event_name): # does this callback do anything then?
    return type(cb).__call__ is not Callback.__call__ or getattr(cb, event_name, noop) is not noop


def _call(cb, event_name, training): # what `Callback.__call__` does for an event in a batch
    if type(cb).__call__ is not Callback.__call__: return cb(event_name)
    if not cb.run or not (cb.run_train if training else cb.run_valid): return
    try: getattr(cb, event_name)()
    except cancels: raise
    except Exception as e:
        why = f'Exception occured in `{type(cb).__name__}` when calling event `{event_name}`:\n\t{e.args[0] if e.args else e!r}'
        modify_exception(e, why, replace=True)
        raise
