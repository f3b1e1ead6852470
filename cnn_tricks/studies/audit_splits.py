"""The images of each round of an audit: a split of their own, and images set aside that judge nothing"""
from dataclasses import replace

from ..data.images import ImageData

__all__ = ['Splits']

_share = 0.2 # of the images in train and valid validate at most: more would widen the corrected interval


class Splits:
    """Train and valid joined, and split anew for each seed; the test part is left alone

    Where learning rates are tuned, some images are set aside: they decide on rates, and are trained on afterwards,
    and never judge. `ValueError` where a part would come to no image."""
    def __init__(self,
        data:ImageData, # train and valid are joined
        aside:bool=False, # set images aside to tune learning rates on?
        seed:int=0 # of the images that are set aside
    ):
        pool = data.train.join(data.valid)
        self.valid = max(1, min(len(data.valid), round(_share*len(pool)))) # images that judge in each round
        self.tuning = None # the images to tune learning rates on: the valid part is what is set aside
        self._judging, self._kept = data, {}
        if aside:
            self.tuning = data.split(max(1, min(self.valid, len(pool)//10)), seed)
            self._judging = replace(self.tuning, valid=self.tuning.valid[:0])

    def round(self,
        seed:int # another seed, another split
    )->ImageData: # what is set aside stands at the end of its train part
        "The images of one round; the last one is kept, since all of its runs ask for it"
        if seed not in self._kept:
            split = self._judging.split(self.valid, seed)
            if self.tuning: split = replace(split, train=split.train.join(self.tuning.valid))
            self._kept = {seed: split}
        return self._kept[seed]

    @property
    def correction(self): # -> float, greater than 0
        """Images that judge in a round over those that could and do not: n_test/n_train of Nadeau and Bengio (2003,
        section 5), what is set aside not counted"""
        n = len(self._judging.train) + len(self._judging.valid)
        return self.valid/max(n - self.valid, 1)
