"Files are opened once, decoded near their size, and kept without taking memory or being written twice."
import os, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_tricks.data import cache, decode, image_parts, reading
from cnn_tricks.data.image_folder import read_folder
from cnn_tricks.data.images import _counts


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv('CNN_TRICKS_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'/'arrays'


def smooth(h, w, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)


@pytest.fixture
def root(tmp_path):
    for c in ('a', 'b'):
        (tmp_path/'r'/c).mkdir(parents=True)
        for i in range(10): smooth(200, 260, 2*i + (c == 'b')).save(tmp_path/'r'/c/f'{i}.jpg', quality=90)
    return tmp_path/'r'


def read(root, **kw): return read_folder(root, **{'size': 32, 'progress': False, **kw})


def test_each_file_is_opened_once(root, monkeypatch):
    opened, plain = [], Image.open
    monkeypatch.setattr(decode.Image, 'open', lambda path, **kw: opened.append(path) or plain(path, **kw))
    read(root)
    assert len(opened) == 20
    opened.clear()
    read(root)
    assert not opened  # from the cache


@pytest.mark.parametrize('size', [(24, 24), (32, 48), (64, 40)])
def test_a_jpeg_is_decoded_near_its_size(root, size):
    "To within a few levels of the whole decoding, the middle cut and resized."
    for path in sorted(root.glob('*/*.jpg')):
        probe, got = decode.read_or_reason(path, size)
        im = Image.open(path)
        assert probe.size == im.size and not probe.grey and got.shape == (3, *size) and got.flags['C_CONTIGUOUS']
        scale = min(im.width/size[1], im.height/size[0])
        left, top = (im.width - scale*size[1])/2, (im.height - scale*size[0])/2
        want = im.resize(size[::-1], Image.Resampling.BILINEAR, box=(left, top, im.width - left, im.height - top))
        assert abs(got.astype(int) - np.asarray(want).transpose(2, 0, 1)).max() <= 4
        assert np.array_equal(got, decode.decode_or_reason(path, size, 3))  # as `predict` reads it


def test_colour_after_grey(root):
    "Grey files before the first one in colour are read in grey and end in three equal channels."
    for p in sorted(root.glob('a/*.jpg')): Image.open(p).convert('L').save(p, quality=90)
    data = read(root)
    assert data.channels == 3
    for part in data.parts.values():
        grey = part.x[part.y == 0]
        assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
        assert (part.x[part.y == 1][:, 0] != part.x[part.y == 1][:, 1]).any()
    mapped = read(root, max_memory=0)
    assert mapped.fingerprint == data.fingerprint
    for p in sorted(root.glob('b/*.jpg')): Image.open(p).convert('L').save(p, quality=90)
    assert read(root).channels == 1


def test_a_failure_moves_the_others_up(root):
    "The split is that of the images that can be read, in memory and mapped."
    whole = read(root)
    (root/'a'/'3.jpg').write_bytes((root/'a'/'3.jpg').read_bytes()[:900])
    data, mapped = read(root), read(root, seed=0, max_memory=0)
    assert sum(len(p) for p in data.parts.values()) == 19 and mapped.fingerprint == data.fingerprint != whole.fingerprint
    known = {x.numpy().tobytes(): int(y) for p in whole.parts.values() for x, y in zip(p.x, p.y)}
    assert all(known[x.numpy().tobytes()] == y for p in data.parts.values() for x, y in zip(p.x, p.y))


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='only Linux gives a name to a temporary file')
def test_mapped_images_are_written_once(root, kept, monkeypatch):
    monkeypatch.setattr(cache.Room, 'release', lambda self: None)
    written = []
    plain = cache.atomic_write
    monkeypatch.setattr(cache, 'atomic_write', lambda path: written.append(Path(path).suffix) or plain(path))
    data = read(root, max_memory=0)
    assert written == ['.json'] and [p.suffix for p in sorted(kept.iterdir())] == ['.json', '.npy']
    assert np.load(next(kept.glob('*.npy'))).shape == (20, 3, 32, 32)
    monkeypatch.setattr(cache.os, 'link', lambda *a, **kw: exec('raise OSError'))
    (root/'a'/'new.jpg').write_bytes((root/'a'/'0.jpg').read_bytes())
    assert len(read(root, max_memory=0).train) and written == ['.json', '.npy', '.json']
    assert data.notes == ('20 images of another shape: the middle taken', 'drawn from all, stratified, seed 0: valid 20%, test 20%')


def test_the_cache_has_a_limit_in_bytes(root, kept):
    for seed in range(4): read(root, seed=seed)
    filled = cache.Room(np.zeros((4, 3, 32, 32), np.uint8))
    each = next(kept.glob('*.npy')).stat().st_size
    assert cache.save_array('last', filled, [0, 1, 2, 3], {}, most=2.5*each)
    assert len(list(kept.glob('*.npy'))) == 3 and (kept/'last.npy').exists()
    assert cache.save_array('large', filled, [0, 1, 2, 3], {}, most=1)
    assert [p.name for p in kept.glob('*.npy')] == ['large.npy']  # never the newest


def test_an_interruption_leaves_nothing(root, kept, monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(reading, '_tags', stop)
    with pytest.raises(KeyboardInterrupt): read(root, max_memory=0)
    assert not list(kept.iterdir())


@pytest.mark.parametrize('shape', [(3, 1, 5, 7), (5000, 3, 32, 32), (2, 3, 3000, 1500)])
def test_counting_in_pieces(shape):
    x = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(_counts(x), torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(shape[1])]))


MEMORY = '''
import os, resource, sys
import numpy as np
from pathlib import Path
from cnn_tricks.data import decode, image_folder, reading
rng = np.random.default_rng(0)
image = rng.integers(0, 256, (3, 224, 224)).astype(np.uint8)
def read(path, size, framing=None):  # no decoding: a picture of noise that the file's name decides
    x = image.copy()
    x[0, 0, :4] = [int(os.path.basename(path)[:5]) >> s & 255 for s in (0, 8, 16, 24)]
    return decode.Probe((300, 300), False, [], None), x
reading.read_or_reason = read
found = [('', 'ab'[i % 2], f'/nowhere/{i:05}.jpg') for i in range(int(sys.argv[1]))]
data = image_folder.read_files(found, 'r', size=224, max_memory=1 << 24, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
'''


@pytest.mark.skipif(sys.platform != 'linux', reason='what is resident is counted as Linux does')
def test_memory_of_reading_is_flat(tmp_path):
    "2,500 images more are 376 MB, which lie in the file."
    peak = [float(subprocess.run([sys.executable, '-c', MEMORY, str(n)], check=True, capture_output=True, text=True,
                                 env=os.environ | {'CNN_TRICKS_CACHE': str(tmp_path)}).stdout.split()[-1]) for n in (500, 3000)]
    assert peak[1] < peak[0] + 120, peak


def test_large_copies_lie_in_a_file(root, kept, monkeypatch):
    "What a split or a subset copies is mapped beyond a gigabyte: the same images, and nothing is left behind."
    data = read(root)
    small = [data.split(0.3, 1), data.subset(5), data.kfold(3)[1], data.take_classes(['b', 'a'])]
    made = []
    monkeypatch.setattr(image_parts, 'LARGE', 3*32*32)  # one image
    monkeypatch.setattr(image_parts, 'room', lambda *a: made.append(cache.room(*a)) or made[-1])
    large = [data.split(0.3, 1), data.subset(5), data.kfold(3)[1], data.take_classes(['b', 'a'])]
    for a, b in zip(small, large): assert a.fingerprint == b.fingerprint
    assert len(made) > 8 and all(r.map is not None for r in made)
    assert torch.equal(data.train[data.train.y == 1].x, data.train.x[data.train.y == 1])
    assert sorted(p.suffix for p in kept.iterdir()) == ['.json', '.npy']
