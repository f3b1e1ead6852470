"""Scores of a classifier by name, each computed from its confusion matrix"""
import torch

from ..base.registry import Registry

__all__ = ['metrics', 'accuracy', 'balanced_accuracy', 'macro_f1', 'recalls', 'precisions', 'f1_scores']


metrics = Registry('metric')


def recalls(
    confusion:torch.Tensor # images of class `i` (row) taken for class `j` (column): int64 (classes, classes)
)->torch.Tensor: # float64 (classes,), in [0, 1]; nan for a class without an image
    "The share of each class's images that was recognised"
    return confusion.diag().double()/confusion.sum(1)


def precisions(
    confusion:torch.Tensor # as for `recalls`
)->torch.Tensor: # float64 (classes,), in [0, 1]; nan for a class that was never predicted
    "Of the images that were taken for a class, the share that is of that class"
    return confusion.diag().double()/confusion.sum(0)


def f1_scores(
    confusion:torch.Tensor # as for `recalls`
)->torch.Tensor: # float64 (classes,), in [0, 1]; nan for a class without an image that was never predicted either
    "The harmonic mean of each class's precision and recall (van Rijsbergen 1979, chapter 7)"
    return 2*confusion.diag().double()/(confusion.sum(0) + confusion.sum(1))


@metrics.register('accuracy')
def accuracy(
    confusion:torch.Tensor # as for `recalls`
)->float: # in [0, 1]; nan without an image
    "The share of all images that was recognised"
    return (confusion.diag().sum()/confusion.sum()).item()


@metrics.register('balanced_accuracy')
def balanced_accuracy(
    confusion:torch.Tensor # as for `recalls`
)->float: # in [0, 1]; nan without an image
    """The mean recall of the classes that have an image, so that each counts alike (Brodersen et al. 2010)

    It equals scikit-learn's `balanced_accuracy_score`.
    """
    return recalls(confusion).nanmean().item()


@metrics.register('macro_f1')
def macro_f1(
    confusion:torch.Tensor # as for `recalls`
)->float: # in [0, 1]; nan without an image
    """The mean F1 of the classes that have an image or were predicted (Opitz and Burst 2019, arXiv 1911.03347, F1)

    It equals scikit-learn's `f1_score(..., average='macro')`.
    """
    return f1_scores(confusion).nanmean().item()
