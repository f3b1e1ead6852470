"Folders of images as users have them: what is wrong with them is handled and noted, or refused in one line."
import os, unicodedata, zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_tricks.base import display
from cnn_tricks.data import cache as arrays
from cnn_tricks.data.image_folder import FolderError, read_folder


def picture(h=20, w=20, c=3, seed=0, low=0, dtype=np.uint8):
    shape = (h, w, c) if c > 1 else (h, w)
    return np.random.default_rng(seed).integers(low, 256, shape).astype(dtype)


def draw(folder, n=10, name='{}.png', seed=0, **kw):
    "Put `n` different pictures into `folder`"
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n): Image.fromarray(picture(seed=seed + i, **kw)).save(folder/name.format(i))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "An empty cache folder for each test."
    monkeypatch.setenv('CNN_TRICKS_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'


@pytest.fixture
def root(tmp_path):
    "Two classes of ten pictures."
    for k, name in enumerate(('cat', 'dog')): draw(tmp_path/'pets'/name, seed=100*k)
    return tmp_path/'pets'


def read(root, **kw): return read_folder(root, **{'size': 16, 'progress': False, **kw})


def counts(data): return {p: len(part) for p, part in data.parts.items()}


def note(data, text):
    "The one note that holds `text`"
    found = [n for n in data.notes if text in n]
    assert len(found) == 1, data.notes
    return found[0]


def refused(root, *texts, **kw):
    with pytest.raises(FolderError) as e: read(root, **kw)
    message = str(e.value)
    assert '\n' not in message and all(t in message for t in texts), message


def test_class_folders(root):
    data = read(root)
    assert data.classes == ('cat', 'dog') and data.name == 'pets' and data.size == (16, 16) and data.channels == 3
    assert counts(data) == dict(train=12, valid=4, test=4)
    assert all(p.y.bincount().unique().numel() == 1 for p in data.parts.values())
    assert note(data, 'drawn from all') == 'drawn from all, stratified, seed 0: valid 20%, test 20%'


def test_pixels_are_those_of_the_files(root):
    "Each picture at its own size equals its file, under its own label."
    data = read(root, size=20)
    known = {np.asarray(Image.open(p)).tobytes(): p.parent.name for p in root.glob('*/*.png')}
    for part in data.parts.values():
        for x, y in zip(part.x, part.y): assert known.pop(x.permute(1, 2, 0).numpy().tobytes()) == data.classes[y]
    assert not known


def test_split_follows_the_seed(root):
    a, b, c = read(root), read(root, seed=1), read(root, valid=0.1, test=0.3)
    assert a.fingerprint != b.fingerprint and counts(c) == dict(train=12, valid=2, test=6)


@pytest.mark.parametrize('names,drawn', [
    (('train', 'valid', 'test'), ''), (('Train', 'VAL', 'Test'), ''), (('training', 'validation', 'testing'), ''),
    (('train', 'test'), 'valid 20%'), (('train', 'val'), 'test 20%'), (('train',), 'valid 20%, test 20%')])
def test_users_split_is_kept(tmp_path, names, drawn):
    n = dict(zip(('train', 'valid', 'test'), (20, 6, 4)))
    role = dict(tra='train', val='valid', tes='test')
    for i, name in enumerate(names):
        for k, c in enumerate(('a', 'b')): draw(tmp_path/'r'/name/c, n[role[name[:3].lower()]], seed=1000*i + 100*k)
    (tmp_path/'r'/'README.txt').touch()
    data = read(tmp_path/'r')
    got = counts(data)
    assert sum(got.values()) == 2*sum(n[role[m[:3].lower()]] for m in names)
    for name in names[1:]: assert got[role[name[:3].lower()]] == 2*n[role[name[:3].lower()]]
    assert ('drawn from train' in ' '.join(data.notes)) == bool(drawn) and drawn in ' '.join(data.notes)
    note(data, 'ignored 1 file without an image suffix (1 .txt)')


def test_a_class_may_be_called_train(tmp_path):
    for name in ('boat', 'car', 'train'): draw(tmp_path/'r'/name, seed=len(name))
    assert read(tmp_path/'r').classes == ('boat', 'car', 'train')


def test_descends_into_the_one_folder(root): assert read(root.parent).fingerprint == read(root).fingerprint


def test_deeper_files_belong_to_the_class(root):
    draw(root/'cat'/'more'/'deep', 5, seed=50)
    assert sum(counts(read(root)).values()) == 25


# files that are handled

def test_stray_files_are_counted(root):
    for p in ('cat/a.txt', 'cat/b.TXT', 'dog/Thumbs.db', 'notes', 'cat/phone.heic'): (root/p).touch()
    for p in ('cat/.DS_Store', '.hidden.png'): (root/p).touch()
    draw(root/'.git', 1), draw(root/'__MACOSX', 1)
    assert note(read(root), 'without an image suffix') == 'ignored 4 files without an image suffix (1 .db, 2 .txt, 1 no suffix)'
    note(read(root), 'ignored 1 file of a format that is not read (1 .heic)')


def test_bad_files_are_left_out_and_named(root):
    cat = root/'cat'
    (cat/'a_empty.jpg').touch()
    (cat/'b_page.png').write_text('<html>')
    Image.fromarray(picture(64, 64)).save(cat/'whole.jpg')
    (cat/'c_cut.jpg').write_bytes((cat/'whole.jpg').read_bytes()[:1500])
    (cat/'whole.jpg').unlink()
    png = bytearray((cat/'0.png').read_bytes())
    png[60:90] = bytes(30)
    (cat/'d_flipped.png').write_bytes(png)
    (cat/'e_vector.png').write_text('%!PS-Adobe-3.0 EPSF-3.0\n')
    data = read(root)
    assert sum(counts(data).values()) == 20
    line = note(data, 'left out 5 files (2 not an image, 1 empty, 1 cut short and 1 more): ')
    for text in ('a_empty.jpg (empty)', 'b_page.png (not an image)', 'c_cut.jpg (cut short)'):
        assert f'{os.path.join("cat", text)}' in line
    assert line.endswith(' and 2 more')
    for name in ('a_empty.jpg', 'b_page.png', 'c_cut.jpg'): (cat/name).unlink()
    line = note(read(root), 'left out 2 files: ')
    for text in ('d_flipped.png (damaged)', 'e_vector.png (not an image)'): assert f'{os.path.join("cat", text)}' in line


def test_more_than_three_bad_files(root):
    for i in range(8): (root/'dog'/f'bad{i}.gif').touch()
    assert note(read(root), 'left out 8 files (8 empty)').endswith(' and 5 more')


def test_no_permission(root, monkeypatch):
    "Tests may run as root, whom nothing is forbidden: so the error is simulated."
    from cnn_tricks.data import decode as pictures
    opened = Image.open

    def guard(path, **kw):
        if Path(path).name == '3.png': raise PermissionError(13, 'Permission denied')
        return opened(path, **kw)
    monkeypatch.setattr(pictures.Image, 'open', guard)
    assert 'no permission to read it' in note(read(root), 'left out 2 files')
    monkeypatch.setattr(os, 'listdir', lambda p: (_ for _ in ()).throw(PermissionError(13, 'Permission denied')))
    refused(root, str(root), 'cannot be opened: Permission denied')


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    level = np.linspace(0, 65535, 400).reshape(20, 20).astype(np.uint16)
    for k, c in enumerate('ab'):
        draw(tmp_path/'r'/c, 5, c=1, seed=50*k)
        Image.fromarray(np.roll(level, k)).save(tmp_path/'r'/c/'deep.png')
        Image.fromarray(np.roll(level, 7 + k)).save(tmp_path/'r'/c/'deep.tif')
    data = read(tmp_path/'r', size=20)
    note(data, '4 images of 16 bits: scaled to 8, where white is 65,535')
    assert data.channels == 1
    everything = torch.cat([p.x for p in data.parts.values()])
    assert (everything == torch.from_numpy((level//257).astype(np.uint8))).flatten(1).all(1).sum() == 1
    Image.fromarray(np.full((9, 9), 7., np.float32)).save(tmp_path/'r'/'a'/'float.tif')
    Image.fromarray(np.full((9, 9), 10**6, np.int32)).save(tmp_path/'r'/'a'/'long.tif')
    line = note(read(tmp_path/'r'), 'left out 2')
    assert 'float.tif (holds values up to 7: is white 1 or 255?)' in line
    assert 'long.tif (holds values up to 1,000,000: more than 16 bits)' in line


def modes():
    rgb, grey = Image.fromarray(picture()), Image.fromarray(picture(c=1))
    yield 'RGBA', rgb.convert('RGBA'), 'png', ''
    see = Image.fromarray(picture(c=4))
    yield 'RGBA, half seen through', see, 'png', 'with transparency: laid on white'
    yield 'LA', grey.convert('LA'), 'png', 'with transparency: laid on white'
    yield 'palette', rgb.convert('P'), 'png', ''
    yield 'palette with transparency', rgb.convert('P'), 'png', 'with transparency: laid on white'
    yield 'CMYK', rgb.convert('CMYK'), 'jpg', 'in CMYK: converted'
    yield 'one bit', grey.convert('1'), 'png', ''
    yield 'YCbCr', rgb.convert('YCbCr'), 'jpg', ''


@pytest.mark.parametrize('name,image,suffix,said', list(modes()), ids=[m[0] for m in modes()])
def test_modes(root, name, image, suffix, said):
    kw = dict(transparency=0) if 'with transparency' in name else {}
    image.save(root/'cat'/f'odd.{suffix}', **kw)
    data = read(root)
    assert sum(counts(data).values()) == 21 and data.channels == 3
    if said: assert note(data, said).startswith('1 image ')


def test_what_is_transparent_is_white(tmp_path):
    for k, c in enumerate('ab'): draw(tmp_path/'r'/c, 5, seed=9*k, low=0)
    Image.new('RGBA', (20, 20), (0, 0, 0, 0)).save(tmp_path/'r'/'a'/'clear.png')
    everything = torch.cat([p.x for p in read(tmp_path/'r').parts.values()])
    assert (everything == 255).flatten(1).all(1).sum() == 1


def test_turned_by_exif(tmp_path):
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, :20] = 255  # left half white; turned a quarter clockwise, the top half is
    for k, c in enumerate('ab'): draw(tmp_path/'r'/c, 5, h=40, w=20, seed=9*k)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).save(tmp_path/'r'/'a'/'turned.jpg', exif=exif, quality=100)
    data = read(tmp_path/'r', size=(40, 20))
    note(data, "1 image turned as the camera's EXIF mark says")
    everything = torch.cat([p.x for p in data.parts.values()]).float()
    top, bottom = everything[:, :, :18].mean((1, 2, 3)), everything[:, :, 22:].mean((1, 2, 3))
    assert ((top > 250) & (bottom < 5)).sum() == 1


def test_first_frame_of_an_animation(root):
    frames = [Image.new('RGB', (20, 20), c) for c in ('red', 'blue')]
    frames[0].save(root/'cat'/'moves.gif', save_all=True, append_images=frames[1:])
    data = read(root)
    note(data, '1 image animated: the first frame taken')
    reds = torch.cat([p.x for p in data.parts.values()]).float().mean((2, 3))
    assert ((reds[:, 0] > 250) & (reds[:, 2] < 5)).sum() == 1


def bomb(path, side):
    "A PNG whose header promises side x side pixels"
    def chunk(kind, data): return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')
    head = side.to_bytes(4, 'big')*2 + bytes([8, 0, 0, 0, 0])
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b''))


def test_decompression_bomb(root):
    bomb(root/'cat'/'bomb.png', 50_000)
    assert 'bomb.png (too many pixels)' in note(read(root), 'left out 1 file')


def test_large_jpeg_is_decoded_small(root, monkeypatch):
    "Pillow's draft mode makes it small while decoding."
    from PIL import JpegImagePlugin
    Image.fromarray(np.kron(picture(20, 20), np.ones((100, 100, 1), np.uint8))).save(root/'cat'/'large.jpg')
    asked, draft = [], JpegImagePlugin.JpegImageFile.draft

    def spy(self, mode, size):
        result = draft(self, mode, size)
        asked.append(self.size)
        return result
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, 'draft', spy)
    read(root)
    assert asked == [(250, 250)]


@pytest.mark.parametrize('h,w', [(1, 1), (1, 500), (500, 1), (3, 40)])
def test_odd_shapes(root, h, w):
    Image.fromarray(picture(h, w, seed=7)).save(root/'cat'/'odd.png')
    data = read(root)
    assert data.size == (16, 16) and sum(counts(data).values()) == 21
    note(data, '1 image smaller than the size: enlarged')
    if h != w: note(data, '1 image of another shape: the middle taken')


def test_the_middle_is_taken(tmp_path):
    "Left and right are black, the middle is white: a square crop sees white alone."
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 16:44] = 255
    for k, c in enumerate('ab'): draw(tmp_path/'r'/c, 5, c=1, seed=9*k)
    Image.fromarray(wide).save(tmp_path/'r'/'a'/'wide.png')
    everything = torch.cat([p.x for p in read(tmp_path/'r', size=10).parts.values()])
    assert (everything >= 250).flatten(1).all(1).sum() == 1


def test_default_size(tmp_path):
    for k, c in enumerate('ab'): draw(tmp_path/'r'/c, 6, h=30, w=47, seed=9*k)
    assert read(tmp_path/'r', size=None).size == (30, 30)
    note(read(tmp_path/'r', size=None), 'size 30 x 30: the median of the smaller sides is 30, taken up to 64')
    for k, c in enumerate('ab'): draw(tmp_path/'s'/c, 4, h=100, w=90, seed=9*k)
    assert read(tmp_path/'s', size=None).size == (64, 64)
    assert read(tmp_path/'s', size=(8, 12)).size == (8, 12)


def test_grey_is_one_channel_and_mixed_is_three(tmp_path):
    for k, c in enumerate('ab'): draw(tmp_path/'r'/c, 6, c=1, seed=9*k)
    assert read(tmp_path/'r').channels == 1
    draw(tmp_path/'r'/'a', 1, name='colour.png', seed=99)
    assert read(tmp_path/'r').channels == 3


# links, names, classes

def test_links(root):
    (root/'cat'/'link.png').symlink_to(root/'dog'/'0.png')
    (root/'cat'/'gone.png').symlink_to(root/'nothing.png')
    (root/'cat'/'self.png').symlink_to(root/'cat'/'self.png')
    (root/'cat'/'up').symlink_to(root)
    (root/'dog'/'round').symlink_to(root/'dog')
    (root/'bird').symlink_to(draw(root.parent/'elsewhere', 10, seed=900))
    data = read(root)
    assert data.classes == ('bird', 'cat', 'dog')
    assert note(data, 'left out 2 files').count('a link to nothing') == 2


def test_a_pipe_is_not_waited_for(root):
    os.mkfifo(root/'cat'/'pipe.png')
    note(read(root), 'ignored 1 file')


def test_unicode_names(root):
    draw(root/'Bär 🐻', 10, name='süß {}.png', seed=500)
    assert read(root).classes == ('Bär 🐻', 'cat', 'dog')


def test_names_in_either_unicode_form_are_one_class(tmp_path):
    for part, form in (('train', 'NFC'), ('test', 'NFD')):
        for k, c in enumerate(('é', 'z')): draw(tmp_path/'r'/part/unicodedata.normalize(form, c), 8, seed=100*k + len(part))
    assert read(tmp_path/'r').classes == ('z', 'é')


def test_bytes_that_are_no_text(root):
    os.mkdir(os.fsencode(root) + b'/\xff\xfe')
    for i in range(5): Image.fromarray(picture(seed=i + 60)).save(os.path.join(os.fsencode(root), b'\xff\xfe', b'%d.png' % i))
    data = read(root)
    assert len(data.classes) == 3 and '\n'.join((*data.classes, *data.notes)).encode()


def test_classes_that_differ_in_case_alone(root):
    draw(root/'Cat', 5)
    refused(root, "'Cat' and 'cat' differ only in case")


def test_class_that_train_lacks(tmp_path):
    for part in ('train', 'test'):
        for c in ('a', 'b'): draw(tmp_path/'r'/part/c, 6)
    draw(tmp_path/'r'/'test'/'c', 2)
    refused(tmp_path/'r', "the train folder has no image of its class 'c'", 'test', '.png')
    (tmp_path/'r'/'test'/'c').rename(tmp_path/'r'/'test'/'x')
    (tmp_path/'r'/'test'/'b').rename(tmp_path/'r'/'test'/'c')
    (tmp_path/'r'/'test'/'x').rename(tmp_path/'r'/'test'/'B')
    (tmp_path/'r'/'train'/'b').rename(tmp_path/'r'/'train'/'c')
    refused(tmp_path/'r', "no image of its class 'B'")
    (tmp_path/'r'/'train'/'C').mkdir()
    refused(tmp_path/'r', "differ only in case")


def test_case_differs_between_train_and_test(tmp_path):
    for part, b in (('train', 'b'), ('test', 'B')):
        for k, c in enumerate(('a', b)): draw(tmp_path/'r'/part/c, 6, seed=50*k)
    refused(tmp_path/'r', "no image of its class 'B', but of 'b'")


def test_class_of_one_image_is_learnt_from(root):
    draw(root/'rare', 1, seed=700)
    data = read(root, valid=0.3, test=0.3)
    rare = data.classes.index('rare')
    assert [int((p.y == rare).sum()) for p in data.parts.values()] == [1, 0, 0]
    note(data, "class 'rare' has no image in the valid part"), note(data, "class 'rare' has no image in the test part")


def test_class_without_images(root):
    (root/'none').mkdir()
    (root/'words').mkdir()
    (root/'words'/'a.txt').touch()
    assert read(root).classes == ('cat', 'dog')
    (root/'words'/'a.png').touch()
    refused(root, "no image to train class 'words' on can be read")


def test_copies_in_two_parts_are_noted(tmp_path):
    for part in ('train', 'test'):
        for k, c in enumerate('ab'): draw(tmp_path/'r'/part/c, 10, seed=100*k + (500 if part == 'test' else 0))
    draw(tmp_path/'r'/'test'/'a', 3, name='copy{}.png', seed=0)
    line = note(read(tmp_path/'r', valid=0.1), 'are in the train part too')
    assert line.startswith(('2 images of the test part', '3 images of the test part'))


# what is refused

def test_refused_paths(tmp_path, root):
    refused('', 'no folder was given'), refused(None, 'no folder was given')
    refused(tmp_path/'nothing', 'nothing: no such folder')
    refused(root/'cat'/'0.png', '0.png: is no folder')
    refused(root/'cat', 'cat: holds images but no class folders')
    (root/'link').symlink_to(tmp_path/'nothing')
    refused(root/'link', 'link: is no folder')


def test_refused_contents(tmp_path):
    r = tmp_path/'r'
    r.mkdir()
    refused(r, 'r: no image in it; expected a folder for each class')
    draw(r/'one', 3)
    refused(r, "one class ('one') only")
    (r/'two').mkdir()
    refused(r, "one class ('one') only")
    (r/'two'/'a.txt').touch()
    refused(r, "one class ('one') only")
    draw(r/'two', 1, seed=9)
    draw(tmp_path/'s'/'a', 1), draw(tmp_path/'s'/'b', 1, seed=5)
    refused(tmp_path/'s', '2 usable images leave none for the')


def test_refused_splits(tmp_path):
    for c in 'ab': draw(tmp_path/'r'/'test'/c, 3), draw(tmp_path/'r'/'valid'/c, 3)
    refused(tmp_path/'r', 'but no train folder')
    for c in 'ab': draw(tmp_path/'t'/'train'/c, 3), draw(tmp_path/'t'/'Training'/c, 3)
    refused(tmp_path/'t', 'stands for the same part as')
    draw(tmp_path/'u'/'train', 3), draw(tmp_path/'u'/'test', 3)
    refused(tmp_path/'u', 'holds images but no class folders')


def test_all_files_bad(tmp_path):
    for c in 'ab':
        (tmp_path/'r'/c).mkdir(parents=True)
        (tmp_path/'r'/c/'x.png').write_text('no')
    refused(tmp_path/'r', 'no image can be read', 'x.png is not an image')


@pytest.mark.parametrize('kw,text', [
    (dict(size=0), 'size=0'), (dict(size=(16, 5000)), '4096'), (dict(valid=0), 'valid=0'), (dict(valid=0.5, test=0.6), 'test=0.6'),
    (dict(test=-1), 'test=-1')])
def test_refused_arguments(root, kw, text):
    with pytest.raises(ValueError, match=text): read(root, **kw)


@pytest.mark.parametrize('size', ['16', (16,), 16.5, True])
def test_refused_size_types(root, size):
    with pytest.raises(TypeError, match='size='): read(root, size=size)


# memory and the cache

def test_read_again_from_the_cache(root, cache, monkeypatch):
    first = read(root)
    from cnn_tricks.data import image_folder as folder
    monkeypatch.setattr(folder, 'read_images', None)
    again = read(root)
    assert again.fingerprint == first.fingerprint and again.notes == first.notes
    monkeypatch.undo()
    monkeypatch.setenv('CNN_TRICKS_CACHE', str(cache))
    os.utime(root/'cat'/'0.png', ns=(0, 0))
    Image.fromarray(picture(seed=999)).save(root/'cat'/'0.png')
    assert read(root).fingerprint != first.fingerprint


def test_beyond_memory_it_is_mapped(root, cache):
    small, mapped = read(root), read(root, max_memory=1000)
    assert small.fingerprint == mapped.fingerprint == read(root, max_memory=1000).fingerprint
    maps = Path('/proc/self/maps')
    if maps.exists(): assert str(cache) in maps.read_text()
    mapped.train.x[0] = 0  # a copy of this process's own: the file stays as it is
    assert read(root).fingerprint == small.fingerprint


def test_unwritable_cache_is_no_error(root, cache):
    cache.write_text('a file where the folder should be')
    assert read(root).fingerprint == read(root, max_memory=1000).fingerprint


def test_full_disk_is_one_line(root, monkeypatch):
    def full(*a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(arrays.os, 'posix_fallocate', full)
    refused(root, 'its images find no room: No space left on device', max_memory=1000)


def test_damaged_cache_is_read_anew(root, cache):
    first = read(root)
    array, about = next(cache.glob('arrays/*.npy')), next(cache.glob('arrays/*.json'))
    array.write_bytes(array.read_bytes()[:200])
    assert read(root).fingerprint == first.fingerprint
    about.write_text('{')
    assert read(root).fingerprint == first.fingerprint


def test_cache_leaves_no_parts_and_keeps_twenty(root, cache):
    for i in range(23): read(root, seed=i, size=4)
    left = sorted(p.suffix for p in cache.glob('arrays/*'))
    assert left == ['.json']*20 + ['.npy']*20
    assert not list(cache.rglob('.*'))


def test_bar_appears_for_long_work_alone(capsys, monkeypatch):
    clock = [0.]
    monkeypatch.setattr(display.time, 'monotonic', lambda: clock[0])
    with display.SlowBar('quick', 10) as bar:
        clock[0] = 0.1
        bar.update(5)
        assert bar.bar is None
    clock[0] = 0.
    with display.SlowBar('slow', 10) as bar:
        clock[0] = 0.5
        bar.update(1)
        assert bar.bar is not None
    with display.SlowBar('silent', 10, show=False) as bar:
        clock[0] = 9.
        bar.update(1)
        assert bar.bar is None
