"""Reading a folder of large photographs: against a bare Pillow loop, its memory, and the second start.

    python scripts/bench/big_folder.py [--images 20000] [--size 224] [--weights timm/NAME] [--out FILE]

Draws a few hundred JPEGs of 1,600 x 1,200 (hard links make them many, so that disk and time are spared; the files lie
in the system's memory, so no disk is measured). Then, in turns on blocks of the folder, each block once by either:

- bare: a pool of processes, each of which opens a file with Pillow, lets the decoder shrink it (`draft` to no less than
  the resized picture), and cuts the middle and resizes it in one call, with the filter and the crop of the weights
  (`--weights ''`: the package's own rule, bilinear, the whole middle); nothing is kept
- ours: `read_folder` with the same framing, in as many threads: it finds, checks, decodes, splits and keeps the images

Reports the ratio of the speeds, by the clock and by processor seconds (on a busy machine only these mean something);
starting the processes counts in neither.
Then a new process reads the whole folder, and another one starts again and takes one epoch of batches: seconds, and the
peak of the resident memory, in which pages of the mapped file count as long as nobody else needs the memory.
"""
import argparse, json, multiprocessing, os, subprocess, sys, tempfile, time
from datetime import date
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BARS = dict(ratio=0.8, second_start=5, memory_gb=3)
CHILD = '''
import json, resource, sys, time
begun = time.perf_counter()
from cnn_tricks.data.image_folder import read_folder
start, used = time.perf_counter(), time.process_time()
data = read_folder(sys.argv[1], size=int(sys.argv[2]), framing=json.loads(sys.argv[4]))
out = dict(seconds=time.perf_counter() - start, cpu=time.process_time() - used, imports=start - begun,
           images=sum(map(len, data.parts.values())), bytes=data.nbytes)
out['peak_gb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
if sys.argv[3] == 'epoch':
    for x, y in data.loaders(64, normalize=False, device='cpu').train: pass
    out['peak_with_epoch_gb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
print(json.dumps(out))
'''


def photograph(seed, width=1600, height=1200):
    "Shapes at all scales and a little noise; as a JPEG of usual quality it has about 250 kB"
    rng, total = np.random.default_rng(seed), np.zeros((height, width, 3), np.float32)
    for k in (4, 12, 40, 150, 400):
        coarse = rng.normal(size=(k*3//4 + 1, k + 1, 3)).astype(np.float32)
        for c in range(3):
            fine = Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC)
            total[..., c] += np.asarray(fine)*40/k**0.35
    return Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))


def draw(folder, n, distinct, blocks):
    "`n` files in `blocks` folders of four classes each; the bytes of `distinct` ones"
    (folder/'drawn').mkdir()
    for i in range(distinct): photograph(i).save(folder/'drawn'/f'{i}.jpg', quality=88)
    for i in range(n):
        place = folder/'all'/f'class{i//blocks % 4}'/f'block{i % blocks}'
        place.mkdir(parents=True, exist_ok=True)
        try: os.link(folder/'drawn'/f'{i % distinct}.jpg', place/f'{i:06}.jpg')
        except OSError: (place/f'{i:06}.jpg').write_bytes((folder/'drawn'/f'{i % distinct}.jpg').read_bytes())
    for b in range(blocks):  # the same files, block by block
        for c in range(4):
            place = folder/f'block{b}'/f'class{c}'
            place.mkdir(parents=True)
            for f in (folder/'all'/f'class{c}'/f'block{b}').iterdir(): os.link(f, place/f.name)


def bare(task):
    "(shape of the result, processor seconds)"
    (path, size, (filter_, crop_pct, _)), began = task, time.process_time()
    with Image.open(path) as im:
        im.draft('RGB', (int(size/crop_pct),)*2)
        w, h = im.size
        side = min(w, h)*crop_pct
        box = (w - side)/2, (h - side)/2, (w + side)/2, (h + side)/2
        a = np.asarray(im.convert('RGB').resize((size, size), Image.Resampling[filter_.upper()], box=box))
    return a.shape, time.process_time() - began


def ours(folder, size, framing, read_folder):
    "(seconds, processor seconds)"
    clock, used = time.perf_counter(), time.process_time()
    read_folder(folder, size=size, progress=False, max_memory=0, framing=framing)
    return time.perf_counter() - clock, time.process_time() - used


def bare_loop(files, size, framing, workers):
    "(seconds, processor seconds of all processes)"
    tasks = [(f, size, framing or ('bilinear', 1, '')) for f in files]
    with multiprocessing.get_context('spawn').Pool(workers) as pool:
        pool.map(abs, range(workers), chunksize=1)  # the processes are there
        clock, used = time.perf_counter(), time.process_time()
        for shape, spent in pool.imap(bare, tasks, chunksize=16):
            assert shape == (size, size, 3)
            used -= spent
        return time.perf_counter() - clock, time.process_time() - used


def child(folder, size, what, framing):
    words = [sys.executable, '-c', CHILD, str(folder), str(size), what, json.dumps(framing)]
    out = subprocess.run(words, check=True, capture_output=True,
                         text=True, cwd=ROOT).stdout
    return {k: round(v, 3) for k, v in json.loads(out.splitlines()[-1]).items()}


def turns(folder, a, workers, framing, read_folder):
    "Seconds and processor seconds of both on each block; which comes first alternates"
    rows = []
    for b in range(a.blocks):
        block, row = folder/f'block{b}', {}
        files = sorted(map(str, block.rglob('*.jpg')))
        loops = dict(bare=lambda: bare_loop(files, a.size, framing, workers),
                     ours=lambda: ours(block, a.size, framing, read_folder))
        for name in sorted(loops, reverse=b % 2 == 0):
            row[name] = {k: round(v, 3) for k, v in zip(('seconds', 'cpu'), loops[name]())}
        rows.append(row | dict(images=len(files)))
        print(f'block {b + 1} of {a.blocks}: {row}', flush=True)
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--images', type=int, default=20_000)
    p.add_argument('--distinct', type=int, default=300)
    p.add_argument('--blocks', type=int, default=4)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--weights', default='timm/tf_efficientnet_lite0', help="whose framing is used; '': none")
    p.add_argument('--folder', help='where the files are drawn, and removed again (default: that of passing files)')
    p.add_argument('--out', type=Path, default=ROOT/'results'/'bench'/'big_folder.json')
    a = p.parse_args()
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        folder = Path(folder)
        os.environ['CNN_TRICKS_CACHE'] = str(folder/'cache')
        draw(folder, a.images, min(a.distinct, a.images), a.blocks)
        from cnn_tricks.data.image_folder import read_folder
        from cnn_tricks.nets.pretrained import pretrained
        framing = tuple(pretrained[a.weights]().preprocessing.framing) if a.weights else None
        workers = min(8, os.cpu_count() or 1)
        read_folder(folder/'block0', size=32, progress=False)  # what is imported late
        rows = turns(folder, a, workers, framing, read_folder)
        first, second = (child(folder/'all', a.size, what, framing) for what in ('once', 'epoch'))
    total = {f'{n}_{k}': sum(r[n][k] for r in rows) for n in ('bare', 'ours') for k in ('seconds', 'cpu')}
    ratio, ratio_cpu = (round(total[f'bare_{k}']/total[f'ours_{k}'], 3) for k in ('seconds', 'cpu'))
    res = dict(images=a.images, distinct=min(a.distinct, a.images), size=a.size, framing=framing, workers=workers,
               ratio=ratio, ratio_cpu=ratio_cpu, ms_an_image={k: round(1e3*v/a.images, 2) for k, v in total.items()},
               first=first, second=second, rows=rows, bars=BARS, cores=os.cpu_count(), pillow=PIL.__version__,
               load=[round(v, 1) for v in os.getloadavg()], date=date.today().isoformat())
    print(f'ratio {res["ratio"]} by the clock, {res["ratio_cpu"]} by processor seconds (bar: {BARS["ratio"]}); '
          f'peak {first["peak_gb"]:.2f} GB (bar: {BARS["memory_gb"]}); second start {second["seconds"]:.1f} s '
          f'(bar: {BARS["second_start"]}), with an epoch {second["peak_with_epoch_gb"]:.2f} GB')
    a.out.parent.mkdir(exist_ok=True, parents=True)
    a.out.write_text(json.dumps(res, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
