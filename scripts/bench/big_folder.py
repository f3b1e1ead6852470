"""Reading a folder of large photographs: against a bare Pillow loop, its memory, and the second start.

    python scripts/bench/big_folder.py [--images 20000] [--size 224] [--out results/bench/big_folder.json]

Draws a few hundred JPEGs of 1,600 x 1,200 (hard links make them many, so that disk and time are spared; the files lie in
the system's memory, so no disk is measured). Then, in turns on blocks of the folder, each block once by either:

- bare: a pool of processes, each of which opens a file with Pillow, lets the decoder shrink it (`draft` to the size that
  is wanted), cuts the middle and resizes it; nothing is kept
- ours: `read_folder`, in as many threads: it finds, checks, decodes, splits and keeps the images

Reports the ratio of the speeds, by the clock and by processor seconds (on a busy machine only these mean something).
Then a new process reads the whole folder, and another one starts again and takes one epoch of batches: seconds, and the
peak of the resident memory, in which pages of the mapped file count as long as nobody else needs the memory.
"""
import argparse, json, multiprocessing, os, resource, subprocess, sys, tempfile, time
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
data = read_folder(sys.argv[1], size=int(sys.argv[2]))
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
    path, size = task
    with Image.open(path) as im:
        im.draft('RGB', (size, size))
        w, h = im.size
        side = min(w, h)
        box = (w - side)/2, (h - side)/2, (w + side)/2, (h + side)/2
        return np.asarray(im.convert('RGB').resize((size, size), Image.Resampling.BILINEAR, box=box)).shape


def processor_seconds():
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def timed(f):
    clock, used = time.perf_counter(), processor_seconds()
    f()
    return time.perf_counter() - clock, processor_seconds() - used


def bare_loop(files, size, workers):
    with multiprocessing.get_context('spawn').Pool(workers) as pool:
        pool.map(abs, range(workers), chunksize=1)  # the processes are there
        start = time.perf_counter()
        for shape in pool.imap(bare, [(f, size) for f in files], chunksize=16): assert shape == (size, size, 3)
        seconds = time.perf_counter() - start
        pool.close()
        pool.join()
    return seconds


def child(folder, size, what):
    out = subprocess.run([sys.executable, '-c', CHILD, str(folder), str(size), what], check=True, capture_output=True,
                         text=True, cwd=ROOT).stdout
    return {k: round(v, 3) for k, v in json.loads(out.splitlines()[-1]).items()}


def turns(folder, a, workers, read_folder):
    "Seconds and processor seconds of both on each block; which comes first alternates"
    rows = []
    for b in range(a.blocks):
        block, row = folder/f'block{b}', {}
        files = sorted(map(str, block.rglob('*.jpg')))

        def run_bare():
            nonlocal inside
            inside = bare_loop(files, a.size, workers)
        for name in ('bare', 'ours')[::1 if b % 2 else -1]:
            inside = None
            f = run_bare if name == 'bare' else lambda: read_folder(block, size=a.size, progress=False, max_memory=0)
            seconds, used = timed(f)
            row[name] = dict(seconds=round(inside or seconds, 3), cpu=round(used, 3))
        rows.append(row | dict(images=len(files)))
        print(f'block {b + 1} of {a.blocks}: {row}', flush=True)
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--images', type=int, default=20_000)
    p.add_argument('--distinct', type=int, default=300)
    p.add_argument('--blocks', type=int, default=4)
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--folder', help='where the files are drawn, and removed again (default: the folder for passing files)')
    p.add_argument('--out', type=Path, default=ROOT/'results'/'bench'/'big_folder.json')
    a = p.parse_args()
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        folder = Path(folder)
        os.environ['CNN_TRICKS_CACHE'] = str(folder/'cache')
        draw(folder, a.images, min(a.distinct, a.images), a.blocks)
        from cnn_tricks.data.image_folder import read_folder
        workers = min(8, os.cpu_count() or 1)
        timed(lambda: read_folder(folder/'block0', size=32, progress=False))  # what is imported late
        rows = turns(folder, a, workers, read_folder)
        first, second = (child(folder/'all', a.size, what) for what in ('once', 'epoch'))
    total = {f'{n}_{k}': sum(r[n][k] for r in rows) for n in ('bare', 'ours') for k in ('seconds', 'cpu')}
    res = dict(images=a.images, distinct=min(a.distinct, a.images), size=a.size, workers=workers,
               ratio=round(total['bare_seconds']/total['ours_seconds'], 3), ratio_cpu=round(total['bare_cpu']/total['ours_cpu'], 3),
               ms_an_image={k: round(1e3*v/a.images, 2) for k, v in total.items()}, first=first, second=second, rows=rows,
               bars=BARS, cores=os.cpu_count(), pillow=PIL.__version__, load=[round(v, 1) for v in os.getloadavg()],
               date=date.today().isoformat())
    print(f'ratio {res["ratio"]} by the clock, {res["ratio_cpu"]} by processor seconds (bar: {BARS["ratio"]}); '
          f'peak {first["peak_gb"]:.2f} GB (bar: {BARS["memory_gb"]}); second start {second["seconds"]:.1f} s '
          f'(bar: {BARS["second_start"]}), with an epoch {second["peak_with_epoch_gb"]:.2f} GB')
    a.out.parent.mkdir(exist_ok=True, parents=True)
    a.out.write_text(json.dumps(res, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
