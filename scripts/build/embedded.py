"""Builds the embedded part of Fashion-MNIST (cnn_tricks/data/embedded) from the four official files.

    python scripts/build/embedded.py [--source DIR] [--out DIR] [--check [--exact]]

The official files are found in Debian's package dataset-fashion-mnist (/usr/share/datasets/fashion-mnist) or in DIR.
The same images are drawn whenever it is built, and with the same version of liblzma the files are the same to the byte.
--check draws the images and compares them with those in the file; --exact compresses them too, and compares bytes.
"""
import argparse, gzip, hashlib, json, lzma, sys
from pathlib import Path

import numpy as np

SEED = 1708
PER_CLASS = {'train': 1000, 'valid': 400, 'test': 400}
CLASSES = ['T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot']
FILES = {'train': ('train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz'),
         't10k': ('t10k-images-idx3-ubyte.gz', 't10k-labels-idx1-ubyte.gz')}
# measured on these images: filters (left, up and median predictors, planes and rows) made the file larger
XZ = [dict(id=lzma.FILTER_LZMA2, preset=9 | lzma.PRESET_EXTREME, lc=4, lp=0, pb=0)]


def read(folder, name):
    "The images and labels of one official part"
    images, labels = (gzip.decompress((folder/f).read_bytes()) for f in FILES[name])
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def draw(folder):
    "For each part, the indices into its official file, class by class: (10, images per class)"
    # bytes of SHA-256 in counter mode order the images: the same everywhere, whatever the library's version
    def key(part, i): return hashlib.sha256(f'{SEED}/{part}/{i}'.encode()).digest()
    picked = {}
    for part in FILES:
        y = read(folder, part)[1]
        picked[part] = [sorted(np.flatnonzero(y == c), key=lambda i: key(part, i)) for c in range(10)]
    n, v, t = PER_CLASS.values()
    return {'train': ('train', [p[:n] for p in picked['train']]),
            'valid': ('train', [p[n:n+v] for p in picked['train']]),
            'test': ('t10k', [p[:t] for p in picked['t10k']])}


def pixels(folder):
    "The bytes of all images, uncompressed"
    planes = [read(folder, part)[0][np.concatenate(idx)] for part, idx in draw(folder).values()]
    return np.concatenate(planes).tobytes()


def pack(folder, raw):
    "The two files' bytes: the compressed images and their description"
    packed = lzma.compress(raw, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=XZ)
    sources = {f: hashlib.sha256(gzip.decompress((folder/f).read_bytes())).hexdigest() for fs in FILES.values() for f in fs}
    about = dict(name='Fashion-MNIST (a part)', shape=[1, 28, 28], classes=CLASSES, per_class=PER_CLASS, seed=SEED,
                 order='train, valid, test; in each, class by class', sha256=hashlib.sha256(packed).hexdigest(),
                 sha256_unpacked=hashlib.sha256(raw).hexdigest(), source='https://github.com/zalandoresearch/fashion-mnist',
                 source_sha256_unpacked=sources, licence='MIT, see LICENSE-fashion-mnist',
                 cite='Xiao, Rasul, Vollgraf (2017): Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine '
                      'Learning Algorithms. arXiv:1708.07747')
    return {'fashion.xz': packed, 'fashion.json': (json.dumps(about, indent=1) + '\n').encode()}


def main():
    here = Path(__file__).resolve().parents[2]/'cnn_tricks'/'data'/'embedded'
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--source', type=Path, default=Path('/usr/share/datasets/fashion-mnist'), metavar='DIR')
    p.add_argument('--out', type=Path, default=here, metavar='DIR')
    p.add_argument('--check', action='store_true', help='compare with the files in --out instead of writing them')
    p.add_argument('--exact', action='store_true', help='with --check: compare the compressed files, byte by byte')
    a = p.parse_args()
    missing = [f for fs in FILES.values() for f in fs if not (a.source/f).exists()]
    if missing: sys.exit(f'{a.source} lacks {", ".join(missing)}: apt install dataset-fashion-mnist, or give --source')
    raw = pixels(a.source)
    if a.check and lzma.decompress((a.out/'fashion.xz').read_bytes()) != raw: sys.exit('the images differ from a fresh draw')
    if a.check: print(f'{len(raw)//784:,} images: the same')
    if a.check and not a.exact: return
    for name, data in pack(a.source, raw).items():
        if not a.check:
            a.out.mkdir(parents=True, exist_ok=True)
            (a.out/name).write_bytes(data)
        elif (a.out/name).read_bytes() != data: sys.exit(f'{a.out/name} differs from a fresh build')
        print(f'{name}: {len(data):,} bytes, {"the same" if a.check else "written"}')


if __name__ == '__main__': main()
