"""`cnn_tricks predict`: the class of each picture, of a few or of whole folders, and where the network looks in it"""
import json
import os
from pathlib import Path

from .console import console
from .errors import UsageError, complain

__all__ = ['load_model', 'read_picture', 'files_of', 'some_views', 'probabilities', 'new_file', 'draw_heat',
           'write_table', 'predict_command']


def load_model(
    folder:Path # that `cnn_tricks train` has left, or a file in it
): # `Trained`
    """The network of a run, to predict with.

    Raises `FileNotFoundError` where there is none, and `ValueError` where it cannot be read."""
    from ..core.result import load_trained
    try: return load_trained(folder)
    except (FileNotFoundError, MemoryError): raise
    except Exception as e: raise ValueError(f'{folder} cannot be read as a model: {type(e).__name__}: {e}'[:300]) from e


def read_picture(
    path:str, # an image file of any size and kind
    trained # `Trained`
): # uint8 array (C, H, W), or why there is none, as text
    "A picture as training saw its own: read by the same decoder, cut and scaled in the same way"
    from ..data.decode import decode_or_reason
    if not Path(path).exists(): return 'no such file'
    return decode_or_reason(path, trained.size, trained.channels, trained.ranges, trained.framing)


def files_of(
    names:list # files, which need not exist, and folders
)->tuple: # files, in place of a folder the images in it; exit code: 1 if a folder has none
    "What is to be predicted; lines tell what else is in a folder. Raises `FolderError` where there is nothing at all"
    from ..data.folder_layout import FolderError, all_images
    files, code = [], 0
    for name in names:
        try: found, lines = all_images(name) if os.path.isdir(name) else ([name], [])
        except FolderError as e:
            if len(names) == 1: raise
            code, found, lines = complain(f'error: {e}'), [], []
        for line in lines: complain(f'{name}: {line}')
        files += found
    return files, code


def some_views(
    n:int, # how many, 1 to 10
    size:tuple # (height, width) in pixels
)->list: # functions of images, for `predict_tta`
    "An image as it is and mirrored, and then both moved by a sixteenth of the size: to the right, left, down and up"
    from ..tools.tta import one_view
    d, r = (max(1, s//16) for s in size)
    moves = (0, 0), (0, r), (0, -r), (d, 0), (-d, 0)
    return [one_view(*m, mirror) for m in moves for mirror in (False, True)][:n]


def probabilities(
    trained, # `Trained`
    paths:list, # image files, any number
    views:int=1 # of each, whose probabilities are averaged
): # yields (path, tensor of the class probabilities, or why there are none), in order
    "The network's answer to each picture, batch by batch; threads decode the next ones meanwhile"
    from concurrent.futures import ThreadPoolExecutor
    import numpy as np
    import torch
    from ..tools.tta import predict_tta
    n = max(16, min(256, 2**23//(trained.channels*trained.size[0]*trained.size[1])))  # so that a batch fits in memory
    shown = some_views(views, trained.size)
    chunks = [paths[i:i + n] for i in range(0, len(paths), n)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        def begin(chunk): return [pool.submit(read_picture, p, trained) for p in chunk]
        waiting = begin(chunks[0]) if chunks else []
        try:
            for chunk, following in zip(chunks, [*chunks[1:], []]):
                now, waiting = [f.result() for f in waiting], begin(following)
                good = [i for i, x in enumerate(now) if not isinstance(x, str)]
                if good: answers = predict_tta(trained, torch.from_numpy(np.stack([now[i] for i in good])), shown)
                for i, k in enumerate(good): now[k] = answers[i]
                yield from zip(chunk, now)
        finally:
            for f in waiting: f.cancel()


def _best(p, classes, n):
    "The `n` most probable classes"
    values, order = p.topk(min(n, len(p)))
    return [{'class': classes[i], 'probability': round(v, 4)} for v, i in zip(values.tolist(), order.tolist())]


def new_file(
    folder:Path, # it exists
    name:str # of the picture
)->Path: # `name.png` there, or `name_2.png` and so on
    "A new empty file, made at once: two commands never take the same name"
    n = 1
    while True:
        file = folder/f'{name}{f"_{n}" * (n > 1)}.png'
        try: file.touch(exist_ok=False)
        except FileExistsError: n += 1
        else: return file


def draw_heat(
    path:str, # an image file that can be read
    trained, # `Trained`
    folder:str # where to; created if missing
)->Path: # the file that was drawn
    "Draw where the network looks in a picture (lesson 52); raises `OSError` where it cannot be written"
    from ..tools.heat_overlay import explain
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = new_file(Path(folder), Path(path).name)
    try: explain(trained, read_picture(path, trained)).savefig(file, dpi=100)
    except BaseException:
        file.unlink()
        raise
    return file


def write_table(
    file:Path, # to write; it must not exist
    classes:list, # their names
    answers # (path, tensor of the class probabilities, or why there are none), in any number
)->list: # 'path (why)' of the pictures without an answer
    """Write a CSV file with the columns path, class, error and one for each class: its probability

    It is there, whole, when all is done, or not at all. Raises `FileExistsError`, and `OSError` where it cannot be
    written."""
    import csv
    import io
    from ..base.files import atomic_write
    from ..data.decode import printable
    if Path(file).exists(): raise FileExistsError(f'{file} exists: remove it, or give another name')
    failed, fixed = [], ('path', 'class', 'error')
    with atomic_write(file) as raw:
        text = io.TextIOWrapper(raw, encoding='utf-8', newline='')
        rows = csv.writer(text)
        rows.writerow([*fixed, *(f'{c} (class)' if c in fixed else c for c in classes)])
        for path, p in answers:
            name = printable(path)
            if isinstance(p, str): failed.append(f'{name} ({p})')
            rows.writerow([name, '', p, *['']*len(classes)] if isinstance(p, str) else
                          [name, classes[int(p.argmax())], '', *(f'{v:.6f}' for v in p.tolist())])
        text.detach()  # flushed; `atomic_write` closes the file
    return failed


def _to_table(a, trained, files, code):
    "Write the table and say what is in it"
    from ..base.display import SlowBar
    from ..data.folder_layout import examples
    with SlowBar('predicting', len(files), console=console(stderr=True)) as bar:
        def watched():
            for i, answer in enumerate(probabilities(trained, files, a.views), 1):
                yield answer
                if i % 64 == 0: bar.update(i)
        failed = write_table(a.csv, trained.classes, watched())
    print(f'{a.csv}: {len(files):,} pictures, {len(trained.classes)} classes')
    if not failed: return code
    return complain(f'error: {len(failed):,} of {len(files):,} could not be read (see the column error): {examples(failed)}')


def predict_command(
    a # what argparse made of the command line
)->int: # exit code: 1 if a picture could not be read
    """`cnn_tricks predict`: the most probable classes of each picture, and where the network looks in it; or a table.

    Raises `UsageError` for words that do not go together, `FileExistsError` for a table that is there; and as `load_model`, `files_of` and `write_table` do."""
    if a.csv and a.json: raise UsageError('--csv and --json: give one of them')
    if a.csv and Path(a.csv).exists(): raise FileExistsError(f'{a.csv} exists: remove it, or give another name')
    trained, rows, (files, code) = load_model(a.model), [], files_of(a.images)
    if a.csv: return _to_table(a, trained, files, code)
    for path, p in probabilities(trained, files, a.views):
        if isinstance(p, str):
            code = complain(f'error: {path}: {p}')
            rows.append({'image': path, 'error': p})
            continue
        best, heat = _best(p, trained.classes, a.top), draw_heat(path, trained, a.heat) if a.heat else None
        rows.append({'image': path, 'top': best} | ({'heat': str(heat)} if heat else {}))
        said = ', '.join(f'{b["class"]} {100*b["probability"]:.1f} %' for b in best)
        if not a.json: print(f'{path}: {said}' + f' ({heat})' * bool(heat))
    if a.json: print(json.dumps(rows, indent=1, ensure_ascii=False))
    return code
