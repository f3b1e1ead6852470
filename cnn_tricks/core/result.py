"""What a run gives back: the network with what it needs to predict, and the figures of its training"""
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_save

from .. import __version__
from ..base.files import atomic_write
from ..base.machine import Machine
from ..data.framing import as_framing
from ..data.images import ImageData, Part
from ..data.loaders import ImageLoader
from ..nets.networks import networks
from .fitting import random_kept
from .metrics import metrics
from .plan import plan
from .recipe import Recipe

__all__ = ['images_at_once', 'build_network', 'Trained', 'load_trained', 'Result', 'smoothed']


def images_at_once(
    size:tuple # (height, width) in pixels
)->int: # 256 up to 64 x 64 pixels, fewer of larger ones, at least 16
    "How many images go through a network at once where nothing is learned: their maps have to fit in memory"
    return max(16, min(256, 2**20//(size[0]*size[1])))


def build_network(
    recipe:Recipe, # of a `RunPlan`: names the network, its arguments, its tricks and its memory layout
    in_channels:int, # channels of the images
    n_classes:int, # outputs
    size:tuple, # (height, width) of the images in pixels
    start:bool=True # False: only the layers, for weights that are loaded afterwards
): # -> `nn.Module`
    """The recipe's network, with each trick's layers and, to start a training, its weights, trick by trick.

    Weights come from torch's global random state. `ValueError` where a trick finds nothing that it could change.
    """
    m = networks[recipe.network](in_channels, n_classes, size, **recipe.network_args)
    for t in recipe.tricks:
        m = t.structure(m)
        if start: m = t.initialise(m)
    return m.to(memory_format=torch.channels_last) if recipe.channels_last else m


@dataclass
class Trained:
    "A trained network and what it has to know of new images: classes, size, normalisation"
    model:torch.nn.Module # in eval mode
    recipe:Recipe # that made it
    classes:list # class names, in the order of the outputs
    channels:int # of the images: 1 or 3
    size:tuple # (height, width) in pixels
    mean:list # per channel, in [0, 1] units
    std:list # per channel, in [0, 1] units
    ranges:dict = field(default_factory=lambda: {'16': 65535, '32': 65535}) # see `ImageData`
    framing:tuple|None = None # how files come to their size: see `ImageData`

    def __post_init__(self): self.framing = as_framing(self.framing)

    @torch.no_grad()
    @random_kept()
    def predict(self,
        x:torch.Tensor # uint8 (N, C, H, W), of the channels and size trained on; else `ValueError`
    )->torch.Tensor: # float32 (N, classes); each row sums to 1
        "Class probabilities of a batch of images"
        want = (self.channels, *self.size)
        if tuple(x.shape[1:]) != want or x.dtype != torch.uint8:
            raise ValueError(f'x is {x.dtype} {tuple(x.shape)}: must be uint8 (N, {", ".join(map(str, want))})')
        if not len(x): return torch.zeros(0, len(self.classes))
        part, device = Part(x, torch.zeros(len(x), dtype=torch.int64)), next(self.model.parameters()).device
        std = torch.tensor([s or 1. for s in self.std]) # as in training: a channel that never varies is not divided
        mean = torch.tensor(self.mean)
        dl = ImageLoader(part, images_at_once(self.size), mean=mean, std=std, channels_last=self.recipe.channels_last,
                         device=device)
        was, _ = self.model.training, self.model.eval()
        try: return torch.cat([self.model(xb).softmax(1).cpu() for xb, _ in dl])
        finally: self.model.train(was)

    def save(self,
        folder:Path # created if missing
    ):
        "Write `model.safetensors` and `recipe.json`, each whole or not at all; `OSError` where that fails"
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        with atomic_write(folder/'model.safetensors') as f: f.write(safetensors_save(weights))
        about = {k: getattr(self, k) for k in ('classes', 'channels', 'size', 'mean', 'std', 'ranges', 'framing')}
        about = {'recipe': self.recipe.to_dict(), 'data': about, 'cnn_tricks': __version__}
        with atomic_write(folder/'recipe.json') as f: f.write(json.dumps(about, indent=2).encode())


def load_trained(
    folder:Path, # what `save` wrote, or its `model.safetensors`
    device='cpu' # where to put the network
)->Trained: # ready to predict
    """Load a trained network; nothing in the files is executed, and no weights but those of the folder are read.

    `FileNotFoundError` where a file is missing, `ValueError` for a recipe that cannot be made here.
    """
    folder = Path(folder)
    folder = folder.parent if folder.is_file() else folder
    for name in ('recipe.json', 'model.safetensors'):
        if not (folder/name).is_file():
            raise FileNotFoundError(f'{folder} holds no {name}: give the folder that a training run wrote')
    d = json.loads((folder/'recipe.json').read_text(encoding='utf-8-sig'))
    recipe, about = Recipe.from_dict(d['recipe']), d['data']
    size = tuple(about['size'])
    with torch.random.fork_rng():
        net = build_network(plan(recipe).recipe, about['channels'], len(about['classes']), size, start=False)
    net.load_state_dict(load_file(folder/'model.safetensors'))
    return Trained(net.to(device).eval(), recipe, **about | {'size': size})


@dataclass
class Result:
    "A finished (or stopped) run: the trained network and everything recorded on the way"
    recipe:Recipe # as it was given
    trained:Trained # the network, ready to predict
    data:ImageData # what it was trained on
    seed:int # the run's seed
    steps:int # optimiser steps done
    seconds:float # seconds of training, validation left out
    history:list # one dict per validation: epoch, step, seconds, train_loss, valid_loss, accuracy
    lrs:list # learning rate of each step, as the optimiser used it
    losses:list # training loss of each step
    machine:Machine # where it ran
    finished:bool = True # False where it was stopped before its budget ended
    test_reads:int = 0 # how often `test` has read the test part
    chosen:dict = field(default_factory=dict) # what was measured and not given, by callback: plain values

    @property
    def accuracy(self): # -> float in [0, 1]; nan without a validation
        "Accuracy on the validation part after the last step"
        return self.history[-1]['accuracy'] if self.history else float('nan')

    @property
    def step_seconds(self): # -> float
        "Mean seconds of a training step"
        return self.seconds / max(self.steps, 1)

    def score(self,
        metric:str='accuracy' # a name in `metrics`: 'accuracy', 'balanced_accuracy', 'macro_f1'
    ): # -> float in [0, 1]; nan without validation images
        "A score on the validation part, of the trained network; `accuracy` is that of the last validation"
        measure = metrics[metric] # an unknown name raises
        return self.accuracy if metric == 'accuracy' else measure(self.confusion())

    def test(self,
        metric:str='accuracy' # a name in `metrics`
    ): # -> float in [0, 1]
        "A score on the test part: to be read once, after every choice is made; `test_reads` counts"
        measure = metrics[metric] # an unknown name raises
        self.test_reads += 1
        return measure(self.confusion(self.data.test))

    def confusion(self,
        part:Part=None # None: the validation part
    ): # -> int64 (classes, classes)
        "How often class `i` (row) was taken for class `j` (column); the validation part is predicted once and kept"
        part, n = self.data.valid if part is None else part, self.data.n_classes
        valid, model = part is self.data.valid, self.trained.model
        before, kept = self.__dict__.get('_kept', (None, None))
        if valid and before is model: return kept.clone()
        pred = self.trained.predict(part.x).argmax(1)
        found = torch.bincount(part.y.cpu() * n + pred, minlength=n * n).view(n, n)
        if valid: self.__dict__['_kept'] = model, found
        return found.clone()

    def time_to(self,
        target:float # accuracy in [0, 1]
    ): # -> seconds of training, or None if never reached
        "Seconds of training until a validation first reached `target`"
        return next((h['seconds'] for h in self.history if h['accuracy'] >= target), None)

    def metrics(self): # -> dict of plain values
        "The record of the run as plain values, for `metrics.json`"
        keep = 'seed', 'steps', 'seconds', 'finished', 'test_reads', 'history', 'lrs', 'losses', 'chosen'
        scores = {m: self.score(m) for m in metrics}
        return {**scores, **{k: getattr(self, k) for k in keep}, 'machine': asdict(self.machine),
                'data': {'name': self.data.name, 'fingerprint': self.data.fingerprint}, 'cnn_tricks': __version__}

    def save(self,
        folder:Path # created if missing
    ):
        "Write `model.safetensors`, `recipe.json` and `metrics.json`; `OSError` where that fails"
        self.trained.save(folder)
        with atomic_write(Path(folder)/'metrics.json') as f: f.write(json.dumps(self.metrics(), indent=1).encode())

    def plot(self,
        axs=None # two matplotlib axes; None: new ones
    ): # -> the axes
        "Loss and learning rate per step; accuracy against seconds of training"
        axs = plt.subplots(1, 2, figsize=(9, 3), layout='constrained')[1] if axs is None else axs
        h, ax = self.history, axs[0]
        ax.plot(smoothed(self.losses), label='training, smoothed')
        ax.plot([r['step'] for r in h], [r['valid_loss'] for r in h], 'o--', label='validation')
        ax.set(xlabel='step', ylabel='loss (nats)')
        twin = ax.twinx()
        twin.plot(self.lrs, color='0.6', lw=1)
        twin.set(ylabel='learning rate (grey)', ylim=(0, None))
        ax.legend()
        axs[1].plot([r['seconds'] for r in h], [100*r['accuracy'] for r in h], 'o-')
        axs[1].set(xlabel='seconds of training', ylabel='validation accuracy (%)')
        return axs


def smoothed(
    values:list, # the loss of each step, say
    beta:float=0.95 # weight of what was before, in [0, 1)
)->list: # as long as `values`
    "Their exponential average, without the bias towards 0 of its first values"
    out, avg = [], 0.
    for i, v in enumerate(values):
        avg = beta * avg + (1 - beta) * v
        out.append(avg / (1 - beta**(i + 1)))
    return out
