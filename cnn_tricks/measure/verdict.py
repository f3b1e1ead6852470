"""The words for what a comparison found"""
from enum import Enum

__all__ = ['Verdict']


class Verdict(str, Enum):
    "What an interval says, given the smallest difference δ that matters; equal to its text, in JSON its text"
    UNDECIDED = 'undecided' # more seeds or more images are needed
    HELPS = 'helps' # the whole interval lies above 0
    HURTS = 'hurts' # the whole interval lies below 0
    NO_DIFFERENCE = 'no difference beyond δ' # the whole interval lies within ±δ
    HELPS_LITTLE = 'helps, by less than δ' # within ±δ, and above 0

    def __str__(self): return self.value # as `enum.StrEnum` has it from Python 3.11 on
    def __repr__(self): return repr(self.value)

    @property
    def sure(self): # -> bool
        "Does it say that there is a difference that may matter?"
        return self in (Verdict.HELPS, Verdict.HURTS)

    @classmethod
    def of(cls,
        low:float, # where the interval of the mean difference begins, in accuracy
        high:float, # where it ends
        delta:float # the smallest difference that matters, greater than 0
    ): # -> `Verdict`
        """Inside ±δ comes first: what is surely smaller than δ does not matter. More seeds turn 'helps' at most into
        'helps, by less than δ', never into no difference"""
        if -delta <= low and high <= delta: return cls.HELPS_LITTLE if low > 0 else cls.NO_DIFFERENCE
        return cls.HELPS if low > 0 else cls.HURTS if high < 0 else cls.UNDECIDED
