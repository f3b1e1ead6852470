"""A folder of images, or a table of their labels, read once, decoded and kept in a cache file"""
import hashlib, os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch

from ..base.fields import check_value
from .cache import load_array, room, save_array
from .decode import SUFFIXES, as_size, decoders, printable, still_bad
from .framing import Framing, as_framing
from .folder_layout import FolderError, examples, some
from .grouped_split import deal_groups
from .images import ImageData, Part, stratified_order
from .label_table import find_files
from .loaders import image_loaders  # noqa: F401 what is read has its method `loaders`
from .origin import Origin
from .reading import read_images

__all__ = ['read_folder', 'read_files']


def read_folder(path: str | os.PathLike,  # A folder for each class, or train, valid (val) and test folders of such; or a CSV
                size: int | tuple | None = None,  # Pixels: both sides or (height, width); None: chosen, at most 64
                valid: float = 0.2,  # Share of images to validate on, where the folders do not say
                test: float = 0.2,  # Share of images to test on, where the folders do not say
                seed: int = 0,  # Of that split
                max_memory: int = 1 << 30,  # Bytes of images to hold in memory; beyond, they are mapped from a file
                progress: bool = True,  # Show a bar where it takes over 2 seconds?
                framing: Framing | tuple | None = None,  # How files are resized and cropped; None: the middle, bilinear
                ) -> ImageData:
    """Read a folder of labelled images, or those that a CSV file lists; `notes` of the data say what was handled, and how

    A CSV file has a header and the columns path (relative to it) and label, and may have split and group: images of one
    group (of one animal, of one burst) stay in one part, here and in every later split.

    Every file is decoded once, by threads, and the images are kept in the cache folder until a file changes. Raises
    `FolderError`, in one line that names the file or folder, for what cannot be meant: no class folders, one class, no
    image that can be read, parts without a class that others have; `TypeError` or `ValueError` for a wrong argument.
    """
    root, found, groups, layout, lines = find_files(path)
    return read_files(found, root, size, valid, test, seed, max_memory, progress, layout, lines, framing, groups)


def read_files(found: list,  # (part, class, path) of each file; part: 'train', 'valid', 'test' or ''
               root: str,  # What to call it all in errors, and the data set by its last part
               size: int | tuple | None = None, valid: float = 0.2, test: float = 0.2,  # These and the next line's:
               seed: int = 0, max_memory: int = 1 << 30, progress: bool = True,  # as in `read_folder`
               layout: tuple = ('',),  # The parts that are given
               lines: list = (),  # What to note besides: on files that are not read, say
               framing: Framing | tuple | None = None,  # As in `read_folder`
               groups: list | None = None,  # The number of each file's group, which stays in one part
               ) -> ImageData:
    """Read image files whose parts and classes are known

    Raises as `read_folder` does: `FolderError` for one class, no image that can be read, a part with a class that train
    lacks, or no room for the images; `ValueError` for a number out of its range, and where `valid` and `test` leave
    nothing to train on; `TypeError` for an argument of a wrong type.
    """
    size = None if size is None else as_size(size)
    valid, test = (check_value(name, v, float, interval='(0, 1)') for name, v in (('valid', valid), ('test', test)))
    if valid + test >= 1: raise ValueError(f'test={test}: with valid={valid} it must leave images to train on')
    seed, max_memory = check_value('seed', seed, int), check_value('max_memory', max_memory, int, ge=0)
    classes = _learnable(root, found, layout, lines)
    framing = as_framing(framing)
    more = [v for v in (framing, groups) if v is not None]
    key = _key(found, size, valid, test, seed, *more)
    kept = _load(key, found, max_memory)
    if kept is None:
        def parts_of(files):  # the places in `files` of each part's images
            y = torch.tensor([classes.index(found[i][1]) for i in files])
            among = None if groups is None else [groups[i] for i in files]
            parts = _assign(y, [found[i][0] for i in files], layout, dict(valid=valid, test=test), seed, among)
            return dict(y=y.tolist(), groups=among, parts=parts)
        order = _ordered(range(len(found)), parts_of(range(len(found))))
        try:
            read = read_images([f[2] for f in found], size, max_memory, progress, framing, order)
            keep = [i for i in range(len(found)) if i not in read.about['bad']]
            if not keep: raise FolderError(f'{printable(root)}: no image can be read: {printable(found[0][2])} is '
                                           f'{read.about["bad"][0]}')
            about = read.about | parts_of(keep)
            about['copies'], order = _copies(read, keep, about['parts']), _ordered(keep, about)
            about['keys'] = [read.keys[i] for i in order]
            kept = _keep(key, read, order, about, max_memory)
        except OSError as e: raise FolderError(f'{printable(root)}: its images find no room: {e.strerror}') from None
    drawn = [f'{p} {share:.0%}' for p, share in (('valid', valid), ('test', test)) if p not in layout]
    pool = 'train' if 'train' in layout else 'all'
    whole = '' if groups is None else f', {some(len(set(groups)), "group")} kept whole'
    drawn = drawn and f'drawn from {pool}, stratified{whole}, seed {seed}: {", ".join(drawn)}'
    again = partial(read_files, found, root, tuple(kept[1]['size']), valid, test, seed, max_memory, progress, layout,
                    lines, groups=groups)
    data = _data(root, *kept, classes, list(_notes(kept[1], found, lines, size, drawn)))
    return replace(data, framing=framing, origin=Origin(again, data.size, kept[1]['keys']))


def _ordered(files, about):
    "The files part by part"
    return [files[i] for part in about['parts'].values() for i in part]


def _assign(y, given, layout, shares, seed, groups=None):
    "Indices of each part's images: as the folders have it, and a stratified share of train for a part they lack"
    parts = {p: [i for i, g in enumerate(given) if g == p] for p in layout if p}
    pool = torch.tensor([i for i, g in enumerate(given) if g in ('', 'train')], dtype=torch.int64)
    drawn = [p for p in ('test', 'valid') if p not in layout]
    if groups is not None and drawn:
        wanted = [shares[p] for p in drawn]
        where = deal_groups(y[pool], torch.tensor(groups)[pool], [1 - sum(wanted), *wanted], seed)
        parts |= {p: pool[where == i].tolist() for i, p in enumerate(['train', *drawn])}
        return {p: parts[p] for p in ('train', 'valid', 'test')}
    order = pool[stratified_order(y[pool], seed)].tolist()
    spare = len(pool) - len(y[pool].unique())
    for p in drawn:
        n = min(max(1, round(shares[p]*len(pool))), spare)
        parts[p], order, spare = order[:n], order[n:], spare - n
    for c in set(y[pool].tolist()) - set(y[order].tolist()):  # a class of one image keeps it to learn from
        p, i = next((p, i) for p in drawn for i in reversed(parts[p]) if y[i] == c)
        parts[p].remove(i)
        order.append(i)
    parts['train'] = order
    return {p: sorted(parts[p]) for p in ('train', 'valid', 'test')}


def _learnable(root, found, layout, lines=()):
    "The classes' names, sorted; refuses what would train on nonsense"
    by_part = {p: {f[1]: f[2] for f in found if f[0] == p} for p in layout}
    learn = by_part.get('train', by_part.get('', {}))
    for name, path in ((n, p) for names in by_part.values() for n, p in names.items() if n not in learn):
        near = next((n for n in learn if n.casefold() == name.casefold()), None)
        raise FolderError(f'{printable(path)}: the train folder has no image of its class {name!r}'
                          + (f', but of {near!r}' if near else ''))
    if len(learn) > 1: return sorted(learn)
    raise FolderError(f'{printable(root)}: ' + (
        f'has one class ({min(learn)!r}) only, so there is nothing to tell apart' if learn else
        f'no image in it; expected a folder for each class, with images ({", ".join(sorted(SUFFIXES))})')
        + ''.join(f'; {line}' for line in lines))


_noted = dict(transparent='with transparency: laid on white', cmyk='in CMYK: converted',
              animated='animated: the first frame taken', turned="turned as the camera's EXIF mark says",
              small='smaller than the size: enlarged', oblong='of another shape: the middle taken',
              dark='almost black: no value above 15 of 255')
_depths = {'16': 'of 16 bits', '32': 'of 32 bits', 'float': 'in floating point'}


def _left_out(bad, found):
    "A line for the files that failed: how many of each kind, and an example of each"
    kinds, turn = Counter(bad[i] for i in sorted(bad, key=int)), Counter()
    def place(i): turn[bad[i]] += 1; return turn[bad[i]], int(i)
    order = sorted(bad, key=place)
    said = [f'{printable(os.path.join(*found[int(i)][2].split(os.sep)[-2:]))} ({bad[i]})' for i in order]
    each = f' ({examples([f"{n:,} {why}" for why, n in kinds.most_common()])})' if len(bad) > 3 else ''
    return f'left out {some(len(bad), "file")}{each}: {examples(said)}'


def _notes(about, found, lines, asked, drawn):
    "A line for each kind of thing that was handled"
    h, w = about['size']
    if not asked: yield (f'size {h} x {w}: the median of the smaller sides is {about["side"]}, taken up to 64; '
                         'choose another with size')
    yield from lines
    if about['bad']: yield _left_out(about['bad'], found)
    whites = {f'depth {d}': f'{_depths[d]}: scaled to 8, where white is {w:,}' for d, w in about['ranges'].items()}
    yield from (f'{some(n, "image")} {(_noted | whites)[tag]}' for tag, n in sorted(about['seen'].items()) if n)
    if drawn: yield drawn


def _key(found, *settings):
    "A hash of what decodes, and of all names, sizes and times of change"
    def stamp(path):
        try: return (lambda s: (s.st_size, s.st_mtime_ns))(os.stat(path))
        except OSError: return None
    h = hashlib.blake2b(repr((4, decoders(), settings)).encode(), digest_size=12)
    for part, name, p in found:
        h.update(repr((part, name, os.path.abspath(p), stamp(p))).encode('utf-8', 'surrogateescape'))
    return h.hexdigest()


def _load(key, found, max_memory):
    "What was kept; None where there is nothing, or where a file that failed then can be read now"
    kept = load_array(key, max_memory)
    if kept is None or not kept[1]['bad']: return kept
    (x, about), bad = kept, kept[1]['bad']
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # a failure is not kept: each is tried again
        now = list(pool.map(lambda i: still_bad(found[int(i)][2], x.shape[2:], x.shape[1]), bad))
    about['bad'] = dict(zip(bad, now))
    return kept if all(now) else None


def _data(root, x, about, classes, notes):
    "The data set; refuses empty parts, and notes classes that a part lacks"
    y, parts, start, groups = torch.tensor(about['y']), {}, 0, about.get('groups')
    for p, idx in about['parts'].items():
        if not idx: raise FolderError(f'{printable(root)}: {len(x)} usable images leave none for the {p} part')
        kept = None if groups is None else torch.tensor(groups)[torch.tensor(idx)]
        parts[p] = Part(torch.from_numpy(x[start:start + len(idx)]), y[torch.tensor(idx)], groups=kept)
        start += len(idx)
        missed = [repr(name) for c, name in enumerate(classes) if c not in parts[p].y]
        if p == 'train' and missed:
            raise FolderError(f'{printable(root)}: no image to train class {examples(missed)} on can be read')
        if len(missed) == 1: notes.append(f'class {missed[0]} has no image in the {p} part')
        elif missed: notes.append(f'{len(missed):,} classes have no image in the {p} part: {examples(missed)}')
    notes += [f'{some(n, "image")} of the {p} part are in the train part too: accuracy on it flatters'
              for p, n in about['copies'].items() if n]
    name = printable(os.path.basename(os.path.abspath(root)))
    return ImageData(**parts, classes=classes, name=name, notes=notes, ranges=about['ranges'])


def _copies(read, keep, parts):
    "How many images of valid and of test are in train too"
    keys = {p: [read.keys[keep[i]] for i in part] for p, part in parts.items()}
    known = set(keys['train'])
    return {p: sum(k in known for k in keys[p]) for p in ('valid', 'test')}


def _keep(key, read, order, about, max_memory):
    "The images part by part: kept for the next time, where the cache folder can be written, and returned"
    row, x = {i: r for r, i in enumerate(read.order)}, read.room.x
    rows = [row[i] for i in order]
    saved = save_array(key, read.room, rows, about)
    if saved and x.size > max_memory and (loaded := load_array(key, max_memory)): return loaded
    if rows == list(range(len(x))): return x, about
    out = room(len(rows), x.shape[1:], max_memory).x
    for i in range(0, len(rows), 256): out[i:i + 256] = x[rows[i:i + 256]]
    return out, about
