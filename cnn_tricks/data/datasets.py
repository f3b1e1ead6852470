"""Data sets by name: a small one within the package, others from the network or this disk"""
import gzip, hashlib, json, lzma, math, os, zlib
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from ..base.registry import Registry
from .cache import cache_dir
from .download import DownloadError, download
from .image_folder import read_files
from .images import ImageData, Part

__all__ = ['datasets', 'embedded', 'embedded_test', 'fashion_mnist', 'cifar10', 'imagenette', 'pets']


datasets = Registry('data set')


@cache
def _embedded():
    folder = files('cnn_tricks.data.embedded')
    about, packed = json.loads((folder/'fashion.json').read_text(encoding='utf-8')), (folder/'fashion.xz').read_bytes()
    if hashlib.sha256(packed).hexdigest() != about['sha256']:
        raise RuntimeError(f'the embedded data is damaged ({folder/"fashion.xz"}): install cnn_tricks again')
    images, shape = np.frombuffer(lzma.decompress(packed), np.uint8), about['shape']
    parts, start = [], 0
    for n in about['per_class'].values():
        k = 10*n*math.prod(shape)
        # stored class by class; handed out in turns, so that every slice of ten holds every class
        x = images[start:start + k].reshape(10, n, *shape).swapaxes(0, 1).reshape(-1, *shape)
        parts.append(Part(torch.from_numpy(x.copy()), torch.arange(10).repeat(n)))
        start += k
    return ImageData(*parts, classes=about['classes'], name='Fashion-MNIST (a part)')


@datasets.register('embedded')
def embedded() -> ImageData:
    """The part of Fashion-MNIST in the package: 10,000 train, 4,000 valid and 4,000 test images; read once

    Source: Xiao, Rasul and Vollgraf 2017, section 2. `RuntimeError` where the file in the package is damaged.
    """
    return _embedded()


_fashion = {  # SHA-256 of the unpacked files
    'train-images-idx3-ubyte': 'c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888',
    'train-labels-idx1-ubyte': 'bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9',
    't10k-images-idx3-ubyte': '5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b',
    't10k-labels-idx1-ubyte': '0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34'}
_debian = Path('/usr/share/datasets/fashion-mnist')  # Debian's package dataset-fashion-mnist
_mirrors = ['http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',
            'https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/']


def _unpacked(path):
    "The bytes of a file that may be packed; None where it is damaged"
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if data[:2] == b'\x1f\x8b' else data
    except (OSError, EOFError, zlib.error): return None


def _local():
    "The folder that `CNN_TRICKS_DATA` names, or None"
    return Path(os.environ['CNN_TRICKS_DATA']).expanduser() if os.environ.get('CNN_TRICKS_DATA') else None


def _right(name, path): return hashlib.sha256(_unpacked(path) or b'').hexdigest() == _fashion[name]


def _fashion_file(name):
    "The bytes of one of the four files: found locally, else downloaded"
    homes = [cache_dir()/'fashion-mnist', _debian]
    if d := _local(): homes = [d, d/'fashion-mnist', d/'FashionMNIST'/'raw', *homes]
    for path in (h/n for h in homes for n in (f'{name}.gz', name)):
        if path.is_file() and _right(name, path): return _unpacked(path)
    advice = 'with a network, try again; without one, put the four files into a folder and name it in CNN_TRICKS_DATA'
    return _unpacked(download([m + f'{name}.gz' for m in _mirrors], cache_dir()/'fashion-mnist'/f'{name}.gz',
                              lambda p: _right(name, p), advice))


def embedded_test(y: torch.Tensor,  # The labels of the 10,000 official test images, in their order
                  ) -> torch.Tensor:  # int64 (4,000,), ascending
    "Which of the official test images the embedded part has: as `scripts/build/embedded.py` drew them, by SHA-256"
    about = json.loads((files('cnn_tricks.data.embedded')/'fashion.json').read_text(encoding='utf-8'))
    def key(i): return hashlib.sha256(f'{about["seed"]}/t10k/{i}'.encode()).digest()
    picked = [sorted((y == c).nonzero()[:, 0].tolist(), key=key)[:about['per_class']['test']] for c in range(10)]
    return torch.tensor(sorted(i for of_class in picked for i in of_class))


@datasets.register('fashion_mnist')
def fashion_mnist(valid: int = 10_000,  # Images of the official training part to validate on
                  seed: int = 0,  # Of that split
                  unread: bool = False,  # Only the 6,000 test images that the embedded part leaves out?
                  ) -> ImageData:
    """The full Fashion-MNIST: its 60,000 training images, split, and 10,000 test images; downloaded if not found

    `DownloadError` where it is neither found nor can be downloaded.
    """
    def part(name):
        x = np.frombuffer(_fashion_file(f'{name}-images-idx3-ubyte'), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        y = np.frombuffer(_fashion_file(f'{name}-labels-idx1-ubyte'), np.uint8, offset=8)
        return Part(torch.from_numpy(x.copy()), torch.from_numpy(y.astype(np.int64)))
    train, test = part('train'), part('t10k')
    if unread:
        known = torch.zeros(len(test), dtype=torch.bool).index_fill_(0, embedded_test(test.y), True)
        test = test[(~known).nonzero()[:, 0]]
    return ImageData(train, train[:0], test, embedded().classes, 'Fashion-MNIST').split(valid, seed)


def _ask(what, fetch):
    "What `fetch` returns; where it fails for want of a network, one line that says what to do"
    try: return fetch()
    except (OSError, RuntimeError) as e:
        raise DownloadError(f'{what} is neither in {_local() or "CNN_TRICKS_DATA (which is not set)"} nor could it be '
                            f'downloaded ({e}): with a network, try again; without one, put it there') from None


def _cifar10_folders():
    "CIFAR-10 as `train` and `test` folders of its ten classes, named by `CNN_TRICKS_DATA` or in it; None"
    homes = [d/'cifar10', d] if (d := _local()) else []
    root = next((h for h in homes if all((h/part/'airplane').is_dir() for part in ('train', 'test'))), None)
    if root is None: return None
    found = [(part, c.name, str(p)) for part in ('train', 'test') for c in sorted((root/part).iterdir())
             for p in sorted(c.iterdir())]
    d = read_files(found, str(root), 32, layout=('train', 'test'))
    kinds = ' and '.join(sorted({Path(p).suffix.lstrip('.').upper().replace('JPG', 'JPEG') for *_, p in found}))
    notes = [n for n in d.notes if 'drawn from' not in n and 'valid part' not in n] # on a split that is made anew
    return replace(d, name=f'CIFAR-10 ({kinds} copies)', train=d.train.join(d.valid), valid=d.valid[:0], notes=notes)


@datasets.register('cifar10')
def cifar10(valid: int = 5_000,  # Images of the official training part to validate on
            seed: int = 0,  # Of that split
            ) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009), 32 x 32 in colour: torchvision's files, whose checksum it tests, or class folders

    Folders are `train/CLASS` and `test/CLASS` in `CNN_TRICKS_DATA`, or in its folder `cifar10`; the name says that
    the images are copies of that kind. `DownloadError` where nothing is found and nothing can be downloaded.
    """
    CIFAR10 = import_module('torchvision.datasets').CIFAR10
    roots = [r for r in (_local(), cache_dir()) if r and (r/CIFAR10.base_folder).is_dir()]
    if not roots and (copies := _cifar10_folders()): return copies.split(valid, seed)
    def part(train):
        d = _ask('CIFAR-10', lambda: CIFAR10(roots[0] if roots else cache_dir(), train, download=not roots))
        return Part(torch.from_numpy(d.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(d.targets)), d.classes
    (train, classes), (test, _) = part(True), part(False)
    return ImageData(train, train[:0], test, classes, 'CIFAR-10').split(valid, seed)


def _untar(name, url):
    "The folder of one of fastai's data sets: `name` in `CNN_TRICKS_DATA`, else fastai's own, downloaded where it lacks"
    if (d := _local()) and (d/name).is_dir(): return d/name
    external = import_module('fastai.data.external')
    return _ask(f'the folder {name!r}', lambda: external.untar_data(getattr(external.URLs, url)))


@datasets.register('imagenette')
def imagenette(size: int = 64,  # Pixels: both sides
               ) -> ImageData:
    "Ten easy classes of ImageNet, from its 160-pixel version; its own validation images are the test part here"
    root = _untar('imagenette2-160', 'IMAGENETTE_160')
    files = sorted(root.glob('*/*/*.JPEG'))
    found = [('test' if p.parts[-3] == 'val' else 'train', p.parts[-2], str(p)) for p in files]
    return read_files(found, str(root), size, layout=('train', 'test'))


@datasets.register('pets')
def pets(size: int = 64,  # Pixels: both sides
         ) -> ImageData:
    "37 breeds of cats and dogs (Parkhi et al. 2012); the official trainval and test lists"
    root, found = _untar('oxford-iiit-pet', 'PETS'), []
    for part, name in (('train', 'trainval'), ('test', 'test')):
        names = [line.split()[0] for line in (root/'annotations'/f'{name}.txt').read_text().splitlines()]
        found += [(part, n.rsplit('_', 1)[0], str(root/'images'/f'{n}.jpg')) for n in names]
    return read_files(found, str(root), size, layout=('train', 'test'))
