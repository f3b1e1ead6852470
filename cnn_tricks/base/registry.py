"""Registries of things by name"""
import difflib, inspect, pkgutil, sys
from collections.abc import Mapping
from importlib import import_module

__all__ = ['Registry', 'import_modules']


class Registry(Mapping):
    "Named things of one kind, filled by the modules that define them; a missing name imports every module first"
    def __init__(self,
                 kind: str):  # What the names stand for, used in messages: 'network', 'optimizer'
        self.kind, self._items, self._homes, self._families = kind, {}, {}, {}

    def __getitem__(self, name):
        if name in self._items: return self._items[name]
        if make := self._family(name): return make(name.split('/', 1)[1])
        if name in self: return self._items[name]
        near = difflib.get_close_matches(str(name), self._items, 1)
        hint = f'did you mean {near[0]!r}? ' if near else ''
        known = [*self.names(), *(f'{family}/NAME' for family in sorted(self._families))]
        raise ValueError(f'unknown {self.kind} {name!r}; {hint}one of: {", ".join(known) or "none"}')

    def __contains__(self, name):
        if name in self._items: return True
        if make := self._family(name):
            try: return bool(make(name.split('/', 1)[1]))
            except ValueError: return False
        import_modules()
        return name in self._items

    def _family(self, name):
        "What makes the things of the family that `name` begins with; None where it begins with none"
        family, slash, _ = name.partition('/') if isinstance(name, str) else ('', '', '')
        if slash and family not in self._families: import_modules()
        return self._families.get(family) if slash else None

    def __iter__(self): return iter(self.names())
    def __len__(self): return len(self.names())
    def __repr__(self): return f'{self.kind}s: {", ".join(self.names())}'

    def names(self) -> list:  # Sorted
        "Every registered name"
        import_modules()
        return sorted(self._items)

    def register(self,
                 name: str,  # The name, stable: it is written to files
                 thing=None):  # The thing; left out: a decorator
        "Add `thing` under `name`; the same module may replace it, another module of the package may not (`ValueError`)"
        home = sys._getframe(1).f_globals.get('__name__', '')
        def add(o):
            module = getattr(o, '__module__', home) if inspect.isroutine(o) or inspect.isclass(o) else home
            old = self._homes.get(name, module)
            if old != module and all(m.startswith('cnn_tricks.') for m in (old, module)):
                raise ValueError(f'{self.kind} {name!r} is defined in two modules: {old} and {module}')
            self._items[name], self._homes[name] = o, module
            return o
        return add if thing is None else add(thing)

    def family(self,
               name: str,  # What the names of the family begin with, before a slash: 'timm'
               make):  # A function of the rest of the name -> the thing; `ValueError` for an unknown name
        "Things that another library lists: each `NAME/...` is made when it is asked for"
        self._families[name] = make

    def remove(self, name: str):
        "Take `name` out again"
        self._items.pop(name, None)
        self._homes.pop(name, None)

    def check_args(self,
                   name: str,  # A registered name
                   args: dict,  # The keyword arguments meant for it
                   field: str):  # What to call them in an error: 'network_args'
        "`ValueError` for an argument that what `name` stands for does not take; `TypeError` where `args` is no dict"
        thing = self[name]
        if not isinstance(args, Mapping): raise TypeError(f'{field}={args!r}: must be a dict of arguments for {name!r}')
        params = inspect.signature(thing).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in params): return
        # what has no default is filled in by the package: the channels of a network, the parameters of an optimiser
        known = sorted(p.name for p in params if p.default is not p.empty or p.kind is p.KEYWORD_ONLY)
        for arg in args:
            if arg in known: continue
            near = difflib.get_close_matches(str(arg), known, 1)
            hint = f' (did you mean {near[0]!r}?)' if near else ''
            raise ValueError(f'{field}: {self.kind} {name!r} takes no argument {arg!r}{hint}; '
                             f'it takes: {", ".join(known) or "none"}')


_importing, _homes = False, ('data', 'nets', 'core', 'tricks', 'measure')  # the folders whose modules register


def import_modules() -> list:  # The modules
    "Import every module that may register something: those of the folders of data, networks, the core, tricks, measures"
    global _importing
    if _importing: return []
    _importing = True
    try: return [import_module(m.name) for home in _homes
                 for m in pkgutil.iter_modules(import_module(f'cnn_tricks.{home}').__path__, f'cnn_tricks.{home}.')
                 if not (m.ispkg or '._' in m.name)]
    finally: _importing = False
