"Folders as people had them when something went wrong elsewhere: each is read as it was meant, or refused in one line."
import zlib
from itertools import product

import numpy as np
import pytest
from PIL import Image

from cnn_tricks.folder import FolderError, read_folder
from cnn_tricks.layout import _part


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
def test_case_1_names_of_parts(part, name): assert _part(name) == (part, ())


@pytest.mark.parametrize('name', 'trainer strain trains valley value latest contest testament devil device evalina cat test_train '
                                 'restraint bus'.split())
def test_case_1_names_of_classes(name): assert _part(name) is None


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


def test_case_3_a_link_to_the_whole_folder_lends_no_images(root):
    classes(root)
    (root/'cat'/'up').symlink_to(root)
    assert sum(sizes(read(root)).values()) == 8


def test_case_3_a_class_that_vanishes_is_named_where_one_is_left(root):
    draw(root/'cat'), (root/'dog').mkdir(), (root/'hen').mkdir()
    for i in range(3): (root/'dog'/f'{i}.HEIC').touch()
    refused(root, "has one class ('cat') only", 'left out 1 empty folder: hen', 'dog (3 .heic)')


# 6: folders of machines

@pytest.mark.parametrize('name', ['@eaDir', '__MACOSX', '.ipynb_checkpoints', '$RECYCLE.BIN', 'lost+found', 'Thumbs', '#recycle',
                                  'System Volume Information', '.Trash-1000', '@Recycle', '__pycache__', '.thumbnails'])
def test_case_6_folders_of_machines(root, name):
    classes(root)
    for place in (root, root/'cat'): draw(place/name, 2, seed=5), draw(place/name/'deeper', 2, seed=6)
    data = read(root)
    assert data.classes == ('cat', 'dog') and sum(sizes(data).values()) == 8
    assert len(data.notes) == 1 and 'drawn from all' in data.notes[0]


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
