"""Splits that keep the images of one group (one animal, one burst) together, with each class in proportion"""
import numpy as np
import torch

__all__ = ['deal_groups']


def deal_groups(y: torch.Tensor,  # Labels: int64, (N,)
                groups: torch.Tensor,  # The group of each image: int64, (N,)
                shares: list,  # The wanted share of each part, above 0; they sum to 1
                seed: int = 0,  # Another seed, another split
                first_has_all: bool = True,  # Must the first part, which is trained on, have every class?
                ) -> torch.Tensor:  # The part of each image: int64, (N,)
    """Deal whole groups to parts, so that each part's share of each class is near the wanted one

    The groups come in a random order; each goes where it brings the counts of the classes nearest to the wanted ones,
    by chi-squared. Where every image is a group of its own, the counts are the wanted ones to within rounding. A part
    stays empty where no group can be spared. scikit-learn's StratifiedGroupKFold deals in a fixed order wherever groups
    differ, so it gives one split for nearly all seeds.
    """
    unique, inverse = np.unique(groups.cpu().numpy(), return_inverse=True)
    counts = np.zeros((len(unique), int(y.max()) + 1 if len(y) else 1))
    np.add.at(counts, (inverse, y.cpu().numpy()), 1)
    want = np.outer(shares, counts.sum(0))
    per = 1/np.where(want > 0, want, 1)  # one over the wanted count
    have, part = np.zeros_like(want), np.zeros(len(unique), np.int64)
    for g in torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed)).tolist():
        part[g] = p = ((2*(have - want) + counts[g])*counts[g]*per).sum(1).argmin()
        have[p] += counts[g]
    _fill(part, counts, have, first_has_all)
    return torch.from_numpy(part[inverse])


def _fill(part, counts, have, first_has_all):
    "Give the first part the classes that it lacks, and each empty part a group, the smallest that can be spared"
    size = counts.sum(1)
    def move(g, to):
        have[part[g]] -= counts[g]
        part[g] = to
        have[to] += counts[g]
    while first_has_all and len(lacks := np.flatnonzero((have[0] == 0) & (counts.sum(0) > 0))):
        move(min(np.flatnonzero(counts[:, lacks[0]]), key=size.__getitem__), 0)
    for p in range(1, len(have)):
        if have[p].any(): continue
        first = np.flatnonzero(part == 0)
        spare = [g for g in first if not first_has_all or ((have[0] > counts[g]) | (counts[g] == 0)).all()]
        if len(first) > 1 and spare: move(min(spare, key=size.__getitem__), p)
