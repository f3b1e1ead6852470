"""Which images of a folder belong to which class and to which part"""
import os
from collections import Counter

from .decode import is_image, printable
from .part_names import folder_name, names_nothing, names_part, names_unlabelled, part_of

__all__ = ['FolderError', 'find_images', 'all_images', 'some', 'examples']


class FolderError(ValueError):
    "A folder that cannot be read as labelled images; one line that names the file or folder"


def find_images(path: str | os.PathLike,  # Class folders, at the top or inside folders for train, valid and test
                ) -> tuple:  # The folder that holds it all, [(part, class, file)], the parts, lines on what is not read
    "The image files of a folder, with their parts and classes; `FolderError` where that cannot be told"
    root, past = _root(path)
    dirs = _groups(root)
    parts, lines = _splits(root, dirs)
    small = [n for n in _names(root) if n.lower() in _small and os.path.isdir(os.path.join(root, n))]
    said = examples(list(map(printable, small)))
    if small: lines.append(f'not read: {some(len(small), "folder")} of thumbnails ({said})')
    found, empty, loose, strays = _scan(root, {p: _inside(d) for p, d in parts.items()} or {'': root})
    if parts: past += [d for d in _entries(root)[0] if d not in dirs]
    empty |= {d: list(_walk(d)) for d in past}
    for d in dirs if not parts else []:
        if names_part(d) and _groups(d):
            lines.append(f'{folder_name(d)!r} is read as a class, like the folders beside it')
    return root, found, list(parts) or [''], [*lines, *_lines(root, empty, loose, strays)]


def all_images(folder: str | os.PathLike,  # It exists
               ) -> tuple:  # Their paths, in order; lines on the files that are not images
    "The image files of a folder, at any depth; `FolderError` where there is none, or where a folder cannot be opened"
    files = list(_walk(os.fspath(folder)))
    lines = list(_lines(folder, {}, [], [p for p in files if not _usable(p)]))
    if found := sorted(filter(_usable, files)): return found, lines
    raise FolderError(f'{printable(folder)}: no image in it' + ''.join(f'; {line}' for line in lines))


def some(n: int,  # How many
         what: str,  # Of what, in the singular
         ) -> str:
    "'1 file', '2 files'"
    return f'{n:,} {what}' + ('' if n == 1 else 's')


def examples(items: list,  # Texts
             n: int = 3,  # How many to show
             ) -> str:  # One line
    "The first few, and how many more there are"
    return ', '.join(items[:n]) + (f' and {len(items) - n:,} more' if len(items) > n else '')


_small = {'thumbs', 'thumbnails'}  # of machines too, most likely; but a class may be called so
_machines = set('__macosx @eadir @tmp @recycle @recently-snapshot #recycle #snapshot $recycle.bin recycler lost+found '
                '__pycache__'.split()) | {'system volume information', 'temporary items'} | _small


def _suffix(path): return os.path.splitext(path)[1].lower() or 'no suffix'


def _listed(folder, how):
    "What `how` says of the folder's entries, sorted by name; hidden ones left out"
    try: return sorted(how(folder))
    except OSError as e: raise FolderError(f'{printable(folder)}: cannot be opened: {e.strerror}') from None


def _is_dir(entry):
    try: return entry.is_dir()
    except OSError: return False  # a link to itself


def _names(folder): return _listed(folder, lambda f: [n for n in os.listdir(f) if n[0] != '.'])


def _entries(folder):
    "The sub-folders and the files of `folder`; folders that machines make for themselves left out"
    def look(f):
        with os.scandir(f) as entries: return [(e.name, _is_dir(e)) for e in entries if e.name[0] != '.']
    found = _listed(folder, look)
    return ([os.path.join(folder, n) for n, is_dir in found if is_dir and folder_name(n).lower() not in _machines],
            [os.path.join(folder, n) for n, is_dir in found if not is_dir])


def _usable(path):
    "A file that claims to be an image; a link to nothing counts as one that cannot be read, a pipe would wait for ever"
    return is_image(path) and (os.path.isfile(path) or not os.path.exists(path))


def _walk(folder, seen=()):
    "All files at any depth; a folder that links lead to twice is entered once, one that holds the first one never"
    real, seen = os.path.realpath(folder), seen or {}
    if real in seen or f'{next(iter(seen), "")}/'.startswith(os.path.join(real, '')): return
    seen[real] = True
    dirs, found = _entries(folder)
    yield from found
    for d in dirs: yield from _walk(d, seen)


def _has_images(folder): return any(_usable(os.path.join(folder, n)) for n in _names(folder))


def _pictured(folder): return _has_images(folder) or any(map(_usable, _walk(folder)))


def _groups(folder): "Its sub-folders with images"; return [d for d in _entries(folder)[0] if _pictured(d)]


def _shared(a, b):
    "Do two folders have class folders of the same name?"
    return bool({folder_name(d).casefold() for d in _groups(a)} & {folder_name(d).casefold() for d in _groups(b)})


def _candidate(root, dirs):
    "Of the folders whose names say parts, those that belong together: [(part, folder)]; none where all are classes"
    named, by_rest = {d: p for d in dirs if (p := part_of(d))}, {}
    for d, (part, rest) in named.items(): by_rest.setdefault(rest, []).append((part, d))
    def deep(g): return {p for p, d in g if _groups(d)}
    good = {rest: g for rest, g in by_rest.items() if 'train' in deep(g) and (not rest or len(deep(g)) > 1)}
    if () in good or len(good) == 1: return good.get((), [*good.values()][0])
    own, said = by_rest.get((), []), examples([folder_name(d) for d in named])
    if good: raise FolderError(f'{printable(root)}: several sets of parts ({said}); give one of them')
    if deep(own) and 'train' not in dict(own) and (len(named) == len(dirs) or len(deep(own)) > 1):
        raise FolderError(f'{printable(root)}: has {" and ".join(sorted(deep(own)))} but no train folder')
    bare = [d for d in named if not _groups(d)]
    all_named = len(named) == len(dirs) and (len({p for p, _ in named.values()}) > 1 or len(own) == len(dirs) > 0)
    if bare and (all_named or len({p for p, d in own if d in bare}) > 1):
        raise FolderError(f'{printable(bare[0])}: holds images but no class folders')
    if all_named: raise FolderError(f'{printable(root)}: are {said} parts or classes? Call parts train, valid and test')
    return []


def _splits(root, dirs):
    "The folders that are parts: {'train': ..., 'test': ...}, and what is not read of the others, a line each"
    chosen, parts = _candidate(root, dirs), {}
    for part, d in chosen:
        if not _groups(d): continue
        twin = parts.setdefault(part, d)
        if twin != d: raise FolderError(f'{printable(d)}: stands for the same part as {printable(twin)}')
    bare = [d for _, d in chosen if d not in parts.values()]
    others = [d for d in dirs if d not in [c for _, c in chosen]]
    if not parts or not _are_parts(root, parts, bare, others): return {}, []
    lines = [(bare, 'that holds images but no class folders'), (others, 'that is neither train, valid nor test')]
    return parts, [f'not read: {some(len(ds), "folder")} {what} ({examples([folder_name(d) for d in ds])})'
                   for ds, what in lines if ds]


def _are_parts(root, parts, bare, others):
    "Parts, or classes one of which is called train? The folders beside them decide; what could be either is refused"
    others = [d for d in others if not names_unlabelled(d)]
    more = [d for p, d in parts.items() if p != 'train']
    if not others or any(_shared(d, parts['train']) for d in more): return True
    if not more and not bare and len(others) > 1 and not any(_shared(d, parts['train']) for d in others): return False
    raise FolderError(f'{printable(root)}: is {folder_name(parts["train"])!r} the part to train on, or a class like '
                      f'{examples([repr(folder_name(d)) for d in others])}? Rename it, or move the others away')


def _inside(folder):
    "Where the class folders are: deeper, where a part lies in a folder of its own name, as in train/train"
    for _ in range(5):
        dirs = _groups(folder)
        if len(dirs) != 1 or _has_images(folder) or not _groups(dirs[0]): break
        same = part_of(dirs[0]) == part_of(folder) or folder_name(dirs[0]) == folder_name(folder)
        if not (names_nothing(dirs[0]) or same): break
        folder = dirs[0]
    return folder


def _root(path):
    "The folder to read, checked, and folders without an image that it went past; it descends where nothing else is"
    if path is None or not os.fspath(path): raise FolderError('no folder was given: the path is empty')
    root = os.path.expanduser(os.fspath(path))
    if not os.path.lexists(root): raise FolderError(f'{printable(root)}: no such folder')
    if not os.path.isdir(root):
        raise FolderError(f'{printable(root)}: is no folder; expected one with a folder for each class, or a CSV file of labels')
    past = []
    while True:
        dirs, full, here = _entries(root)[0], _groups(root), _has_images(root)
        if here and not full: raise FolderError(
            f'{printable(root)}: holds images but no class folders; put those of each class into a folder of their own')
        if here or not dirs or names_part(inner := (full or dirs)[0]) or not _entries(inner)[0]: return root, past
        if len(dirs) > 1 and (len(full) != 1 or not any(map(names_part, _groups(inner)))): return root, past
        if os.path.realpath(root).startswith(os.path.realpath(inner)): return root, past  # a link that leads back up
        root, past = inner, past + [d for d in dirs if d != inner]


def _classes(folder):
    "{class name: its folder}; names in Unicode's composed form"
    found = {}
    for d in _entries(folder)[0]:
        name = folder_name(d)
        twin = next((n for n in found if n.casefold() == name.casefold()), None)
        if twin: raise FolderError(f'{printable(d)}: the classes {twin!r} and {name!r} differ only in case or accents')
        parts = {part_of(s)[0] for s in _groups(d) if names_part(s)}
        if 'train' in parts and len(parts) > 1: raise FolderError(
            f'{printable(d)}: has {" and ".join(sorted(parts))} inside a class; put class folders into each of them')
        found[name] = d
    return found


def _scan(root, layout):
    "Image files as (part, class, path), and what was left out: folders, images, other files"
    found, empty, loose, strays = [], {}, [], []
    for part, folder in layout.items():
        files = [*_entries(folder)[1], *(_entries(root)[1] if folder != root and part == min(layout) else [])]
        loose += filter(_usable, files)
        strays += [p for p in files if not _usable(p)]
        for name, d in _classes(folder).items():
            pictures, others = [], []
            for p in _walk(d): (pictures if _usable(p) else others).append(p)
            found += [(part, name, p) for p in pictures]
            if pictures: strays += others
            else: empty[d] = others
    return found, empty, loose, strays


_foreign = set('''
.heic .heif .hif .heics .avifs .jxl .j2k .jpx .tga .psd .xcf .svg .eps .ai .pdf .exr .hdr .dcm .nii .npy .npz .ico .icns
.raw .cr2 .cr3 .crw .nef .arw .dng .orf .rw2 .raf .srw .mp4 .mov .avi .mkv .webm .m4v .3gp .mpg .mpeg .wmv'''.split())


def _kinds(paths):
    "'2 .txt, 1 no suffix'"
    return examples([f'{n} {s}' for s, n in sorted(Counter(map(_suffix, paths)).items())], 6)


def _lines(root, empty, loose, strays):
    "A line for each kind of thing that is not read"
    def at(p): return printable(os.path.relpath(p, root))
    bare, other = [d for d, files in empty.items() if not files], {d: f for d, f in empty.items() if f}
    foreign, strays = [p for p in strays if _suffix(p) in _foreign], [p for p in strays if _suffix(p) not in _foreign]
    if bare: yield f'left out {some(len(bare), "empty folder")}: {examples([at(d) for d in bare])}'
    if other: yield (f'left out {some(len(other), "folder")} without a file of a format that is read: '
                     + examples([f'{at(d)} ({_kinds(files)})' for d, files in other.items()]))
    if loose: yield f'not read: {some(len(loose), "image")} in no class folder ({examples([at(p) for p in loose])})'
    if foreign: yield (f'ignored {some(len(foreign), "file")} of a format that is not read ({_kinds(foreign)}): '
                       'save such as JPEG or PNG')
    if strays: yield f'ignored {some(len(strays), "file")} without an image suffix ({_kinds(strays)})'
