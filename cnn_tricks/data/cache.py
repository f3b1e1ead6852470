"""A folder for what is kept between runs, and arrays of images in it: in memory, or mapped from a file"""
import json, math, mmap, os, sys, tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.files import atomic_write

__all__ = ['cache_dir', 'Room', 'room', 'save_array', 'load_array']


def cache_dir() -> Path:  # Need not exist yet
    "The folder for what is kept between runs: `CNN_TRICKS_CACHE`, or the platform's cache folder"
    if os.environ.get('CNN_TRICKS_CACHE'): return Path(os.environ['CNN_TRICKS_CACHE']).expanduser()
    home = Path.home()
    if sys.platform == 'win32': return Path(os.environ.get('LOCALAPPDATA', home/'AppData'/'Local'))/'cnn_tricks'/'cache'
    if sys.platform == 'darwin': return home/'Library'/'Caches'/'cnn_tricks'
    return Path(os.environ.get('XDG_CACHE_HOME') or home/'.cache')/'cnn_tricks'


@dataclass
class Room:
    "An array to fill: in memory, or mapped from a temporary file in numpy's format, which can then be kept as it is"
    x: np.ndarray  # uint8
    file: object = None  # The open temporary file, without a name; None: in memory
    map: mmap.mmap | None = None  # Its bytes

    def release(self):
        "Let go of the memory that mapped values hold; they stay in the file"
        if self.map is not None and hasattr(mmap, 'MADV_DONTNEED'): self.map.madvise(mmap.MADV_DONTNEED)


def room(n: int,  # How many images
         shape: tuple,  # (C, H, W)
         max_memory: int,  # Bytes
         ) -> Room:  # `x`: uint8 (n, C, H, W)
    "Room for images: in memory, or in a temporary file beyond `max_memory`; `OSError` on a full disk"
    need, home = n*math.prod(shape), cache_dir()/'arrays'
    if need <= max_memory: return Room(np.empty((n, *shape), np.uint8))
    try: home.mkdir(parents=True, exist_ok=True)
    except OSError: writable = False
    else: writable = os.access(home, os.W_OK)
    file = _nameless(home) if writable else tempfile.TemporaryFile()
    np.lib.format.write_array_header_1_0(file, dict(descr='|u1', fortran_order=False, shape=(n, *shape)))
    start = file.tell()
    # takes the room now: a full disk is an error here, and not a crash while writing
    if hasattr(os, 'posix_fallocate'): os.posix_fallocate(file.fileno(), 0, start + need)
    else: file.truncate(start + need)
    file.flush()
    mapped = mmap.mmap(file.fileno(), start + need)
    return Room(np.frombuffer(mapped, np.uint8, offset=start).reshape(n, *shape), file, mapped)


def save_array(name: str,  # What to call it
               filled: Room,  # With images
               order: list,  # Which rows to keep, in which order
               about: dict,  # Anything that JSON can hold
               keep: int = 20, most: float = 20e9,  # How many arrays, and bytes, to keep besides this; the oldest go
               ) -> bool:  # Could the cache folder be written?
    "Keep rows of an array in the cache folder; failure is told and is no error"
    folder = cache_dir()/'arrays'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if order != list(range(len(filled.x))) or not _named(filled, folder/f'{name}.npy'):
            head = dict(descr='|u1', fortran_order=False, shape=(len(order), *filled.x.shape[1:]))
            with atomic_write(folder/f'{name}.npy') as f:
                np.lib.format.write_array_header_1_0(f, head)
                for i in range(0, len(order), 256):
                    f.write(filled.x[order[i:i + 256]].tobytes())
                    filled.release()
        with atomic_write(folder/f'{name}.json') as f: f.write(json.dumps(about).encode())
        total = 0
        for i, old in enumerate(sorted(folder.glob('*.npy'), key=os.path.getmtime, reverse=True)):
            total += old.stat().st_size
            if i and (i >= keep or total > most):
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


def _nameless(folder):
    "A temporary file without a name, which ends with the process; on Linux it can get one (Python's own cannot)"
    try: return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), 'w+b')
    except (AttributeError, OSError): return tempfile.TemporaryFile(dir=folder)


def _named(filled, path):
    "Give a temporary file its name, where the system can: then nothing is written twice"
    if filled.file is None or not os.path.isdir('/proc/self/fd'): return False
    tmp, folder = path.with_name(f'.{path.name}.{os.getpid()}'), None
    try:
        filled.map.flush()
        folder = os.open(path.parent, os.O_RDONLY)  # with it, Python follows the link to the file
        os.link(f'/proc/self/fd/{filled.file.fileno()}', tmp.name, dst_dir_fd=folder, follow_symlinks=True)
        os.replace(tmp, path)
    except OSError:
        tmp.unlink(missing_ok=True)
        return False
    finally:
        if folder is not None: os.close(folder)
    return True
