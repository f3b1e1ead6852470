"""Trains the small networks that lesson 25 starts from, and writes their weights into cnn_tricks/data/embedded.

    python scripts/build/pretrained.py              # both: about 3 minutes on 1 thread
    python scripts/build/pretrained.py rotation     # one of them
    python scripts/build/pretrained.py --quick      # few steps, into build/quick/: to try the script

`fashion`: the labels of six classes of Fashion-MNIST. `rotation`: by how many quarter turns an image of the same six
classes was turned; no label is read. The other four classes (Coat, Sandal, Shirt, Ankle boot) are the lesson's target
and were fixed beforehand: no image of theirs is used here. The images are the 6,000 of each class in the official
training part. Each image is mirrored, turned, moved and scaled a little, anew every time.

The weights are kept as float16 without the last layer. With the same versions and number of threads (one) they come
out the same; the sha256 of the file stands in the description beside it.
"""
import argparse, hashlib, json, os, sys, time, warnings
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'  # before torch is imported: sums come out the same
warnings.filterwarnings('ignore')

import torch
import torch.nn.functional as F
from safetensors.torch import save

from cnn_tricks.data.datasets import fashion_mnist
from cnn_tricks.data.loaders import flip
from cnn_tricks.nets.networks import networks
from cnn_tricks.core.recipe import Recipe, Trick, Card, trick
from cnn_tricks.core.train import train
from cnn_tricks.tricks.transfer import SOURCE, TARGET, rotation_task

ROOT = Path(__file__).resolve().parents[2]
NETWORK = dict(network='resnet', network_args={'blocks': [0, 1, 1]})
STEPS, SEED = 2000, 25


def warp(degrees=20, move=.15, low=.85, high=1.1):
    "An augmentation: turn, move (in halves of the side) and scale each image by random amounts"
    def warp_batch(x, y, generator=None):
        turn, dx, dy, size = torch.rand(4, len(x), generator=generator)
        angle, size = torch.deg2rad((2*turn - 1)*degrees), low + (high - low)*size
        c, s, zero = angle.cos()/size, angle.sin()/size, 2*move
        theta = torch.stack([c, -s, (dx - .5)*zero, s, c, (dy - .5)*zero], 1).view(-1, 2, 3)
        return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False), y
    return warp_batch


@trick('pretraining_views', Card(tldr='Mirrored, turned, moved and scaled.', when='In this script.', when_not='-',
                                 cost='-', suggested='-'))
class Views(Trick):
    "What is done to each image"
    mirror: bool = True # also mirrored

    def loaders(self, dls):
        for f in ([flip()] if self.mirror else []) + [warp()]: dls.train.add_augment(f)
        return dls


def pretrain(task, steps):
    "The trained network's weights without its head, and its accuracy on test images of the task"
    data = fashion_mnist().take_classes(SOURCE)
    if task == 'rotation': data = rotation_task(data)
    recipe = Recipe(**NETWORK, steps=steps, batch_size=128, optimizer='adamw', lr=0.01, schedule='one_cycle',
                    channels_last=True) + Views()
    result = train(recipe, data.subset(1200, parts=('valid',)), SEED, progress=sys.stdout.isatty(), device='cpu')
    weights = {k: v.contiguous().half() if v.is_floating_point() else v for k, v in
               result.trained.model.state_dict().items() if not k.startswith('head.')}
    return weights, result.test(), data


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help='fashion, rotation; none: both')
    p.add_argument('--quick', action='store_true', help='20 steps, into build/quick/')
    a = p.parse_args()
    if unknown := set(a.names) - {'fashion', 'rotation'}: p.error(f'unknown: {", ".join(sorted(unknown))}')
    folder = ROOT/('build/quick' if a.quick else 'cnn_tricks/data/embedded')
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name in a.names or ('fashion', 'rotation'):
        start, steps = time.perf_counter(), 20 if a.quick else STEPS
        weights, accuracy, data = pretrain(name, steps)
        packed = save(weights)
        about = dict(name=name, task='six classes' if name == 'fashion' else 'quarter turns, no labels', **NETWORK,
                     channels=1, size=28, classes=list(SOURCE), not_used=list(TARGET), images=len(data.train),
                     steps=steps, batch_size=128, seed=SEED, test_accuracy=round(accuracy, 4),
                     torch=torch.__version__.split('+')[0], sha256=hashlib.sha256(packed).hexdigest(),
                     source='Fashion-MNIST, official training part', licence='MIT, see LICENSE-fashion-mnist')
        (folder/f'pretrained_{name}.safetensors').write_bytes(packed)
        (folder/f'pretrained_{name}.json').write_text(json.dumps(about, indent=1) + '\n', encoding='utf-8')
        print(f'{name}: {len(packed):,} bytes, {accuracy:.1%} on its own test images, '
              f'{time.perf_counter() - start:.0f} s')


if __name__ == '__main__': main()
