"""Make the recorded preparation of images of lesson 41: shards by Spark and by Dask, class means by Hadoop's MapReduce.

    python scripts/clusters/images.py [NAME ...]     # into results/bench/cluster_images.json; NAME: spark, dask, hadoop
    python scripts/clusters/images.py dask --quick   # fewer images, into build/quick/

2,000 PNG files in a folder a class are made 14 pixels wide and kept as shards, which must hold what one process makes
of them. Spark and Hadoop need Java and `pyspark` (it carries Hadoop's client), Hadoop's job javac as well.
"""
import argparse, json, os, platform, shutil, subprocess, tempfile, time, warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

from servers import dask_cluster, spark_session

warnings.filterwarnings('ignore')

import numpy as np
from PIL import Image

from cnn_tricks.base.files import atomic_write
from cnn_tricks.base.machine import machine
from cnn_tricks.data.datasets import embedded

ROOT = Path(__file__).resolve().parents[2]


def write_pngs(folder, n):
    "`n` images of the embedded part, a PNG each, in a folder a class -> paths, sorted."
    data = embedded().subset(n)
    for i, (x, y) in enumerate(zip(data.train.x, data.train.y)):
        path = folder/data.classes[y].replace('/', '-')/f'{i:05}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[0].numpy()).save(path)
    return sorted(map(str, folder.rglob('*.png')))


def shard_maker(out):
    "-> function that writes one shard of (path, bytes of the file) pairs. It needs nothing of this script: clusters send it."
    def write(pairs):
        import io
        from pathlib import Path

        import numpy as np
        from PIL import Image
        pairs = sorted(pairs)
        if not pairs: return 0
        small = [np.asarray(Image.open(io.BytesIO(b)).resize((14, 14), Image.Resampling.BILINEAR)) for _, b in pairs]
        name = Path(pairs[0][0])
        np.savez(Path(out)/f'{name.parent.name}-{name.stem}.npz', x=np.stack(small), path=['/'.join(p.split('/')[-2:]) for p, _ in pairs])
        return len(pairs)
    return write


def read_shards(folder):
    "All images of a folder of shards, in the order of their paths."
    parts = [np.load(p) for p in folder.glob('*.npz')]
    paths = np.concatenate([p['path'] for p in parts])
    order = paths.argsort()
    return paths[order], np.concatenate([p['x'] for p in parts])[order]


def by_one_process(paths, out): shard_maker(out)([(p, Path(p).read_bytes()) for p in paths])


def by_spark(paths, out):
    write = shard_maker(out)
    with spark_session('local[2]') as spark:
        files = spark.read.format('binaryFile').option('recursiveFileLookup', True).load(str(Path(paths[0]).parents[1]))
        rows = files.select('path', 'content').repartition(4).rdd.map(lambda r: (r.path, bytes(r.content)))
        return rows.mapPartitions(lambda part: [write(part)]).sum()


def by_dask(paths, out):
    from dask import bag
    write = shard_maker(out)
    with dask_cluster():
        read = lambda p: (p, open(p, 'rb').read())
        return sum(bag.from_sequence(paths, npartitions=4).map(read).map_partitions(lambda part: [write(part)]).compute())


def shards(by):
    def run(work):
        out = Path(tempfile.mkdtemp(dir=work.folder))
        start = time.perf_counter()
        n = by(work.paths, out)
        seconds = time.perf_counter() - start
        (paths, x), (other, y) = read_shards(out), read_shards(work.reference)
        assert n == len(work.paths) and (paths == other).all(), n
        return dict(images=n, shards=len(list(out.iterdir())), seconds=round(seconds, 1), one_process=work.seconds,
                    different_pixels=int((x != y).sum()))
    return run


# Hadoop

def by_hadoop(work):
    "Count, sum of pixels and mean of each class, by map and reduce in Hadoop's local runner."
    import pyspark
    jars, folder = Path(pyspark.__file__).parent/'jars', Path(tempfile.mkdtemp(dir=work.folder))
    (folder/'core-site.xml').write_text('<configuration/>')
    (folder/'paths.txt').write_text('\n'.join(work.paths) + '\n')
    subprocess.run(['javac', '-nowarn', '-cp', f'{jars}/*', '-d', folder, Path(__file__).with_name('ClassSums.java')], check=True)
    start = time.perf_counter()
    done = subprocess.run(['java', '-Xmx512m', '-cp', f'{folder}:{jars}/*', 'ClassSums', folder/'paths.txt', folder/'out',
                           str(len(work.paths)//4)], capture_output=True, text=True)
    if done.returncode: raise RuntimeError(done.stderr[-2000:])
    seconds = time.perf_counter() - start
    found = {}
    for part in sorted((folder/'out').glob('part-r-*')):
        for line in part.read_text().splitlines():
            name, total, n = line.split('\t')
            found[name] = [int(total), int(n)]
    wanted = {}
    for p in work.paths:
        sums = wanted.setdefault(Path(p).parent.name, [0, 0])
        sums[0] += int(np.asarray(Image.open(p), dtype=np.int64).sum())
        sums[1] += 1
    counters = dict(l.strip().split('=') for l in done.stdout.splitlines() if '=' in l)
    return dict(images=len(work.paths), maps=int(counters['maps']), reducers=len(list((folder/'out').glob('part-r-*'))), seconds=round(seconds, 1),
                equal=found == wanted, classes=dict(sorted(found.items())))


WAYS = dict(spark=shards(by_spark), dask=shards(by_dask), hadoop=by_hadoop)
PACKAGES = dict(spark='pyspark', dask='distributed', hadoop='pyspark')


class Work:
    def __init__(self, folder, n):
        self.folder, self.reference = folder, folder/'one'
        self.paths = write_pngs(folder/'png', n)
        self.reference.mkdir()
        start = time.perf_counter()
        by_one_process(self.paths, self.reference)
        self.seconds = round(time.perf_counter() - start, 1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f'any of {", ".join(WAYS)}; none: all')
    p.add_argument('--quick', action='store_true', help='fewer images; writes elsewhere')
    p.add_argument('--folder', type=Path, help='where to write; default: results/bench/, with --quick build/quick/')
    a = p.parse_args()
    if unknown := set(a.names) - set(WAYS): p.error(f'unknown: {", ".join(sorted(unknown))}')
    path = (a.folder or ROOT/('build/quick' if a.quick else 'results/bench'))/'cluster_images.json'
    folder = Path(tempfile.mkdtemp())
    try:
        work = Work(folder, 200 if a.quick else 2000)
        for name in a.names or WAYS:
            found = WAYS[name](work)
            there = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
            there[name] = dict(found, version=version(PACKAGES[name]), date=date.today().isoformat(), machine=machine().name,
                               load=round(os.getloadavg()[0], 1), python=platform.python_version())
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as f: f.write(json.dumps(there, indent=1, sort_keys=True).encode() + b'\n')
            print(f'{path}: {name}: {json.dumps(found)}', flush=True)
    finally: shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__': main()
