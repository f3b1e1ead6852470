"""Labels from a CSV file: which image has which class and, where it says so, which part and which group"""
import csv, io, os, unicodedata
from collections import defaultdict

from .decode import printable
from .folder_layout import FolderError, examples, find_images, some
from .part_names import name_words, part_of

__all__ = ['is_table', 'find_files', 'find_labelled']


def is_table(path: str | os.PathLike,  # Of a file or a folder
             ) -> bool:
    "Is it a file whose suffix says that it holds a table?"
    return os.path.splitext(path)[1].lower() in ('.csv', '.tsv', '.txt') and os.path.isfile(path)


def find_files(path: str | os.PathLike,  # A folder, as `find_images` takes it, or a table, as `find_labelled` does
               ) -> tuple:  # What holds it all, [(part, class, file)], their groups or None, the parts, lines on the rest
    "The labelled image files that are meant; `FolderError` where that cannot be told"
    path = path if path is None else os.path.expanduser(os.fspath(path))
    if path and is_table(path):
        found, groups, layout, lines = find_labelled(path)
        return path, found, groups, layout, lines
    root, found, layout, lines = find_images(path)
    return root, found, None, layout, lines


def find_labelled(path: str | os.PathLike,  # A CSV file with a header: path, label and, if wanted, split and group
                  ) -> tuple:  # [(part, class, file)], its groups or None, the parts, lines on what is not read
    """The image files that a table lists, with their parts, classes and groups; paths are relative to the table

    Columns are known by their names, in the usual spellings (`filename`, `Class`, `subset`, `patient_id`). What cannot
    be used is left out, and a line for each kind says so. `FolderError`, in one line, where a column is missing or could
    be two things, no listed file exists, classes differ only in case, or a group has images in two parts.
    """
    name, lines = printable(path), []
    columns, rows, unused = _rows(path, name)
    if unused: lines.append(f'not read: {some(len(unused), "column")} ({examples(unused, 6)})')
    rows = list(_labelled(rows, columns, lines))
    rows = _one_row_a_file(_in_known_parts(rows, columns, name, lines), lines)
    rows = _there(rows, path, name, lines)
    _check(rows, name)
    found = [(part, label, file) for file, label, part, _ in rows]
    layout = [p for p in ('train', 'valid', 'test') if p in {f[0] for f in found}] or ['']
    if layout != [''] and 'train' not in layout: raise FolderError(f'{name}: has {" and ".join(layout)} but no train rows')
    return found, _numbered(rows) if 'group' in columns else None, layout, lines


_files = set('path paths file files filename filenames filepath filepaths fname fnames image images img imgs picture '
             'pictures pic photo photos'.split())
_meanings = dict(  # the words that name a column, in the order in which they are asked
    split=set('split splits set subset part partition phase'.split()),
    group=set('group groups groupid patient patientid subject subjectid animal individual burst sequence session scene '
              'series clip video case cluster identity person lesion specimen track'.split()),
    label=set('label labels labelname class classes classname category categories target targets tag species breed '
              'y'.split()),
    path=_files)
_beside = _files | set('name names id ids no number the true relative rel full data'.split())


def _meaning(header):
    "What a column holds: 'path', 'label', 'split', 'group' or None"
    words = set(name_words(header.replace('/', ' ')))
    return next((m for m, known in _meanings.items() if words & known and words <= known | _beside), None)


def _columns(header, name):
    "{meaning: index}, and the columns that mean nothing; a column that is named exactly comes before one that is nearly"
    found, texts = defaultdict(list), [h.strip() for h in header]
    for i, h in enumerate(texts): found[_meaning(h)].append(i)
    columns = {}
    for m, at in found.items():
        exact = [i for i in at if texts[i].lower() == m]
        if m and len(exact or at) > 1:
            said = ' and '.join(repr(texts[i]) for i in exact or at)
            raise FolderError(f'{name}: the columns {said} could each be the {m}; call one of them {m!r}')
        if m: columns[m] = (exact or at)[0]
    if missing := [m for m in ('path', 'label') if m not in columns]:
        raise FolderError(f'{name}: no column is called {" or ".join(missing)}; its first line must name the columns, as '
                          f'path,label (it has {examples([repr(t) for t in texts], 6)})')
    return columns, [t or 'without a name' for i, t in enumerate(texts) if i not in columns.values()]


def _text(path, name):
    "A file's text, in UTF-8, or in UTF-16 as some spreadsheets write it"
    try:
        with open(path, 'rb') as f: raw = f.read()
    except OSError as e: raise FolderError(f'{name}: cannot be opened: {e.strerror}') from None
    try: return raw.decode('utf-16' if raw[:2] in (b'\xff\xfe', b'\xfe\xff') else 'utf-8-sig')
    except UnicodeDecodeError: raise FolderError(f'{name}: is no text in UTF-8; save it as CSV in UTF-8') from None


def _rows(path, name):
    "Columns by meaning, rows as (line, cells), and the columns that are not used"
    text = _text(path, name)
    if not text.strip(): raise FolderError(f'{name}: is empty; expected lines such as path,label')
    try: delimiter = csv.Sniffer().sniff(text.lstrip().partition('\n')[0], ',;\t|').delimiter
    except csv.Error: delimiter = ','
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter)
    try: rows = [(reader.line_num, [c.strip() for c in row]) for row in reader if any(c.strip() for c in row)]
    except csv.Error as e: raise FolderError(f'{name}: line {reader.line_num}: {e}') from None
    columns, unused = _columns(rows[0][1], name)
    if len(rows) == 1: raise FolderError(f'{name}: has no line below its header')
    return columns, rows[1:], unused


def _labelled(rows, columns, lines):
    "(line, path, label, split, group) of the rows that have a path and a label"
    lost = []
    for line, cells in rows:
        def cell(m): return cells[columns[m]] if m in columns and columns[m] < len(cells) else ''
        if cell('path') and cell('label'):
            yield line, cell('path'), unicodedata.normalize('NFC', cell('label')), cell('split'), cell('group')
        else: lost.append(str(line))
    if lost: lines.append(f'left out {some(len(lost), "row")} without a path or a label (line {examples(lost)})')


def _in_known_parts(rows, columns, name, lines):
    "The rows with the part that their split says; where no row says one, parts are drawn"
    if not any(r[3] for r in rows): return [(*r[:3], '', r[4]) for r in rows]
    parts = {s: p[0] for s in {r[3] for r in rows} if (p := part_of(s)) and not p[1]}
    odd = [r for r in rows if r[3] and r[3] not in parts]
    bare = [str(r[0]) for r in rows if not r[3]]
    said = examples(sorted({repr(r[3]) for r in odd}))
    if len(odd) + len(bare) == len(rows):
        raise FolderError(f'{name}: no row is of the split train, valid or test; it has {said}')
    if odd: lines.append(f'not read: {some(len(odd), "row")} of a split that is neither train, valid nor test ({said})')
    if bare: lines.append(f'not read: {some(len(bare), "row")} without a split (line {examples(bare)})')
    return [(*r[:3], parts[r[3]], r[4]) for r in rows if r[3] in parts]


def _one_row_a_file(rows, lines):
    "(path, label, part, group) of each file once; one that is said to be two things is left out"
    by_path = defaultdict(list)
    for _, path, *rest in rows: by_path[os.path.normpath(path)].append(tuple(rest))
    same = sum(len(said) - len(set(said)) for said in by_path.values())
    if same: lines.append(f'{some(same, "row")} said again what another says')
    odd = {p for p, said in by_path.items() if len(set(said)) > 1}
    for i, what in enumerate(('labels', 'splits', 'groups')):
        two = {p: found for p in odd if len(found := sorted({s[i] for s in by_path[p]})) > 1}
        if two: lines.append(f'left out {some(len(two), "file")} with two {what}: ' + examples(
            [f'{printable(p)} ({" and ".join(map(repr, found[:2]))})' for p, found in sorted(two.items())]))
    return [(p, *said[0]) for p, said in by_path.items() if p not in odd]


def _there(rows, path, name, lines):
    "The rows whose file exists, with its full path"
    folder = os.path.dirname(os.path.abspath(path))
    def full(p):
        file = os.path.join(folder, p)
        return file if os.path.isfile(file) else os.path.join(folder, p.replace('\\', '/'))  # written on Windows
    rows = [(full(p), *rest) for p, *rest in rows]
    there = [r for r in rows if os.path.isfile(r[0])]
    missing = [os.path.relpath(r[0], folder) for r in rows if not os.path.isfile(r[0])]
    if rows and not there:
        raise FolderError(f'{name}: none of the files that it lists exists: {examples(list(map(printable, missing)))} '
                          f'(looked for in {printable(folder)})')
    if missing: lines.append(f'left out {some(len(missing), "file")} that {"does" if len(missing) == 1 else "do"} '
                             f'not exist: {examples(list(map(printable, missing)))}')
    return there


def _check(rows, name):
    "Refuse classes that are hardly two, and groups in two parts"
    if not rows: raise FolderError(f'{name}: no row is left that says one thing of one file')
    spelt, parts = {}, {}
    for _, label, part, group in rows:
        twin = spelt.setdefault(label.casefold(), label)
        if twin != label: raise FolderError(f'{name}: the classes {twin!r} and {label!r} differ only in case or accents')
        other = parts.setdefault(group, part) if group else part
        if other != part: raise FolderError(f'{name}: the group {group!r} has images in {other} and in {part}; those of '
                                            'one group must stay in one part')


def _numbered(rows):
    "The number of each row's group; an image without one is a group of its own"
    numbers = {}
    return [numbers.setdefault(group or (i,), len(numbers)) for i, (*_, group) in enumerate(rows)]
