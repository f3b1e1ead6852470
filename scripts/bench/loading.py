"""How fast images come: this package's loader against fastai's file pipeline, with the same flip and shift.

    python scripts/bench/loading.py [--repeats 5] [--batch 64 512] [--out results/bench/loading.json]

Both load, augment and normalise an epoch of the embedded training images in this process, in turns, with the same
number of threads. fastai reads them from PNG files, through its DataBlock, without worker processes, in two variants:
flip and shift done on each picture, or the flip on each batch; the faster one is compared. Reports medians as ratios.
"""
import argparse, json, os, statistics, tempfile, time, warnings
from datetime import date
from pathlib import Path

warnings.filterwarnings('ignore')
import fastai, torch, torchvision
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import Normalize, RandomSplitter, get_image_files, parent_label
from fastai.vision.augment import CropPad, Flip, FlipItem, RandomCrop
from fastai.vision.core import PILImageBW
from fastai.vision.data import ImageBlock
from torchvision.transforms.functional import to_pil_image

from cnn_tricks.data.datasets import embedded
from cnn_tricks.data.loaders import flip, shift

BAR = 50


def write_files(part, folder):
    "The images of `part` as PNG files in class folders"
    for i, (image, label) in enumerate(zip(part.x, part.y.tolist())):
        (folder/str(label)).mkdir(exist_ok=True)
        to_pil_image(image).save(folder/str(label)/f'{i:05}.png')


def file_loaders(folder, data, batch_size):
    "fastai's loader of the files, the flip on pictures or on batches; the shift pads by 2 pixels and crops at random"
    for name, items, batches in (('pictures', [FlipItem(0.5)], []), ('batches', [], [Flip(0.5)])):
        normalize = Normalize.from_stats(data.mean.tolist(), data.std.tolist(), cuda=False)
        block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_items=get_image_files, get_y=parent_label,
                          splitter=RandomSplitter(0, seed=0), item_tfms=[CropPad(32), RandomCrop(28), *items],
                          batch_tfms=[*batches, normalize])
        yield f'fastai, flip on {name}', block.dataloaders(folder, bs=batch_size, num_workers=0, device='cpu').train


def rate(loader):
    "Images per second of one epoch"
    n, start = 0, time.perf_counter()
    for x, y in loader: n += len(y)
    assert x.shape[1:] == (1, 28, 28) and x.dtype == torch.float32
    return n/(time.perf_counter() - start)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--batch', type=int, nargs='+', default=[64, 512])
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parents[2]/'results'/'bench'/'loading.json')
    a = p.parse_args()
    data, rows = embedded(), []
    with tempfile.TemporaryDirectory() as folder:
        write_files(data.train, Path(folder))
        for batch_size in a.batch:
            loaders = dict(file_loaders(Path(folder), data, batch_size))
            loaders['cnn_tricks'] = data.loaders(batch_size, augment=(flip(), shift()), device='cpu').train
            rates = {name: [] for name in loaders}
            for dl in loaders.values(): next(iter(dl))  # warm up
            for _ in range(a.repeats):
                for name, dl in loaders.items():
                    rates[name] += [rate(dl) for _ in range(5 if name == 'cnn_tricks' else 1)]
            medians = {name: statistics.median(r) for name, r in rates.items()}
            ours = medians.pop('cnn_tricks')
            best = max(medians, key=medians.get)
            rows.append(dict(batch_size=batch_size, ratio=round(ours/medians[best], 1), against=best,
                             cnn_tricks=round(ours), files=round(medians[best]), **{k: round(v) for k, v in medians.items()}))
            print(f'batch {batch_size}: {ours/medians[best]:.0f} times the images per second '
                  f'({ours:,.0f} against {medians[best]:,.0f}, {best}); bar: {BAR}')
    about = dict(threads=torch.get_num_threads(), cores=len(os.sched_getaffinity(0)), torch=torch.__version__.split('+')[0],
                 torchvision=torchvision.__version__.split('+')[0], fastai=fastai.__version__, date=date.today().isoformat(),
                 repeats=a.repeats, images=len(data.train), bar=BAR)
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text(json.dumps(dict(rows=rows, **about), indent=1) + '\n')


if __name__ == '__main__': main()
