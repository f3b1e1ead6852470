"""Dataclass fields that check their type and their bounds when they are set"""
import dataclasses, math, numbers, types, typing

__all__ = ['bounded', 'choice', 'check_fields', 'check_value']


def bounded(default=dataclasses.MISSING,  # The field's default
            *, ge: float | None = None, gt: float | None = None,  # At least; greater than
            le: float | None = None, lt: float | None = None,  # At most; less than
            optional: bool = False,  # Is `None` allowed?
            ) -> dataclasses.Field:
    "A dataclass field for a number within bounds"
    meta = dict(ge=ge, gt=gt, le=le, lt=lt, optional=optional)
    return dataclasses.field(default=default, metadata={k: v for k, v in meta.items() if v is not None})

def choice(default,  # The field's default
           *options,  # What it may be
           ) -> dataclasses.Field:
    "A dataclass field for one of `options`"
    return dataclasses.field(default=default, metadata=dict(options=options))

_bounds = dict(ge=('at least', lambda v, b: v >= b), gt=('greater than', lambda v, b: v > b),
               le=('at most', lambda v, b: v <= b), lt=('less than', lambda v, b: v < b))

def check_fields(obj):  # An instance of a dataclass
    "Check every field against its annotation and its `bounded` or `choice`; `None` passes only where it is allowed"
    hints = typing.get_type_hints(type(obj))
    for f in dataclasses.fields(obj):
        value, meta = getattr(obj, f.name), f.metadata
        allowed = _plain_types(hints[f.name])
        if value is None and (meta.get('optional') or type(None) in allowed): continue
        value = _check_type(obj, f.name, value, allowed)
        if 'options' in meta and value not in meta['options']:
            raise ValueError(f'{f.name}={value!r}: must be one of {", ".join(map(repr, meta["options"]))}')
        limits = [(words, meta[k], test) for k, (words, test) in _bounds.items() if k in meta]
        if not all(test(value, limit) for _, limit, test in limits):
            raise ValueError(f'{f.name}={value!r}: must be ' + ' and '.join(f'{w} {b}' for w, b, _ in limits))


_type_words = {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'a string'}

def _plain_types(hint):
    "The types that an annotation names; empty: anything"
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType): return {t for a in typing.get_args(hint) for t in _plain_types(a)}
    return {o for o in [origin or hint] if isinstance(o, type)}

def _check_type(obj, name, value, allowed):
    "`value`, as a plain int or float where it is one of numpy's; raises `TypeError` where no allowed type fits"
    if not allowed: return value
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fits = {int: number and isinstance(value, numbers.Integral), float: number}
    if not any(fits[t] if t in fits else isinstance(value, t) for t in allowed):
        words = ' or '.join(_type_words.get(t, t.__name__) for t in sorted(allowed - {type(None)}, key=str))
        raise TypeError(f'{name}={value!r}: must be {words}, not {type(value).__name__}')
    if number and not math.isfinite(value): raise ValueError(f'{name}={value!r}: must be a finite number')
    if number and type(value) not in (int, float):
        value = int(value) if isinstance(value, numbers.Integral) else float(value)
        object.__setattr__(obj, name, value)
    return value


def check_value(name: str,  # What to call it in the error
                value,  # What was given
                *kinds,  # The types that it may have: int, float, bool, str, type(None), ...
                **limits):  # Bounds, as for `bounded`: ge, gt, le, lt
    "The value, as a plain number where it is one of numpy's; `TypeError` or `ValueError`, in a line, where it is wrong"
    if value is None and type(None) in kinds: return value
    held = types.SimpleNamespace(**{name: value})
    _check_type(held, name, value, set(kinds))
    for key, limit in limits.items():
        words, test = _bounds[key]
        if not test(value, limit): raise ValueError(f'{name}={value!r}: must be {words} {limit}')
    return getattr(held, name)
