"""What a command reads and tries before it claims a folder: the images, and three steps of each recipe"""
from dataclasses import replace

from rich.console import Console

from ..core.recipe import Recipe
from ..core.run_control import Interrupted, TrainingDiverged
from ..core.train import learner, train
from ..data.datasets import embedded
from ..data.image_folder import read_folder
from ..data.images import ImageData
from ..nets.pretrained import pretrained
from .errors import one_line

__all__ = ['images_for_run', 'tell_images', 'try_recipes']


def images_for_run(
    o:dict, # options: `folder` and `size`, either may be None; `base`: what `choose_base` chose
    folder:str=None # the same folder in the user's words, for complaints; None: as in the options
)->ImageData:
    """The images that the options name; without a folder, the clothes that come with the package.

    Raises `ValueError` and `OSError` as `read_folder` does."""
    if (base := o.get('base')) and base['weights']:
        rule = pretrained[base['weights']]().preprocessing
        if o['folder'] is None: return embedded().resize(base['size'])
        return read_folder(folder or o['folder'], size=base['size'], framing=rule.framing if rule else None)
    if o['folder'] is not None: return read_folder(folder or o['folder'], size=o['size'])
    return embedded().resize(o['size']) if o['size'] else embedded()


def tell_images(
    data:ImageData,
    said:Console # where to print
):
    "Print what was read: classes, size, how many images in each part, and what was noticed in the folder"
    (h, w), n = data.size, {k: f'{len(p):,}' for k, p in data.parts.items()}
    said.print(f'{data.name}: {data.n_classes} classes, {h} x {w} pixels; {n["train"]} images to train on, '
               f'{n["valid"]} to validate, {n["test"]} to test')
    for note in data.notes: said.print(f'  {note}')


def try_recipes(
    arms:list, # (label, `Recipe`) pairs
    data:ImageData,
    seed:int,
    device:str # of `tried_device`; None: the default
):
    """Train three steps of each recipe, so that what cannot work is said before a folder is claimed.

    Raises `ValueError` that begins with the label; `KeyboardInterrupt` where the user stops it."""
    for label, recipe in arms:
        try: _try_steps(recipe, replace(data, valid=data.valid[:1]), seed, device)
        except ValueError as e:
            hint = ' (another --size, or --no-baseline)' if len(arms) > 1 and label == 'baseline' else ''
            raise ValueError(f'{label}: {e}{hint}') from e


def _try_steps(recipe:Recipe, data, seed, device):
    "Build it and train three steps; raises what goes wrong, in one clear line"
    learn = learner(recipe, data, seed, device)
    (h, w), n = learn.dls.train.dataset.x.shape[-2:], learn.dls.train.bs
    try: train(recipe.replace(steps=3), data, seed, progress=False, device=device)
    except TrainingDiverged: pass  # the run itself will say at which step
    except Interrupted: raise KeyboardInterrupt('stopped before the first step') from None
    except MemoryError: raise
    except Exception as e:
        raise ValueError(f'no step can be trained with batch_size={n} on images of {h} x {w}: {one_line(e)}') from e
