"""`cnn_tricks lessons`: a copy of the course to write in, and JupyterLab there"""
import json
import os
import subprocess
import sys
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from ..base.files import atomic_write
from ..base.paths import lessons_path

__all__ = ['copy_lessons', 'lessons_command']


def _digest(data): return sha256(data).hexdigest()


def copy_lessons(
    folder:Path # where to; created if missing
)->tuple: # (how many files are up to date, names of those that were kept because they were changed)
    """Copy the lessons and their images out of the package. What was copied is noted with its checksum: a file that has
    another one now was changed by its owner, and stays. Raises `OSError` where the folder cannot be written."""
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
    """`cnn_tricks lessons`: copies the lessons and opens JupyterLab there.

    Raises `OSError` where the folder cannot be written, `ImportError` where JupyterLab is missing."""
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
