"""The machine that a run was made on: processor, memory, accelerators, and the device that is used by default"""
import os, platform
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ['Machine', 'default_device', 'machine']


@dataclass(frozen=True)
class Machine:
    "What a figure has to be read against: device, cores, threads, memory and versions"
    device:str # 'cpu', 'cuda' or 'mps'
    name:str # the processor's or the accelerator's name
    cores:int # CPU cores this process may use
    threads:int # threads torch uses
    memory_gb:float # memory of the machine, in GiB
    system:str # operating system and architecture
    torch:str # torch's version

    def __str__(self):
        return f'{self.name}, {self.threads} thread{"s" * (self.threads != 1)}, torch {self.torch}'

def _cpu_name():
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [l.split(':')[1].strip() for l in lines if l.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()

def default_device(): # -> 'cuda', 'mps' or 'cpu'
    "The fastest kind of device that torch sees here"
    return 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'

def machine(device:str=None): # 'cpu', 'cuda', 'mps'; None for the default -> `Machine`
    "Describe this machine, without touching its settings"
    device = str(device or default_device()).split(':')[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    pages = os.sysconf('SC_PHYS_PAGES') if hasattr(os, 'sysconf') else 0
    memory = pages * os.sysconf('SC_PAGE_SIZE') / 2**30 if pages else float('nan')
    name = torch.cuda.get_device_name() if device == 'cuda' else _cpu_name()
    return Machine(device, name, cores, torch.get_num_threads(), round(memory, 1),
                   f'{platform.system()} {platform.machine()}', torch.__version__)
