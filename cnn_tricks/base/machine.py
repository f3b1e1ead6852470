"""The machine that a run was made on: processor, memory, accelerators, and the device that is used by default"""
import os, platform
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import torch

__all__ = ['Machine', 'default_device', 'machine', 'finish_work', 'random_device', 'fitting_threads']


@dataclass(frozen=True)
class Machine:
    "What a figure has to be read against: device, cores, threads, memory and versions"
    device: str  # 'cpu', 'cuda', 'mps' or 'xla'
    name: str  # The processor's or the accelerator's name
    cores: int  # CPU cores this process may use
    threads: int  # Threads torch uses
    memory_gb: float  # Memory of the machine, in GiB
    system: str  # Operating system and architecture
    torch: str  # torch's version

    def __str__(self):
        return f'{self.name}, {self.threads} thread{"s" * (self.threads != 1)}, torch {self.torch}'


def default_device() -> str:  # 'cuda', 'mps' or 'cpu'
    "The fastest kind of device that torch sees here"
    return 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'


def machine(device: str | None = None,  # 'cpu', 'cuda', 'mps', 'xla'; None: the default
            ) -> Machine:
    "Describe this machine, without touching its settings"
    device = str(device or default_device()).split(':')[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    pages = os.sysconf('SC_PHYS_PAGES') if hasattr(os, 'sysconf') else 0
    memory = pages * os.sysconf('SC_PAGE_SIZE') / 2**30 if pages else float('nan')
    name = torch.cuda.get_device_name() if device == 'cuda' else _xla_name() if device == 'xla' else _cpu_name()
    return Machine(device, name, cores, torch.get_num_threads(), round(memory, 1),
                   f'{platform.system()} {platform.machine()}', torch.__version__)


def finish_work(
    device=None # torch device, or its name: 'cuda'; None: the accelerator, of whatever make, if there is one
):
    "Wait until the device has done what it was given: Python only hands work over, so a clock must wait for it"
    kind = None if device is None else torch.device(device).type
    if kind == 'xla': import_module('torch_xla').sync(wait=True)
    elif kind: getattr(torch, kind).synchronize()
    elif torch.accelerator.is_available(): torch.accelerator.synchronize()


def random_device(
    device # torch device, or its name
)->torch.device: # the device itself; the processor for kinds without a generator: 'xla', 'meta'
    "Where random numbers with a seed of their own can be drawn for work on the device"
    return torch.device(device if _has_generator(torch.device(device).type) else 'cpu')


@cache
def _has_generator(kind): # a kind of device: 'cuda'
    try: torch.Generator(kind)
    except RuntimeError: return False
    return True


@contextmanager
def fitting_threads(numbers: int,  # How many numbers an operation handles
                    ):  # A context
    "One thread for so little work that threads would wait for each other longer than they work; then as before"
    threads = torch.get_num_threads()
    few = numbers < 1 << 18 and threads > 1
    if few: torch.set_num_threads(1)
    try: yield
    finally:
        if few: torch.set_num_threads(threads)


def _xla_name(): # what the compiler compiles for: 'TPU through XLA'
    return f"{import_module('torch_xla.runtime').device_type()} through XLA"


def _cpu_name():
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [l.split(':')[1].strip() for l in lines if l.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
