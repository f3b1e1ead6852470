"""A folder for what is kept between runs, and arrays of images in it: in memory, or mapped from a file"""
import json, math, os, sys, tempfile
from pathlib import Path

import numpy as np

from ..base.files import atomic_write

__all__ = ['cache_dir', 'save_array', 'load_array', 'room']


def cache_dir() -> Path:  # Need not exist yet
    "The folder for what is kept between runs: `CNN_TRICKS_CACHE`, or the platform's cache folder"
    if os.environ.get('CNN_TRICKS_CACHE'): return Path(os.environ['CNN_TRICKS_CACHE']).expanduser()
    home = Path.home()
    if sys.platform == 'win32': return Path(os.environ.get('LOCALAPPDATA', home/'AppData'/'Local'))/'cnn_tricks'/'cache'
    if sys.platform == 'darwin': return home/'Library'/'Caches'/'cnn_tricks'
    return Path(os.environ.get('XDG_CACHE_HOME') or home/'.cache')/'cnn_tricks'


def save_array(name: str,  # What to call it
               x: np.ndarray,  # uint8, of any shape
               order: list,  # Which rows to keep, in which order
               about: dict,  # Anything that JSON can hold
               keep: int = 20,  # How many arrays to keep; the oldest go
               ) -> bool:  # Could the cache folder be written?
    "Keep rows of an array in the cache folder; failure is told and is no error"
    folder, head = cache_dir()/'arrays', dict(descr='|u1', fortran_order=False, shape=(len(order), *x.shape[1:]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder/f'{name}.npy') as f:
            np.lib.format.write_array_header_1_0(f, head)
            for i in range(0, len(order), 4096): f.write(x[order[i:i + 4096]].tobytes())
        with atomic_write(folder/f'{name}.json') as f: f.write(json.dumps(about).encode())
        for old in sorted(folder.glob('*.npy'), key=os.path.getmtime)[:-keep]:
            for p in (old.with_suffix('.json'), old): p.unlink(missing_ok=True)
    except OSError: return False
    return True


def load_array(name: str,  # What it is called
               max_memory: int,  # Bytes; a larger array is mapped from its file
               ) -> tuple | None:  # (x, about)
    "What `save_array` kept; None where there is nothing, or nothing that can be read"
    try:
        about = json.loads((cache_dir()/'arrays'/f'{name}.json').read_text(encoding='utf-8'))
        x = np.load(cache_dir()/'arrays'/f'{name}.npy', mmap_mode='c')
        return (x if x.size > max_memory else np.array(x)), about
    except (OSError, ValueError): return None


def room(n: int,  # How many images
         shape: tuple,  # (C, H, W)
         max_memory: int,  # Bytes
         ) -> np.ndarray:  # uint8 (n, C, H, W)
    "Room for images: in memory, or in a temporary file beyond `max_memory`; `OSError` on a full disk"
    need = n*math.prod(shape)
    if need <= max_memory: return np.empty((n, *shape), np.uint8)
    home = cache_dir()
    try: home.mkdir(parents=True, exist_ok=True)
    except OSError: home = None
    file = tempfile.TemporaryFile(dir=home if home and os.access(home, os.W_OK) else None)
    # takes the room now: a full disk is an error here, and not a crash while writing
    if hasattr(os, 'posix_fallocate'): os.posix_fallocate(file.fileno(), 0, need)
    return np.memmap(file, np.uint8, 'w+', shape=(n, *shape))
