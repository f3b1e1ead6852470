"""A log beside the images of how often their test part was read: the more often, the less it proves"""
import hashlib, json
from datetime import date
from pathlib import Path

from ..base.files import atomic_write
from ..data.images import ImageData

__all__ = ['log_beside', 'earlier_reads', 'log_read']


def log_beside(
    folder:Path # of images
)->Path: # 'photos.test_reads.json' beside 'photos'
    "Where the log of a folder lies"
    folder = Path(folder).resolve()
    return folder.with_name(f'{folder.name}.test_reads.json')


def _key(data): # the test images, whatever folder and size they were read from
    h = hashlib.blake2b(repr((data.classes, len(data.test))).encode(), digest_size=8)
    h.update(data.test.y.cpu().numpy().tobytes())
    return h.hexdigest()


def _entries(path):
    try: found = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError): return []
    return [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []


def earlier_reads(
    path:Path, # of the log; it need not be there
    data:ImageData # whose test part is meant
)->int:
    "How often the log says that these test images were read; 0 where there is none, or it cannot be read"
    return sum(e.get('test') == _key(data) for e in _entries(path))


def log_read(
    path:Path, # of the log
    data:ImageData, # whose test part is read
    who:str # what reads it: 'audit, 5 seeds'
):
    "Add a line to the log; `OSError` where it cannot be written"
    line = dict(test=_key(data), images=len(data.test), date=date.today().isoformat(), by=who)
    with atomic_write(path) as f: f.write(json.dumps([*_entries(path), line], indent=1).encode())
