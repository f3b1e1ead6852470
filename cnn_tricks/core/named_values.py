"""Things that are a name and plain values: compared and hashed by them"""
from dataclasses import fields

__all__ = ['frozen', 'NamedValues']


def frozen(
    v # a plain value, as JSON holds them
): # -> the same, to be hashed: 1 is 1.0 here, a list a tuple, and a dict has no order
    "A hashable form of plain values; equal values have equal forms"
    if isinstance(v, dict): return frozenset((k, frozen(x)) for k, x in v.items())
    return tuple(map(frozen, v)) if isinstance(v, (list, tuple)) else v


class NamedValues:
    "A dataclass with a `name`: two are equal if name and fields are, whatever their classes"
    name = ''

    def params(self): # -> dict of plain values
        "The fields by name"
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __eq__(self, other): return isinstance(other, NamedValues) and _key(self) == _key(other)
    def __hash__(self): return hash(_key(self))


def _key(v): return v.name, frozen(v.params())
