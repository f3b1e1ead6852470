"""Downloads that can be stopped, checked by their hash, kept in a cache folder"""
import hashlib, json, math, os, sys, tempfile, time
import numpy as np
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from ..base.files import atomic_write

__all__ = ['cache_dir', 'SlowBar', 'save_array', 'load_array', 'room', 'DownloadError', 'sha256', 'download']


def cache_dir() -> Path:  # Need not exist yet
    "The folder for what is kept between runs: `CNN_TRICKS_CACHE`, or the platform's cache folder"
    if os.environ.get('CNN_TRICKS_CACHE'): return Path(os.environ['CNN_TRICKS_CACHE']).expanduser()
    home = Path.home()
    if sys.platform == 'win32': return Path(os.environ.get('LOCALAPPDATA', home/'AppData'/'Local'))/'cnn_tricks'/'cache'
    if sys.platform == 'darwin': return home/'Library'/'Caches'/'cnn_tricks'
    return Path(os.environ.get('XDG_CACHE_HOME') or home/'.cache')/'cnn_tricks'

class SlowBar:
    "A progress bar that appears only where the work will take over 2 seconds"
    def __init__(self, label: str, total: int, show: bool = True):
        self.label, self.total, self.show, self.bar, self.start = label, total, show, None, time.monotonic()

    def update(self, done: int):
        "Say how much is done"
        spent = time.monotonic() - self.start
        if self.show and self.bar is None and done and spent/done*self.total > 2:
            from rich.progress import Progress
            self.bar = Progress(transient=True)
            self.bar.add_task(self.label, total=self.total)
            self.bar.start()
        if self.bar: self.bar.update(0, completed=done)

    def __enter__(self): return self
    def __exit__(self, *_):
        if self.bar: self.bar.stop()


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

def load_array(name: str, max_memory: int) -> tuple | None:
    "What `save_array` kept: (x, about), mapped from its file beyond `max_memory` bytes; None where there is nothing"
    try:
        about = json.loads((cache_dir()/'arrays'/f'{name}.json').read_text(encoding='utf-8'))
        x = np.load(cache_dir()/'arrays'/f'{name}.npy', mmap_mode='c')
        return (x if x.size > max_memory else np.array(x)), about
    except (OSError, ValueError): return None


def room(n: int,  # How many images
         shape: tuple,  # (C, H, W)
         max_memory: int,  # Bytes
         ) -> np.ndarray:  # uint8 (n, C, H, W)
    "Room for images: in memory, or in a temporary file where they take more than `max_memory`"
    need = n*math.prod(shape)
    if need <= max_memory: return np.empty((n, *shape), np.uint8)
    home = cache_dir()
    try: home.mkdir(parents=True, exist_ok=True)
    except OSError: home = None
    file = tempfile.TemporaryFile(dir=home if home and os.access(home, os.W_OK) else None)
    # takes the room now: a full disk is an error here, and not a crash while writing
    if hasattr(os, 'posix_fallocate'): os.posix_fallocate(file.fileno(), 0, need)
    return np.memmap(file, np.uint8, 'w+', shape=(n, *shape))


class DownloadError(RuntimeError):
    "A file that could not be had; one line that says what was missing and what to do"

def sha256(path: str | Path) -> str:  # 64 hexadecimal digits
    "The checksum of a file"
    h = hashlib.sha256()
    with open(path, 'rb') as f:
        while block := f.read(1 << 20): h.update(block)
    return h.hexdigest()

def _fetch(url, part, timeout, progress):
    "Get `url` into the file `part`, going on where it stops short"
    have = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={'User-Agent': 'cnn_tricks', **({'Range': f'bytes={have}-'} if have else {})})
    with urlopen(request, timeout=timeout) as r:
        if r.status != 206: have = 0  # the server sends all of it
        total = have + int(r.headers.get('Content-Length') or 0)
        with part.open('ab' if have else 'wb') as f, SlowBar(part.stem, total, progress) as bar:
            while block := r.read(1 << 18):
                f.write(block)
                bar.update(f.tell())
            if total > have and f.tell() < total: raise HTTPException(f'{f.tell()} of {total} bytes came')


def download(urls: list,  # Where the file is to be had; the next is asked where one fails
             path: str | Path,  # Where to put it
             check,  # A function of a path: is this the right file?
             advice: str = 'download it by hand',  # What to do where no mirror can be reached
             timeout: float = 20.,  # Seconds without an answer
             progress: bool = True,  # Show a bar where it takes over 2 seconds?
             ) -> Path:  # `path`
    "Download a file; it appears under its name only when it is complete and right"
    path, why = Path(path), []
    part = path.with_name(path.name + '.part')
    path.parent.mkdir(parents=True, exist_ok=True)
    for url in [u for u in urls for _ in range(2)]:  # a second try starts afresh, or goes on
        try:
            _fetch(url, part, timeout, progress)
            if check(part):
                os.replace(part, path)
                return path
            why.append(f'{url}: wrong checksum')
            part.unlink()
        except HTTPError as e:
            if e.code == 416: part.unlink(missing_ok=True)  # nothing left to send, yet the file was not right
            why.append(f'{url}: {e.code} {e.reason}')
        except (OSError, HTTPException) as e: why.append(f'{url}: {getattr(e, "reason", e)}')
    raise DownloadError(f'{path.name} could not be downloaded ({"; ".join(dict.fromkeys(why))}): {advice}')
