"""How many threads there are and how they wait, chosen before torch is loaded by how busy the machine is"""
import math
import os
import sys

__all__ = ['usable_cores', 'busy_cores', 'is_busy', 'busy_line', 'waiting_variables', 'set_waiting']


# a user who sets one of these has chosen how threads wait, or how many there are
_chosen = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS'


def usable_cores()->int:
    "The cores that this process may use"
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def busy_cores(
    seconds:float=0.2 # how long to look; this process does nothing meanwhile
)->float: # 0: none; 2: two cores, or a half of four, and so on
    "How many of the cores that this process may use are at work for other programs"
    import psutil  # late: bad words are answered without it
    used = psutil.cpu_percent(seconds, percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else range(len(used))
    return sum(used[i] for i in mine if i < len(used))/100


def is_busy(
    busy:float, # of `busy_cores`
    cores:int # that this process may use
)->bool:
    "Is there too little left for a thread on every core?"
    return busy >= min(0.5, cores/4)


def busy_line(
    busy:float, # of `busy_cores`
    cores:int # that this process may use
)->str:
    "What that means for times that are measured now, in a line"
    said = f'other programs use {busy:.1f} of {cores} core{"s"*(cores != 1)}'
    if not is_busy(busy, cores): return f'quiet: {said}'
    return (f'busy: {said}; training takes longer than it would on a quiet machine, and measured times vary: for times '
            'that hold, end the others and begin again')


def waiting_variables(
    busy:float, # of `busy_cores`
    cores:int # that this process may use
)->dict: # environment variables for a process that has not loaded torch yet
    """How many threads there should be, and how they wait: as it comes on a quiet machine; on a busy one a thread for
    each core that is left, which sleep while they wait. `scripts/bench/waiting.py` measures what that is worth."""
    if not is_busy(busy, cores): return {}
    threads = max(1, cores - math.ceil(busy))
    return {'OMP_NUM_THREADS': str(threads)} | ({'OMP_WAIT_POLICY': 'PASSIVE'} if threads > 1 else {})


def set_waiting():
    """Choose for this process how many threads there are and how they wait, unless that is chosen already or torch is
    loaded. The threads of one step wait for each other, and while they wait they spin: fastest on a quiet machine,
    while beside other programs it takes away what the others need."""
    if 'torch' in sys.modules or any(name in os.environ for name in _chosen): return
    os.environ.update(waiting_variables(busy_cores(), usable_cores()))
