"""Files that are written whole or not at all"""
import os
from contextlib import contextmanager
from pathlib import Path

__all__ = ['atomic_write']


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
