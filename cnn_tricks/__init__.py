"""Which training tricks help your convolutional network, on your images, on your machine.

The names of `__all__` are here as `cnn_tricks.train` and so on; each is imported when it is first asked for, so that
`import cnn_tricks` takes no time. Everything else is imported from the module that has it.
"""
from importlib import import_module

__version__ = "0.1.0"

_homes = dict(Recipe='core.recipe', Trick='core.recipe', recipes='core.recipe', train='core.train', learner='core.train',
              compare='measure.compare', audit='studies.audit', datasets='data.datasets', networks='nets.networks')
__all__ = [*_homes, 'tricks']


def __getattr__(name):
    "What `__all__` names, from the module where it stands"
    if name == 'tricks': return import_module('cnn_tricks.tricks')  # the folder, which finds tricks by name, too
    if name not in _homes: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    globals()[name] = thing = getattr(import_module(f'cnn_tricks.{_homes[name]}'), name)
    return thing


def __dir__(): return sorted({*globals(), *__all__})
