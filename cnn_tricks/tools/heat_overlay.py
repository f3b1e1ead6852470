"""Heat maps drawn over images"""
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from ..core.recipe import Card
from .gradcam import grad_cam, network_input

__all__ = ['CARD', 'overlay', 'show_heat', 'explain']


def _rgb(image): # a picture -> float (H, W, 3) in [0, 1]
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f'image is {tuple(image.shape)}: must be (1, H, W) or (3, H, W)')
    a = np.moveaxis(np.asarray(image), 0, -1)
    a = a/255 if a.dtype == np.uint8 else a.clip(0, 1)
    return np.broadcast_to(a, (*a.shape[:2], 3))


def overlay(
    image, # a picture, (1, H, W) or (3, H, W): uint8, or float in [0, 1]; tensor or array
    heat, # (H, W) in [0, 1], as a row of `grad_cam`
    strength:float=0.7 # how far the hottest pixel takes the colour's place, in [0, 1]
)->np.ndarray: # float (H, W, 3) in [0, 1]
    """A picture in grey with heat over it: cold places keep the picture, hot ones turn yellow

    `ValueError` where the strength is outside [0, 1], the image has another shape, or the map another size."""
    if not 0 <= strength <= 1: raise ValueError(f'strength={strength}: must be between 0 and 1')
    rgb, heat = _rgb(image), np.asarray(heat, dtype=float)
    if heat.shape != rgb.shape[:2]: raise ValueError(f'heat is {heat.shape}, image {rgb.shape[:2]}: must be as large')
    share = strength*heat[..., None]
    return (1 - share)*rgb.mean(-1, keepdims=True) + share*colormaps['plasma'](heat)[..., :3]


def show_heat(
    images, # N pictures, each as for `overlay`
    heats, # (N, H, W) in [0, 1], as from `grad_cam`
    titles=None, # a line over each picture
    side:float=1. # width of a picture, in inches
)->Figure: # pictures above, the same with heat below; `savefig(path)` writes it
    """Pictures and where a network looks in them, one above the other

    `ValueError` where there are not as many maps as images, and as from `overlay`."""
    if len(images) != len(heats): raise ValueError(f'{len(images)} images, {len(heats)} maps: must be as many')
    n, (h, w) = len(images), images[0].shape[1:]
    fig = Figure(figsize=(side*n, 2*side*h/w + 0.3), layout='constrained', facecolor='white')
    for i, (image, heat) in enumerate(zip(images, heats)):
        for row, what in enumerate((_rgb(image), overlay(image, heat))):
            ax = fig.add_subplot(2, n, row*n + i + 1)
            ax.imshow(what, interpolation='nearest')
            ax.set_axis_off()
            if titles and row == 0: ax.set_title(titles[i], fontsize=8)
    return fig


def explain(
    trained, # a `Trained` network, as from `load_trained` or `Result.trained`
    image, # one picture as training saw its own: uint8 (C, H, W), tensor or array
    target:str=None, # the class to explain, by name; None: the most probable one
    layer=None # as for `grad_cam`
)->Figure: # the picture, and the picture with heat; `savefig(path)` writes it
    """What a trained network says of a picture, and where it sees that (Grad-CAM, Selvaraju et al. 2016)

    `ValueError` where `target` is none of the network's classes, and as from `grad_cam`."""
    if target is not None and target not in trained.classes:
        raise ValueError(f"target={target!r}: must be one of {', '.join(map(str, trained.classes))}")
    x = (image if torch.is_tensor(image) else torch.from_numpy(np.array(image)))[None]
    p = trained.predict(x)[0]
    i = int(p.argmax()) if target is None else list(trained.classes).index(target)
    heat = grad_cam(trained.model, network_input(trained, x), i, layer)[0].float().cpu()
    fig = Figure(figsize=(5, 2.7*x.shape[2]/x.shape[3] + 0.3), layout='constrained', facecolor='white')
    titles = f'{trained.classes[i]}: {100*p[i]:.1f} %', 'where it sees that' if heat.any() else 'nothing speaks for it'
    for ax, what, title in zip(fig.subplots(1, 2), (_rgb(x[0]), overlay(x[0], heat)), titles):
        ax.imshow(what, interpolation='nearest')
        ax.set_axis_off()
        ax.set_title(title, fontsize=10)
    return fig


CARD = Card(
    tldr='Weigh the last maps of a network by how much each raises the score of a class, and lay their sum over the '
         'picture: it shows where the evidence lies.',
    when='Before you trust an accuracy: are the hot places on the object? After each epoch, on the same few images.',
    when_not='As proof. A map can lie on the object while the network reads the background; change the background and '
             'count. Where a map has few fields it cannot tell a small object from what is around it.',
    cost='One forward pass, and a backward pass through the layers after the map. No parameters, no training.',
    suggested='The last map of more than 1x1; an earlier one where that is too coarse. Look at shares over many '
              'images, not at single pictures (drawn shapes).',
    plays_well='masks of the object, pictures with the background exchanged, global average pooling (then it is exact)',
    plays_badly='dense layers that tell places apart after the map; images so small that the last map is 1x1',
    sources=('Selvaraju et al. 2016, arXiv 1610.02391', 'Adebayo et al. 2018, arXiv 1810.03292',
             'lesson 52 measures it (record gradcam)'))
