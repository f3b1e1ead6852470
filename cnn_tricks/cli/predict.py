"""`cnn_tricks predict`: the class of each picture, and where the network looks in it"""
import json
from pathlib import Path

from .errors import complain

__all__ = ['load_model', 'read_picture', 'probabilities', 'new_file', 'draw_heat', 'predict_command']


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
    if Path(path).is_dir(): return 'a folder; give its pictures'
    return decode_or_reason(path, trained.size, trained.channels, trained.ranges, trained.framing)


def probabilities(
    trained, # `Trained`
    paths:list # image files
): # yields (path, tensor of the class probabilities, or why there are none), in order
    "The network's answer to each picture, 256 pictures at a time so that they fit in memory"
    import numpy as np
    import torch
    for start in range(0, len(paths), 256):
        some = {p: read_picture(p, trained) for p in paths[start:start + 256]}
        good = [p for p, x in some.items() if not isinstance(x, str)]
        if good: some.update(zip(good, trained.predict(torch.from_numpy(np.stack([some[p] for p in good])))))
        for p in paths[start:start + 256]: yield p, some[p]


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


def predict_command(
    a # what argparse made of the command line
)->int: # exit code: 1 if a picture could not be read
    "`cnn_tricks predict`: the most probable classes of each picture, and where the network looks in it"
    trained, rows, code = load_model(a.model), [], 0
    for path, p in probabilities(trained, a.images):
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
