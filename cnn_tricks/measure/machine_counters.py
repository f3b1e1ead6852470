"""What the machine counts by itself: energy of processors and NVIDIA devices, peak memory of the process"""
import ctypes, re
from pathlib import Path

__all__ = ['energy_counters', 'joules_between', 'reset_peak', 'peak_bytes']


def energy_counters()->tuple: # {counter: (joules so far, joules at which it starts anew)}, reason why there is none
    "The energy counters of this machine: the processor's (RAPL) and NVIDIA devices' (NVML)"
    cpu, why = _rapl()
    return cpu | _nvml(), why


def joules_between(
    before:dict, # what `energy_counters` gave first
    after:dict # and later
)->float:
    "Energy in between; a counter that is below its old value has started anew once"
    return sum(after[k][0] - b + (limit if after[k][0] < b else 0) for k, (b, limit) in before.items() if k in after)


def reset_peak()->bool: # False where it cannot be done
    "Linux forgets the peak of this process; elsewhere the peak is that of its whole life"
    try: Path('/proc/self/clear_refs').write_text('5')
    except OSError: return False
    return True


def peak_bytes(): # -> bytes, or None
    "The most memory that this process had resident at once"
    status = Path('/proc/self/status')
    found = re.search(r'VmHWM:\s+(\d+) kB', status.read_text()) if status.exists() else None
    if found: return int(found[1]) * 1024
    try: import resource, sys
    except ImportError: return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def _rapl(root='/sys/class/powercap'): # -> {zone: (joules so far, joules at which it starts anew)}, reason why not
    zones = [z for z in sorted(Path(root).glob('intel-rapl:*')) if re.fullmatch(r'intel-rapl:\d+', z.name)]
    read = lambda z, name: int((z/name).read_text()) / 1e6
    try:
        packages = [z for z in zones if (z/'name').read_text().startswith('package')]
        found = {z.name: (read(z, 'energy_uj'), read(z, 'max_energy_range_uj')) for z in packages}
    except PermissionError: return {}, 'the processor counts its energy, but only root may read it'
    except OSError as e: return {}, f'the processor\'s energy counter cannot be read ({e.strerror})'
    return found, '' if found else f'this system shows no energy counter of the processor ({root})'


def _nvml(): # -> {device: (joules so far, inf)} of the NVIDIA devices, by the driver's own library
    try: lib = ctypes.CDLL('libnvidia-ml.so.1')
    except OSError: return {}
    count, handle, mj, found = ctypes.c_uint(), ctypes.c_void_p(), ctypes.c_ulonglong(), {}
    if lib.nvmlInit_v2() or lib.nvmlDeviceGetCount_v2(ctypes.byref(count)): return {}
    for i in range(count.value):
        if lib.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(handle)): continue
        if lib.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(mj)): continue
        found[f'gpu{i}'] = mj.value / 1e3, float('inf')
    lib.nvmlShutdown()
    return found
