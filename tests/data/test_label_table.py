"Labels from a CSV file: columns known by meaning, groups that never cross parts, and nothing that vanishes without a word."
import numpy as np
import pytest
from PIL import Image

from cnn_tricks.data.image_folder import FolderError, read_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch): monkeypatch.setenv('CNN_TRICKS_CACHE', str(tmp_path/'cache'))


@pytest.fixture
def shots(tmp_path):
    "Sixty pictures in a folder; the first pixel of each tells its number."
    (tmp_path/'shots').mkdir()
    for i in range(60):
        a = np.random.default_rng(i).integers(0, 200, (8, 8, 3)).astype(np.uint8)
        a[0, 0] = 4*i
        Image.fromarray(a).save(tmp_path/'shots'/f'{i}.png')
    return tmp_path


def label(i): return 'cat' if i % 3 else 'dog'


def table(folder, rows, header='path,label', name='labels.csv', sep=',', **kw):
    text = '\n'.join([header.replace(',', sep), *(sep.join(map(str, r)) for r in rows)]) + '\n'
    (folder/name).write_text(text, **({'encoding': 'utf-8'} | kw))
    return folder/name


def rows_of(n=60): return [(f'shots/{i}.png', label(i)) for i in range(n)]


def read(path, **kw): return read_folder(path, **{'size': 8, 'progress': False, **kw})


def numbers(part): return [int(v)//4 for v in part.x[:, 0, 0, 0]]


def note(data, text):
    found = [n for n in data.notes if text in n]
    assert len(found) == 1, data.notes
    return found[0]


def refused(path, *texts):
    with pytest.raises(FolderError) as e: read(path)
    assert '\n' not in str(e.value) and all(t in str(e.value) for t in texts), str(e.value)


def test_labels_are_those_of_the_table(shots):
    data = read(table(shots, rows_of()))
    assert data.classes == ('cat', 'dog') and data.name == 'labels.csv' and data.train.groups is None
    assert {p: len(part) for p, part in data.parts.items()} == dict(train=36, valid=12, test=12)
    for part in data.parts.values(): assert [data.classes[y] for y in part.y] == [label(i) for i in numbers(part)]
    assert note(data, 'drawn') == 'drawn from all, stratified, seed 0: valid 20%, test 20%'
    assert sorted(sum(map(numbers, data.parts.values()), [])) == list(range(60))


@pytest.mark.parametrize('header', ['filename,class', 'Image Path,Category', 'file_name,label', 'image_id,class_name',
                                    'FileName,Label', ' path , label ', 'img,target', 'image,image_label'])
@pytest.mark.parametrize('sep', [',', ';', '\t', '|'])
def test_columns_and_delimiters(shots, header, sep):
    data = read(table(shots, rows_of(), header, sep=sep))
    for part in data.parts.values(): assert [data.classes[y] for y in part.y] == [label(i) for i in numbers(part)]


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_spreadsheets_encodings(shots, encoding):
    assert read(table(shots, rows_of(), encoding=encoding)).fingerprint == read(table(shots, rows_of(), name='b.csv')).fingerprint


def test_quotes_and_windows_paths(shots):
    Image.open(shots/'shots'/'0.png').save(shots/'shots'/'a, "b".png')
    rows = [('"shots/a, ""b"".png"', 'dog'), *((rf'shots\{i}.png', label(i)) for i in range(1, 60))]
    assert sum(len(p) for p in read(table(shots, rows)).parts.values()) == 60


def test_splits_are_kept_in_many_spellings(shots):
    split = ['Training', 'TRAIN', 'train_set', 'val', 'dev', 'Test']
    data = read(table(shots, [(*r, split[i % 6]) for i, r in enumerate(rows_of())], 'path,label,subset'))
    want = dict(train={0, 1, 2}, valid={3, 4}, test={5})
    for p, part in data.parts.items(): assert {i % 6 for i in numbers(part)} == want[p] and len(part) == 10*len(want[p])


def test_what_a_split_lacks_is_drawn(shots):
    data = read(table(shots, [(*r, 'test' if i < 12 else 'train') for i, r in enumerate(rows_of())], 'path,label,split'))
    assert sorted(numbers(data.test)) == list(range(12)) and len(data.valid) == 10
    assert note(data, 'drawn') == 'drawn from train, stratified, seed 0: valid 20%'


@pytest.mark.parametrize('seed', range(10))
def test_groups_never_cross_parts(shots, seed):
    "By indices: whatever the seed, no animal is in two parts; a picture without a group stands for itself."
    animal = {i: '' if i < 6 else f'animal {i//4}' for i in range(60)}
    path = table(shots, [(*r, animal[i]) for i, r in enumerate(rows_of())], 'path,label,animal_id')
    data = read(path, seed=seed)
    for d in (data, data.resplit(seed), *data.kfold(3, seed)):
        seen = {p: numbers(part) for p, part in d.parts.items()}
        assert sorted(sum(seen.values(), [])) == list(range(60))
        animals = {p: {animal[i] for i in n} - {''} for p, n in seen.items()}
        assert not any(animals[a] & animals[b] for a, b in (('train', 'valid'), ('train', 'test'), ('valid', 'test')))
    assert 6 <= len(data.valid) <= 18 and 6 <= len(data.test) <= 18
    assert len({int(g) for p in data.parts.values() for g in p.groups}) == 6 + 14
    note(data, '20 groups kept whole')
    assert read(path, seed=seed).valid.groups.tolist() == data.valid.groups.tolist()  # from the cache


def test_every_loss_has_a_line(shots):
    rows = [*rows_of(50), ('shots/gone.png', 'cat'), ('shots/50.png', ''), ('', 'dog'), ('shots/51.png', 'cat'),
            ('shots/51.png', 'dog'), ('shots/0.png', 'dog'), ('./shots/1.png', 'cat')]
    rows = [(*r, 'train', '3') for r in rows]
    rows += [('shots/52.png', 'cat', 'holdout', 1), ('shots/53.png', 'cat', '', 1), ('shots/54.png', 'dog', 'train', 1),
             ('shots/54.png', 'dog', 'test', 1), ('shots/55.png', 'dog', 'test', 1), ('shots/56.png', 'cat', 'test', 1)]
    (shots/'shots'/'49.png').write_bytes(b'')
    data = read(table(shots, rows, 'path,label,split,width'))
    assert sorted(sum(map(numbers, data.parts.values()), [])) == [*range(49), 55, 56]
    assert note(data, 'column') == 'not read: 1 column (width)'
    assert note(data, 'without a path') == 'left out 2 rows without a path or a label (line 53, 54)'
    assert note(data, 'neither') == "not read: 1 row of a split that is neither train, valid nor test ('holdout')"
    assert note(data, 'without a split') == 'not read: 1 row without a split (line 60)'
    assert note(data, 'two labels') == "left out 1 file with two labels: shots/51.png ('cat' and 'dog')"
    assert note(data, 'two splits') == "left out 1 file with two splits: shots/54.png ('test' and 'train')"
    assert note(data, 'again') == '2 rows said again what another says'
    assert note(data, 'not exist') == 'left out 1 file that does not exist: shots/gone.png'
    assert 'empty' in note(data, '49.png')


def test_a_class_that_a_part_lacks(shots):
    rows = [(*r, 'test' if i > 50 and i % 3 else 'train') for i, r in enumerate(rows_of())]
    note(read(table(shots, rows, 'path,label,split')), "class 'dog' has no image in the test part")
    refused(table(shots, [(*r, 'train' if i % 3 else 'test') for i, r in enumerate(rows_of())], 'path,label,split'),
            "no image of its class 'dog'")


def test_refusals(shots):
    refused(table(shots, rows_of(), 'shots/x.png,cat'), 'labels.csv: no column is called path or label; its first line')
    refused(table(shots, rows_of(), 'path,kind'), "no column is called label", "'kind'")
    refused(table(shots, [(*r, 1) for r in rows_of()], 'path,class_id,class_name'),
            "the columns 'class_id' and 'class_name' could each be the label")
    refused(table(shots, [], 'path,label'), 'no line below its header')
    refused(table(shots, [(r[0].replace('shots', 'nowhere'), r[1]) for r in rows_of()]), 'none of the files', 'nowhere/0.png')
    refused(table(shots, [(r[0], r[1].upper() if i > 30 else r[1]) for i, r in enumerate(rows_of())]), 'differ only in case')
    refused(table(shots, [(*r, 'test') for r in rows_of()], 'path,label,split'), 'has test but no train rows')
    refused(table(shots, [(*r, 'a') for r in rows_of()], 'path,label,split'), 'no row is of the split', "'a'")
    refused(table(shots, [(r[0], 'cat') for r in rows_of()]), "has one class ('cat') only")
    refused(table(shots, [(*r, 'test' if i > 30 else 'train', i//4) for i, r in enumerate(rows_of())], 'path,label,split,burst'),
            "the group '7' has images in train and in test")
    refused(table(shots, [(*r, 'one') for r in rows_of()], 'path,label,group'), 'leave none for the valid part')
    (shots/'labels.csv').write_bytes(b'path,label\n\xe9.png,cat\n')
    refused(shots/'labels.csv', 'is no text in UTF-8')
    (shots/'labels.csv').write_text(' \n')
    refused(shots/'labels.csv', 'labels.csv: is empty')
    refused(shots/'gone.csv', 'no such folder')


def test_one_exact_name_decides(shots):
    data = read(table(shots, [(*r, 7) for r in rows_of()], 'path,label,class_id'))
    assert data.classes == ('cat', 'dog') and note(data, 'column') == 'not read: 1 column (class_id)'


def test_a_table_and_its_folder_agree(shots):
    "The same pictures, once as class folders and once listed: the same data, to the last bit."
    for i in range(60):
        (shots/'pets'/label(i)).mkdir(parents=True, exist_ok=True)
        Image.open(shots/'shots'/f'{i}.png').save(shots/'pets'/label(i)/f'{i:02}.png')
    rows = sorted((str(p.relative_to(shots)), p.parent.name) for p in (shots/'pets').glob('*/*.png'))
    assert read(table(shots, rows)).fingerprint == read(shots/'pets').fingerprint
