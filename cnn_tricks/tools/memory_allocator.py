"""The memory allocator's settings of this process"""
import ctypes, os, re
from contextlib import contextmanager
from pathlib import Path

try: import resource
except ImportError: resource = None # Windows

__all__ = ['MEMORY', 'page_faults', 'memory_settings', 'memory_setting', 'set_memory', 'kept_memory',
           'memory_environment']

MEMORY = 'default', 'keep', 'huge'
_trim, _top_pad, _mmap_threshold, _mmap_max = -1, -2, -3, -4 # glibc's numbers for mallopt, from malloc.h
_now = 'default'
_chosen = 'MALLOC_', 'GLIBC_TUNABLES', 'LD_PRELOAD' # a user who sets one of these has chosen an allocator


def page_faults()->int: # since the process began; 0 where the system does not tell
    "How often this process touched a page of memory that it first had to be given"
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else 0


def _glibc(): # -> the C library, or None where it is another one
    try: lib = ctypes.CDLL(None)
    except (OSError, TypeError): return None
    if not hasattr(lib, 'gnu_get_libc_version') or not hasattr(lib, 'mallopt'): return None
    lib.malloc.restype, lib.malloc.argtypes, lib.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    lib.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    lib.gnu_get_libc_version.restype = ctypes.c_char_p
    return lib


def memory_settings()->tuple: # some of 'default', 'keep', 'huge'
    "Which settings of the memory allocator this machine has; 'default' alone where it is not glibc"
    if not _glibc(): return MEMORY[:1]
    pages = Path('/sys/kernel/mm/transparent_hugepage/enabled')
    return MEMORY if pages.exists() and '[madvise]' in pages.read_text() else MEMORY[:2]


def memory_setting()->str: # 'default', 'keep' or 'huge'
    "What `set_memory` last set in this process"
    return _now


def set_memory(
    how:str # 'default'; 'keep' freed memory; 'huge': keep it, in pages of 2 MiB
):
    """Tell glibc what to do with freed memory, for the whole process; 'default' puts its thresholds back

    Raises `ValueError` for a setting that is unknown, or that this machine does not have (`memory_settings`).
    The parameters are those of mallopt(3); 'huge' also needs madvise(2).
    """
    global _now
    if how not in MEMORY: raise ValueError(f"memory {how!r}: must be one of {', '.join(MEMORY)}")
    if how not in (has := memory_settings()): raise ValueError(f'memory {how!r}: not on this machine; it has {has}')
    if how == 'default' == _now: return # never touched: glibc adapts its thresholds itself until the first call
    lib, keep = _glibc(), how != 'default'
    lib.mallopt(_mmap_max, 0 if keep else 1 << 16)
    lib.mallopt(_mmap_threshold, 32 << 20) # where glibc's own adapting ends
    lib.mallopt(_trim, -1 if keep else 64 << 20)
    lib.mallopt(_top_pad, 1 << 30 if how == 'huge' else 128 << 10)
    lib.malloc_trim(0)
    _huge_heap(lib, how == 'huge')
    _now = how


def _huge_heap(lib, on): # pages of 2 MiB for the heap, which is first made to grow by the reserve
    if on: lib.free(lib.malloc(1 << 28))
    elif _now != 'huge': return
    maps = Path('/proc/self/maps').read_text()
    for low, high in re.findall(r'^(\w+)-(\w+) .*\[heap\]$', maps, re.M):
        low, high = -(-int(low, 16) >> 21) << 21, int(high, 16) >> 21 << 21
        if high > low: lib.madvise(low, high - low, 14 if on else 15) # MADV_HUGEPAGE, MADV_NOHUGEPAGE


@contextmanager
def kept_memory():
    """In this block freed memory is kept, where the machine can and the environment says nothing of its own

    A step at a large batch frees and takes its activations each time; memory that was given back has to be cleared by
    the system before it is given again, a page at a time. `scripts/bench/memory.py` measures what that is worth.
    """
    if _now != 'default' or 'keep' not in memory_settings() or any(k.startswith(_chosen) for k in os.environ): yield
    else:
        set_memory('keep')
        try: yield
        finally: set_memory('default')


def memory_environment(
    how:str # 'default', 'keep' or 'huge'
)->dict: # environment variables
    """The same setting for a program that is yet to start: glibc reads these once, before `main`

    Raises `ValueError` for an unknown setting.
    Sources: mallopt(3); the GNU C Library's manual, "Memory Allocation Tunables".
    """
    if how not in MEMORY: raise ValueError(f"memory {how!r}: must be one of {', '.join(MEMORY)}")
    keep = {'MALLOC_MMAP_MAX_': '0', 'MALLOC_TRIM_THRESHOLD_': str(2**31 - 1)} if how != 'default' else {}
    return keep | ({'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'} if how == 'huge' else {})
