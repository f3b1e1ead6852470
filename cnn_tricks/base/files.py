"""Files that are written whole or not at all, and by one program at a time"""
import hashlib, os, tempfile
from contextlib import contextmanager
from pathlib import Path

__all__ = ['atomic_write', 'only_writer']


@contextmanager
def atomic_write(path: str | Path):  # The file to write -> an open binary file
    """Write a file whole or not at all: to a temporary file beside it, flushed to the disk, then renamed

    Where the block raises, or the disk is full (`OSError`), the old file stays as it was.
    """
    path = Path(path)
    tmp = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with tmp.open('wb') as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise


@contextmanager
def only_writer(path: str | Path):  # The file that will be written, also more than once
    "Holds a file for this process until the block or the process ends; `OSError` where another one holds it"
    name = hashlib.blake2b(str(Path(path).resolve()).encode(), digest_size=8).hexdigest()
    lock = os.open(Path(tempfile.gettempdir())/f'cnn_tricks-{name}.lock', os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            import fcntl
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError: raise OSError(f'{path}: another program is writing it') from None
        except (ImportError, OSError): pass  # a system without locks
        yield
    finally: os.close(lock)
