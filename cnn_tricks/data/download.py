"""Downloads that go on where they stopped, and are checked by their hash"""
import hashlib, os
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ..base.display import SlowBar

__all__ = ['DownloadError', 'sha256', 'download']


class DownloadError(RuntimeError):
    "A file that could not be had; one line that says what was missing and what to do"


def download(urls: list,  # Where the file is to be had; the next is asked where one fails
             path: str | Path,  # Where to put it
             check,  # A function of a path: is this the right file?
             advice: str = 'download it by hand',  # What to do where no mirror can be reached
             timeout: float = 20.,  # Seconds without an answer
             progress: bool = True,  # Show a bar where it takes over 2 seconds?
             ) -> Path:  # `path`
    """Download a file; it appears under its name only when it is complete and right

    A download that was cut is continued, in this run or the next. Raises `DownloadError` where no address has the file.
    """
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
