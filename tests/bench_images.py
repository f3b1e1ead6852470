"A small bench for tests: each image carries its number, so that it can be told where it was used."
import os, sys

import torch

from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.measure.benches import Bench

recipes.register('bench_small', Recipe(network='plain', network_args={'widths': [4, 8]}, optimizer='adamw',
                                       optimizer_args={'weight_decay': 0.01}, lr=0.01, schedule='one_cycle', batch_size=16))


def _part(first, n):
    "Images of three classes, told apart by brightness and noise; the first two bytes hold the image's number."
    ids = torch.arange(first, first + n)
    y = ids % 3
    x = torch.randint(0, 120, (n, 1, 8, 8), generator=torch.Generator().manual_seed(first)) + 35*y[:, None, None, None]
    x[:, 0, 0, 0], x[:, 0, 0, 1] = ids // 256, ids % 256
    return Part(x.to(torch.uint8), y)


def images():
    "240 to draw from, 90 to judge."
    pool = _part(0, 240)
    return ImageData(pool, pool[:0], _part(1000, 90), ('dark', 'grey', 'light'), 'numbered')


def numbers(part): return {int(i) for i in part.x[:, 0, 0, 0].int()*256 + part.x[:, 0, 0, 1].int()}


def small(**kw):
    return Bench(**dict(name='small', base='bench_small', images=images, valid=60,
                        lengths={1: ('label_smoothing', 'sgd'), 3: ('label_smoothing',)}, middle=1, delta=0.05,
                        target=0.6, seeds=2, tuning_seeds=(100, 101)) | kw)


def _serve(run):
    "Forks, for each file that stdin names, a process that runs the bench: without seconds of imports. Says its id, its end."
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(bench(), line.strip(), device='cpu')
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == '__main__': # python bench_images.py [FILE]: serve, or run it with two processes beside; to be killed
    from bench_images import small as bench # under the name by which a process beside this one finds it
    from cnn_tricks.measure.bench_driver import run_bench
    if sys.argv[1:]: run_bench(bench(), sys.argv[1], jobs=2, device='cpu')
    else: _serve(run_bench)
