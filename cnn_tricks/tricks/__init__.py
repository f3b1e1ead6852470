"""The tricks: one module a trick or a family, named like its lesson. By name, as registered: `tricks['pooling']`."""
import sys
from types import ModuleType


class _Tricks(ModuleType):
    "The folder as a module that can be asked for tricks by name, like the registry, which is loaded then"
    @property
    def _registered(self):
        from cnn_tricks.core.recipe import tricks
        return tricks
    def __getitem__(self, name): return self._registered[name]
    def __contains__(self, name): return name in self._registered
    def __iter__(self): return iter(self._registered)
    def __len__(self): return len(self._registered)


sys.modules[__name__].__class__ = _Tricks
