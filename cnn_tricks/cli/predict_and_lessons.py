"""`cnn_tricks predict` and `cnn_tricks lessons`"""
import json, os, subprocess, sys
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from .errors import _complain
from ..base.paths import lessons_path
from ..base.files import atomic_write

__all__ = ['predict_command', 'copy_lessons', 'lessons_command']


def _picture(path, trained):
    "A picture as training saw its own: uint8 (C, H, W); or why there is none"
    from cnn_tricks.data.decode import decode_or_reason
    if not Path(path).exists(): return 'no such file'
    if Path(path).is_dir(): return 'a folder; give its pictures'
    return decode_or_reason(path, trained.size, trained.channels, trained.ranges)

def _probabilities(trained, paths):
    "(path, its class probabilities or why there are none) for each path, in order; so many at a time as fit in memory"
    import numpy as np, torch
    for start in range(0, len(paths), 256):
        some = {p: _picture(p, trained) for p in paths[start:start + 256]}
        good = [p for p, x in some.items() if not isinstance(x, str)]
        if good: some.update(zip(good, trained.predict(torch.from_numpy(np.stack([some[p] for p in good])))))
        for p in paths[start:start + 256]: yield p, some[p]

def _best(p, classes, n):
    "The `n` most probable classes"
    values, order = p.topk(min(n, len(p)))
    return [{'class': classes[i], 'probability': round(v, 4)} for v, i in zip(values.tolist(), order.tolist())]


def _load(folder):
    from cnn_tricks.core.result import load_trained
    try: return load_trained(folder)
    except (FileNotFoundError, MemoryError): raise
    except Exception as e: raise ValueError(f'{folder} cannot be read as a model: {type(e).__name__}: {e}'[:300]) from e

def _own_file(folder, name): # a new file there, made at once: two commands never take the same name
    n = 1
    while True:
        file = folder/f'{name}{f"_{n}" * (n > 1)}.png'
        try: file.touch(exist_ok=False)
        except FileExistsError: n += 1
        else: return file

def _draw_heat(path, trained, folder): # -> the file that shows where the network looks in a picture
    from cnn_tricks.tools.heat_overlay import explain
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = _own_file(Path(folder), Path(path).name)
    try: explain(trained, _picture(path, trained)).savefig(file, dpi=100)
    except BaseException:
        file.unlink()
        raise
    return file


def predict_command(
    a # what argparse made of the command line
)->int: # exit code: 1 if a picture could not be read
    "`cnn_tricks predict`: the most probable classes of each picture, and where the network looks in it"
    trained, rows, code = _load(a.model), [], 0
    for path, p in _probabilities(trained, a.images):
        if isinstance(p, str):
            code = _complain(f'error: {path}: {p}')
            rows.append({'image': path, 'error': p})
            continue
        best, heat = _best(p, trained.classes, a.top), _draw_heat(path, trained, a.heat) if a.heat else None
        rows.append({'image': path, 'top': best} | ({'heat': str(heat)} if heat else {}))
        said = ', '.join(f'{b["class"]} {100*b["probability"]:.1f} %' for b in best)
        if not a.json: print(f'{path}: {said}' + f' ({heat})' * bool(heat))
    if a.json: print(json.dumps(rows, indent=1, ensure_ascii=False))
    return code


def _digest(data): return sha256(data).hexdigest()

def copy_lessons(
    folder:Path # where to; created if missing
)->tuple: # (how many files are up to date, names of those that were kept because they were changed)
    "Copy the lessons and their images out of the package; a file that was changed since it was copied is left alone"
    source, notes = lessons_path(), folder/'.cnn_tricks_lessons.json'
    (folder/'images').mkdir(parents=True, exist_ok=True)
    copied = json.loads(notes.read_text(encoding='utf-8')) if notes.exists() else {}
    kept, new = [], {}
    for p in [*sorted(source.glob('*.ipynb')), *sorted(p for p in source.glob('images/*') if p.is_file())]:
        name, data = p.relative_to(source).as_posix(), p.read_bytes()
        there = (folder/name).read_bytes() if (folder/name).exists() else data
        if there != data and _digest(there) != copied.get(name): kept.append(name)
        else: new[name] = data
    for name, data in new.items():
        with atomic_write(folder/name) as f: f.write(data)
    copied |= {name: _digest(data) for name, data in new.items()}
    with atomic_write(notes) as f: f.write(json.dumps(copied, indent=1).encode())
    return len(new), kept


def lessons_command(
    a # what argparse made of the command line
)->int: # exit code
    "`cnn_tricks lessons`: copies the lessons and opens JupyterLab there"
    folder = Path(a.folder)
    try: n, kept = copy_lessons(folder)
    except OSError as e: raise OSError(f'cannot write the lessons to {folder}: {e.strerror or e}') from e
    print(f'{n} files in {folder}' + (f'; kept, since you changed them: {", ".join(kept)}' if kept else ''))
    if a.no_open: return 0
    if not find_spec('jupyterlab'): raise ImportError("JupyterLab is not installed: pip install 'cnn_tricks[course]'")
    command = [sys.executable, '-m', 'jupyterlab', 'index.ipynb'] + ([f'--port={a.port}'] if a.port else [])
    if hasattr(os, 'geteuid') and os.geteuid() == 0: command.append('--allow-root')  # usual in containers
    sys.stdout.flush()
    if sys.platform == 'win32': return subprocess.run(command, cwd=folder).returncode
    os.chdir(folder)
    os.execv(sys.executable, command)  # JupyterLab takes this process over, and with it Ctrl-C
