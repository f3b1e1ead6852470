"""Checks of values and of dataclass fields: their type, that numbers are finite, their bounds"""
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


def check_fields(obj):  # An instance of a dataclass
    """Check every field against its annotation and its `bounded` or `choice`; `None` passes only where it is allowed

    A number of numpy's becomes a plain one. Raises `TypeError` for a value of another type, `ValueError` for a number
    that is not finite or out of bounds and for a value that is none of the options.
    """
    hints = typing.get_type_hints(type(obj))
    for f in dataclasses.fields(obj):
        given, meta, kinds = getattr(obj, f.name), f.metadata, _plain_types(hints[f.name])
        if given is None and (meta.get('optional') or type(None) in kinds): continue
        value = check_value(f.name, given, *kinds, **{k: meta[k] for k in _BOUNDS if k in meta})
        if value is not given: object.__setattr__(obj, f.name, value)
        if 'options' in meta and value not in meta['options']:
            raise ValueError(f'{f.name}={value!r}: must be one of {", ".join(map(repr, meta["options"]))}')


def check_value(name: str,  # What to call it in the error
                value,  # What was given
                *kinds,  # The types that it may have: int, float, bool, str, type(None), ...; none: any
                interval: str = '',  # Where a number must lie, as in '[0, 1)'; 'inf' for an open end
                **limits):  # The same as in `bounded`: ge, gt, le, lt
    """The value, as a plain int or float where it is one of numpy's

    Raises `TypeError` for a value of another type, `ValueError` for a number that is not finite or out of bounds; the
    message has the name, the value and what it must be.
    """
    if value is None and type(None) in kinds: return value
    if kinds: value = _of_kind(name, value, set(kinds), f'lie in {interval}' if interval else 'be a finite number')
    if interval and not _inside(value, interval): raise ValueError(f'{name}={value!r}: must lie in {interval}')
    bounds = [(words, limits.pop(k), test) for k, (words, test) in _BOUNDS.items() if k in limits]
    if limits: raise TypeError(f'check_value: no such limit: {", ".join(limits)}; there are: {", ".join(_BOUNDS)}')
    if all(test(value, limit) for _, limit, test in bounds): return value
    raise ValueError(f'{name}={value!r}: must be ' + ' and '.join(f'{words} {limit}' for words, limit, _ in bounds))


_BOUNDS = dict(ge=('at least', lambda v, b: v >= b), gt=('greater than', lambda v, b: v > b),
               le=('at most', lambda v, b: v <= b), lt=('less than', lambda v, b: v < b))
_TYPE_WORDS = {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'a string'}


def _plain_types(hint):
    "The types that an annotation names; empty: anything"
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType): return {t for a in typing.get_args(hint) for t in _plain_types(a)}
    return {o for o in [origin or hint] if isinstance(o, type)}


def _of_kind(name, value, kinds, finite):
    "`value`, as a plain int or float where it is one of numpy's; raises where no kind fits or it is not finite"
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fits = {int: number and isinstance(value, numbers.Integral), float: number}
    if not any(fits[t] if t in fits else isinstance(value, t) for t in kinds):
        words = ' or '.join(_TYPE_WORDS.get(t, t.__name__) for t in sorted(kinds - {type(None)}, key=str))
        raise TypeError(f'{name}={value!r}: must be {words}, not {type(value).__name__}')
    if number and not math.isfinite(value): raise ValueError(f'{name}={value!r}: must {finite}')
    if not number or type(value) in (int, float): return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _inside(value, interval):
    "Does a number lie in an interval as in '[0, 1)'?"
    low, high = map(float, interval[1:-1].split(','))
    return (value >= low if interval[0] == '[' else value > low) and \
           (value <= high if interval[-1] == ']' else value < high)
