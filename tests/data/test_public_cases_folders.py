"Folders as people had them when something went wrong elsewhere: each is read as it was meant, or refused in one line."
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from cnn_tricks.data import decode as pictures
from cnn_tricks.data.images import ImageData
from cnn_tricks.data.image_folder import FolderError, read_folder
from cnn_tricks.data.part_names import part_of


def draw(folder, n=4, name='{}.png', seed=0, size=12):
    "Put `n` different pictures into `folder`"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(f'{folder.name} {seed}'.encode()))
    for i in range(n): Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(folder/name.format(i))
    return folder


def classes(folder, names=('cat', 'dog'), n=4, **kw):
    for k, c in enumerate(names): draw(folder/c, n, seed=f'{folder.name} {k}', **kw)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('CNN_TRICKS_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'


@pytest.fixture
def root(tmp_path): return tmp_path/'pets'


def read(root, **kw): return read_folder(root, **{'size': 12, 'progress': False, **kw})


def note(data, *texts):
    "The one note that holds the texts"
    found = [n for n in data.notes if all(t in n for t in texts)]
    assert len(found) == 1, data.notes
    return found[0]


def refused(root, *texts):
    with pytest.raises(FolderError) as e: read(root)
    assert '\n' not in str(e.value) and all(t in str(e.value) for t in texts), str(e.value)


def sizes(data): return {p: len(part) for p, part in data.parts.items()}


# 1: the parts' names

SPELLINGS = dict(
    train='train training Train TRAINING training_set trainset TrainSet train-images Train_Images images_train seg_train '
          'train_data traindata train_split train2017 trainImages'.split() + ['training images', 'Train Set'],
    valid='valid val validation dev eval evaluation val_set valset validation_set valid-images val_images imagesVal seg_val '
          'dev_set eval_data val2017 Validation'.split() + ['validation images'],
    test='test testing Test test_set testset TestSet test-images test_images seg_test test_data testdata test1 TESTING'.split()
         + ['test images'])


@pytest.mark.parametrize('part,name', [(p, n) for p, names in SPELLINGS.items() for n in names])
def test_case_1_names_of_parts(part, name): assert part_of(name) == (part, ())


@pytest.mark.parametrize('name', 'trainer strain trains valley value latest contest testament devil device evalina cat test_train '
                                 'restraint bus'.split())
def test_case_1_names_of_classes(name): assert part_of(name) is None


@pytest.mark.parametrize('train,test', [('training_set', 'test_set'), ('train_images', 'test_images'), ('Training', 'Testing'),
                                        ('seg_train', 'seg_test'), ('trainset', 'testset'), ('TRAIN DATA', 'TEST DATA'),
                                        ('flowers_train', 'flowers_test'), ('train-flowers-224', 'test-flowers-224')])
@pytest.mark.parametrize('nested', ['', 'same', 'images'])
def test_case_1_splits_are_read_as_splits(root, train, test, nested):
    for name, n in ((train, 9), (test, 5)):
        inner = {'': '', 'same': name, 'images': 'images'}[nested]
        classes(root/'archive'/name/inner, n=n)
    data = read(root)
    assert data.classes == ('cat', 'dog') and len(data.test) == 10
    note(data, 'drawn from train', 'valid 20%')


@pytest.mark.parametrize('valid', SPELLINGS['valid'][:12])
def test_case_1_all_three_parts(root, valid):
    for name, n in (('training_set', 6), (valid, 3), ('test_set', 2)): classes(root/name, n=n)
    assert sizes(read(root)) == dict(train=12, valid=6, test=4)


def test_case_1_parts_without_class_folders_are_refused(root):
    draw(root/'train_images'), draw(root/'test_images', seed=1)
    refused(root, 'holds images but no class folders')


def test_case_1_parts_inside_classes_are_refused(root):
    for c, p in product(('cat', 'dog'), ('train', 'test')): draw(root/c/p, seed=len(c + p))
    refused(root, 'has test and train inside a class')


@pytest.mark.parametrize('names', [('trainA', 'trainB', 'testA', 'testB'), ('cat_train', 'dog_train', 'cat_test', 'dog_test')])
def test_case_1_names_that_mix_part_and_class_are_refused(root, names):
    for n in names: draw(root/n, seed=len(n))
    refused(root, 'holds images but no class folders')


@pytest.mark.parametrize('twins', [('train', 'training_set'), ('train', 'Train_Images')])
def test_case_1_two_folders_for_one_part_are_refused(root, twins):
    for t in twins: classes(root/t)
    refused(root, 'stands for the same part as')


def test_case_1_two_for_validation_are_refused(root):
    for t in ('train', 'dev', 'eval'): classes(root/t)
    refused(root, 'stands for the same part as')


def test_case_1_parts_beside_folders_without_images(root):
    "As detectors want them: images/train, images/val, and labels/."
    for p in ('train', 'val'): classes(root/'images'/p, n=8)
    (root/'labels'/'train').mkdir(parents=True), (root/'labels'/'train'/'0.txt').touch()
    data = read(root)
    assert data.classes == ('cat', 'dog') and len(data.valid) == 16
    note(data, 'left out 1 folder without', 'labels (1 .txt)')


def test_case_1_loose_images_do_not_hide_a_split(root):
    "A picture that lies beside the class folders of train makes train no class."
    for name in ('train', 'test'): classes(root/name, n=8)
    draw(root/'train', 1, 'cover.png'), draw(root, 1, 'logo.png')
    data = read(root)
    assert data.classes == ('cat', 'dog') and len(data.test) == 16
    note(data, 'not read: 2 images in no class folder', 'cover.png', 'logo.png')


# 2: nothing is dropped in silence

@pytest.mark.parametrize('name', ['dev', 'eval', 'val', 'validation'])
def test_case_2_validation_under_any_name(root, name):
    classes(root/'train', n=10), classes(root/name, n=3)
    assert len(read(root).valid) == 6


def test_case_2_a_class_called_train(root):
    draw(root/'bus'), draw(root/'car', seed=1)
    for i, kind in enumerate(('diesel', 'steam')): draw(root/'train'/kind, seed=2 + i)
    data = read(root)
    assert data.classes == ('bus', 'car', 'train') and sum(sizes(data).values()) == 16
    note(data, "'train' is read as a class")


def test_case_2_a_class_called_train_among_classes_with_sub_folders(root):
    for c, subs in dict(bus=('city', 'tour'), car=('sedan', 'van'), train=('diesel', 'steam')).items():
        for i, s in enumerate(subs): draw(root/c/s, seed=i)
    assert read(root).classes == ('bus', 'car', 'train')


@pytest.mark.parametrize('others', [['bus'], ['bus', 'car']])
def test_case_2_what_could_be_either_is_refused(root, others):
    "One folder beside train, or folders with train's own classes: a class, or pictures that are to be labelled?"
    classes(root/'train')
    for o in others: classes(root/o) if len(others) > 1 else draw(root/o)
    refused(root, "is 'train' the part to train on, or a class like 'bus'")


def test_case_2_what_is_not_read_is_named(root):
    for name in ('seg_train', 'seg_test'): classes(root/name, n=8)
    draw(root/'seg_pred', 5), classes(root/'holdout')
    (root/'models').mkdir(), (root/'models'/'net.h5').touch(), (root/'val').mkdir()
    data = read(root)
    assert data.classes == ('cat', 'dog') and len(data.test) == 16
    note(data, 'not read: 2 folders that', 'holdout, seg_pred')
    note(data, 'left out 1 empty folder: val'), note(data, 'left out 1 folder without', 'models (1 .h5)')


def test_case_2_unlabelled_test_images_are_named(root):
    classes(root/'train', n=9), draw(root/'test', 5)
    data = read(root)
    assert data.classes == ('cat', 'dog') and sum(sizes(data).values()) == 18
    note(data, 'not read: 1 folder that holds images but no class folders (test)')


# 3: classes that vanish

def test_case_3_an_empty_class_is_named(root):
    classes(root), (root/'hen').mkdir(), (root/'owl').mkdir()
    assert note(read(root), 'empty') == 'left out 2 empty folders: hen, owl'


@pytest.mark.parametrize('suffix', ['.HEIC', '.mp4', '.MOV', '.npy', '.txt'])
def test_case_3_a_class_of_other_formats_is_named(root, suffix):
    classes(root), (root/'phone').mkdir()
    for i in range(12): (root/'phone'/f'{i}{suffix}').touch()
    note(read(root), 'left out 1 folder without a file of a format that is read', f'phone (12 {suffix.lower()})')


def test_case_3_formats_that_are_not_read(root):
    classes(root)
    for i in range(3): (root/'cat'/f'{i}.heic').touch()
    (root/'dog'/'a.txt').touch()
    data = read(root)
    note(data, 'ignored 3 files of a format that is not read (3 .heic)')
    note(data, 'ignored 1 file without an image suffix (1 .txt)')


def test_case_3_loose_images(root):
    classes(root), draw(root, 5, 'loose{}.png')
    assert note(read(root), 'loose') == ('not read: 5 images in no class folder '
                                         '(loose0.png, loose1.png, loose2.png and 2 more)')


def test_case_3_a_phones_picture_under_a_wrong_name(root):
    classes(root)
    (root/'cat'/'phone.jpg').write_bytes(b'\0\0\0\x18ftypheic' + bytes(50))
    note(read(root), 'phone.jpg (of a kind that Pillow cannot read)')


def test_case_3_a_link_to_the_whole_folder_lends_no_images(root):
    classes(root)
    (root/'cat'/'up').symlink_to(root)
    assert sum(sizes(read(root)).values()) == 8


def test_case_3_a_class_that_vanishes_is_named_where_one_is_left(root):
    draw(root/'cat'), (root/'dog').mkdir(), (root/'hen').mkdir()
    for i in range(3): (root/'dog'/f'{i}.HEIC').touch()
    refused(root, "has one class ('cat') only", 'left out 1 empty folder: hen', 'dog (3 .heic)')


# 4: what is white

RAMP = np.arange(144).reshape(12, 12)*255//143  # 0 to 255


def deep(root, values, save):
    "Two classes of five pictures, each the values turned round by another number"
    for k, c in enumerate('ab'):
        (root/c).mkdir(parents=True)
        for i in range(5): save(np.roll(values, 12*i + k), root/c/f'{i}')
    return root


def png(a, path): Image.fromarray(a).save(f'{path}.png')
def tif(a, path): Image.fromarray(a).save(f'{path}.tif')


def colour_png(a, path, kind=2):
    "A PNG of 16 bits a channel, which Pillow cannot write: (H, W, C)"
    import struct
    def chunk(name, data): return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in a)
    head = struct.pack('>IIBBBBB', a.shape[1], a.shape[0], 16, kind, 0, 0, 0)
    path.with_suffix('.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows))
                                         + chunk(b'IEND', b''))


def known(data, channels=1):
    "Are the pictures the ramp?"
    want = torch.from_numpy(RAMP).float().sort().values.flatten().sort().values
    for part in data.parts.values():
        for x in part.x:
            assert len(x) == channels
            for c in x: assert (c.flatten().sort().values.float() - want).abs().max() <= 1
    return True


KINDS = {
    'bytes in 16 bits, PNG': (RAMP.astype(np.uint16), png, 255), 'bytes in 16 bits, TIFF': (RAMP.astype(np.uint16), tif, 255),
    '12 bits in 16': ((RAMP*16 + RAMP//16).astype(np.uint16), png, 4095), '10 bits': ((RAMP*4 + RAMP//64).astype(np.uint16), tif, 1023),
    '14 bits': ((RAMP*64).astype(np.uint16), png, 16383), '16 bits': ((RAMP*257).astype(np.uint16), png, 65535),
    'bytes in 32 bits': (RAMP.astype(np.int32), tif, 255), '16 bits in 32': ((RAMP*257).astype(np.int32), tif, 65535),
    'floats to 1': ((RAMP/255).astype(np.float32), tif, 1), 'floats to 255': (RAMP.astype(np.float32), tif, 255),
    'floats, resampled': ((RAMP/255*1.02 - 0.01).astype(np.float32), tif, 1)}


@pytest.mark.parametrize('values,save,white', KINDS.values(), ids=KINDS)
def test_case_4_white_is_what_the_folder_holds(root, values, save, white):
    data = read(deep(root, values, save))
    assert list(data.ranges.values()) == [white] and data.channels == 1
    note(data, '10 images', f'scaled to 8, where white is {white:,}')
    if 'resampled' not in str(values.min() < 0): assert values.min() < 0 or known(data)


@pytest.mark.parametrize('factor,white', [(1, 255), (257, 65535)])
@pytest.mark.parametrize('kind,channels', [(2, 3), (6, 4), (4, 2)])
def test_case_4_colours_of_16_bits(root, factor, white, kind, channels):
    "Pillow keeps the upper byte alone: bytes kept in 16 bits would be black."
    def save(a, path):
        full = np.repeat(a[..., None], channels, -1)
        if kind != 2: full[..., -1] = white  # seen in full
        colour_png(full, path, kind)
    data = read(deep(root, (RAMP*factor).astype(np.uint16), save))
    assert data.ranges == {'16': white} and known(data, 1 if kind == 4 else 3)


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('order', ['little', 'big'])
def test_case_4_colour_tiffs_of_16_bits(root, order, packed):
    "A TIFF by hand: bytes in 16 bits, in either byte order, as they are or packed."
    import struct
    def save(a, path):
        e, full = '<>'[order == 'big'], np.repeat(a[..., None], 3, -1)
        pixels = full.astype(f'{e}u2').tobytes()
        if packed: pixels = zlib.compress(pixels)
        pixels += bytes(len(pixels) % 2)
        bits = 8 + len(pixels)
        tags = [(256, 4, 1, 12), (257, 4, 1, 12), (258, 3, 3, bits), (259, 3, 1, 8 if packed else 1), (262, 3, 1, 2),
                (273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, 12), (279, 4, 1, len(pixels))]
        ifd = struct.pack(e + 'H', len(tags))
        for tag, kind, n, v in tags:
            value = struct.pack(e + 'HH', v, 0) if kind == 3 and n == 1 else struct.pack(e + 'I', v)
            ifd += struct.pack(e + 'HHI', tag, kind, n) + value
        head = (b'II*\0' if e == '<' else b'MM\0*') + struct.pack(e + 'I', bits + 6)
        path.with_suffix('.tif').write_bytes(head + pixels + struct.pack(e + 'HHH', 16, 16, 16) + ifd + bytes(4))
    assert known(read(deep(root, RAMP.astype(np.uint16), save)), 3)


def test_case_4_transparent_grey_of_16_bits(root):
    "The value that a tRNS chunk names is not seen: white."
    def save(a, path): Image.fromarray(a).save(f'{path}.png', transparency=0)
    values = (RAMP*257).astype(np.uint16)
    values[values > 65000] = 65000
    data = read(deep(root, values, save))
    note(data, '10 images with transparency: laid on white')
    for x in data.train.x: assert (x == 255).sum() == (values == 0).sum() and x.min() > 0


def test_case_4_pictures_that_lie_on_their_side(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.zeros((12, 24), np.uint16)
    wide[:, :12] = 65535
    def save(a, path): Image.fromarray(wide + (a % 7)[0, 0].astype(np.uint16)*0).save(f'{path}.png', exif=exif)
    data = read_folder(deep(root, RAMP, save), size=(24, 12), progress=False)
    assert (data.train.x[:, :, :11] == 255).all() and (data.train.x[:, :, 13:] == 0).all()


@pytest.mark.parametrize('values,reason', [
    (np.full((9, 9), 7., np.float32), 'up to 7: is white 1 or 255?'), (np.full((9, 9), np.nan, np.float32), 'no numbers'),
    (np.linspace(-1, 1, 81, dtype=np.float32).reshape(9, 9), 'from -1 to 1: black must be 0'),
    (np.full((9, 9), 10**6, np.int32), 'up to 1,000,000: more than 16 bits'),
    (np.full((9, 9), -5, np.int32), 'from -5 to -5: black must be 0')])
def test_case_4_refused_with_the_reason(root, values, reason):
    classes(root)
    Image.fromarray(values).save(root/'cat'/'odd.tif')
    note(read(root), 'left out 1 file: ', f'odd.tif (holds values {reason}' if 'numbers' not in reason else reason)


def test_case_4_almost_black_images_are_noted(root):
    "Whatever the reason: nothing is dark in silence."
    classes(root)
    Image.fromarray(RAMP.astype(np.uint8)//20).save(root/'cat'/'labels.png')
    note(read(root), '1 image almost black: no value above 15 of 255')


def test_case_4_bytes_and_deep_pictures_side_by_side(root):
    deep(root, RAMP.astype(np.uint16), png)
    for c in 'ab': Image.fromarray(np.roll(RAMP, 5).astype(np.uint8)).save(root/c/'plain.png')
    assert known(read(root))


def test_case_4_white_travels_with_the_trained_network(root, tmp_path):
    "predict scales a file as training scaled its own; a file that is brighter than all of those is refused."
    from cnn_tricks.core.recipe import Recipe
    from cnn_tricks.core.result import load_trained
    from cnn_tricks.core.train import train
    data = read(deep(root, (RAMP*16).astype(np.uint16), png), size=20)
    result = train(Recipe(steps=1, batch_size=4), data, device='cpu', progress=False)
    assert result.trained.ranges == data.ranges == {'16': 4095}
    result.trained.save(tmp_path/'m')
    trained = load_trained(tmp_path/'m')
    assert trained.ranges == {'16': 4095}
    dim, bright = np.full((12, 12), 200, np.uint16), np.full((12, 12), 60000, np.uint16)
    png(dim, tmp_path/'dim'), png(bright, tmp_path/'bright')
    from cnn_tricks.cli.predict import read_picture
    assert (read_picture(tmp_path/'dim.png', trained) == 200*255//4095).all()
    assert read_picture(tmp_path/'bright.png', trained) == 'holds values up to 60,000, where white was 4,095 in training'


def test_case_4_networks_saved_before_still_predict(root, tmp_path):
    import json
    from cnn_tricks.cli.predict import read_picture
    from cnn_tricks.core.recipe import Recipe
    from cnn_tricks.core.result import load_trained
    from cnn_tricks.core.train import train
    train(Recipe(steps=1, batch_size=4), read(classes(root, n=10), size=20), device='cpu', progress=False).trained.save(tmp_path/'m')
    about = json.loads((tmp_path/'m'/'recipe.json').read_text())
    del about['data']['ranges']
    (tmp_path/'m'/'recipe.json').write_text(json.dumps(about))
    png((RAMP*257).astype(np.uint16), tmp_path/'deep'), png(RAMP.astype(np.uint8), tmp_path/'plain')
    trained = load_trained(tmp_path/'m')
    assert (read_picture(tmp_path/'deep.png', trained) == read_picture(tmp_path/'plain.png', trained)).all()
    assert trained.ranges == {'16': 65535, '32': 65535}


# 5: failures are not kept

def test_case_5_a_file_that_failed_is_tried_again(root, monkeypatch):
    classes(root)
    opened, blocked = Image.open, [True]

    def guard(path, **kw):
        if blocked[0] and Path(path).name == '3.png': raise OSError('decoder error -2')
        return opened(path, **kw)
    monkeypatch.setattr(pictures.Image, 'open', guard)
    for _ in range(2): assert sum(sizes(read(root)).values()) == 6 and note(read(root), 'left out 2 files')
    blocked[0] = False
    data = read(root)
    assert sum(sizes(data).values()) == 8 and not [n for n in data.notes if 'left out' in n]


def test_case_5_files_that_were_read_are_not_decoded_again(root, monkeypatch):
    from cnn_tricks.data import image_folder as folder
    classes(root)
    (root/'cat'/'bad.png').write_text('no')
    first = read(root)
    monkeypatch.setattr(folder, 'read_images', None)
    again = read(root)
    assert again.fingerprint == first.fingerprint and again.notes == first.notes and again.ranges == first.ranges


def test_case_5_another_decoder_reads_anew(root, monkeypatch):
    from cnn_tricks.data import image_folder as folder
    classes(root)
    read(root)
    asked, reading = [], folder.read_images
    monkeypatch.setattr(folder, 'read_images', lambda *a: asked.append(1) or reading(*a))
    read(root)
    assert not asked
    monkeypatch.setattr(PIL, '__version__', '99.0')
    read(root)
    assert len(asked) == 1
    monkeypatch.delitem(Image.OPEN, 'JPEG2000')
    read(root)
    assert len(asked) == 2


# 6: folders of machines

@pytest.mark.parametrize('name', ['@eaDir', '__MACOSX', '.ipynb_checkpoints', '$RECYCLE.BIN', 'lost+found', '#recycle',
                                  'System Volume Information', '.Trash-1000', '@Recycle', '__pycache__', '.thumbnails'])
def test_case_6_folders_of_machines(root, name):
    classes(root)
    for place in (root, root/'cat'): draw(place/name, 2, seed=5), draw(place/name/'deeper', 2, seed=6)
    data = read(root)
    assert data.classes == ('cat', 'dog') and sum(sizes(data).values()) == 8
    assert len(data.notes) == 1 and 'drawn from all' in data.notes[0]


def test_case_6_thumbnails_are_named(root):
    "Since a class of gestures may be called thumbs, too."
    classes(root), draw(root/'Thumbs'), draw(root/'cat'/'thumbnails')
    data = read(root)
    assert data.classes == ('cat', 'dog') and sum(sizes(data).values()) == 8
    note(data, 'not read: 1 folder of thumbnails (Thumbs)')


def test_case_6_beside_parts(root):
    for p in ('train', 'test'): classes(root/p, n=6), draw(root/p/'@eaDir', 2)
    draw(root/'@eaDir', 3)
    assert read(root).classes == ('cat', 'dog')


# 7: notes have an end

def test_case_7_many_small_classes(root):
    for i in range(60):
        draw(root/f'c{i:02}', 2, seed=i)
        (root/f'empty{i:02}').mkdir()
        (root/f'words{i:02}').mkdir(), (root/f'words{i:02}'/f'a.x{i}').touch(), (root/f'c{i:02}'/f'a.y{i}').touch()
        (root/f'c{i:02}'/'bad.png').touch()
    data = read(root)
    assert len(data.notes) <= 8 and max(map(len, data.notes)) < 300
    lacks = [n for n in data.notes if 'no image in the' in n]
    assert len(lacks) == 2 and all(n.count("'c") == 3 and 'classes have' in n and ' more' in n for n in lacks)
    note(data, 'left out 60 empty folders: empty00, empty01, empty02 and 57 more')
    note(data, 'left out 60 files (60 empty): ', ' and 57 more'), note(data, 'left out 60 folders without', ' and 57 more')


def test_case_7_many_reasons(root):
    classes(root, n=8)
    for i in range(20): Image.fromarray(np.full((9, 9), 2 + i/2, np.float32)).save(root/'cat'/f'f{i}.tif')
    line = note(read(root), 'left out 20 files')
    assert len(line) < 400 and line.count('white') <= 6


def test_ranges_travel_with_a_subset(root):
    data = read(deep(root, RAMP.astype(np.uint16), png))
    assert isinstance(data, ImageData) and data.subset(4).ranges == data.resize(6).ranges == data.split(3).ranges == {'16': 255}
