"""Runs of a bench side by side: in processes of this machine, which end with the one that asked, or on other workers"""
import multiprocessing.connection, os, threading, time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from contextlib import nullcontext
from datetime import date
from functools import cache

import torch

from .bench_record import session_now
from .bench_run import Task, bench_run

__all__ = ['made', 'workers', 'perform']

LOOK = 30. # seconds after which it is looked anew how many workers there are


@cache
def _session(device, day): return session_now(device) # a worker may live for weeks


def made(
    task:Task
)->tuple: # what `bench_run` found or `error`; seconds by the clock, drawing and validating too; the session it was made in
    "Make a run, wherever this process is; what an arm cannot do must not end the others"
    start = time.perf_counter()
    try: found = bench_run(task)
    except ValueError as e: found = dict(error=' '.join(str(e).split()))
    return found, time.perf_counter() - start, _session(task.device, date.today())


def _end_with_parent():
    "A process that works for another one ends with it, however that one ended"
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    def watch():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def workers(
    jobs:int # runs at a time
): # -> a pool of processes; None: one at a time, in this process
    "Processes for a whole bench, since each takes seconds to start; use it as a context"
    if jobs == 1: return nullcontext()
    return ProcessPoolExecutor(jobs, multiprocessing.get_context('spawn'), _end_with_parent)


def perform(
    tasks:Iterable, # of `Task`s, in the order in which they are begun
    pool:Executor|None=None, # of `workers`, or of a cluster
    jobs:Callable=lambda: 1, # function of nothing -> how many at a time, which may change
    begin:Callable=lambda task: True # function of a `Task` -> bool: is there time to begin it?
)->Iterator: # of (task, and the three of `made`), in the order in which they end
    "Make runs; the first that `begin` turns down is the last that is looked at"
    todo, running, more = iter(tasks), {}, True # type: ignore[var-annotated]
    while more or running:
        room = jobs() # a cluster without workers says so here
        while more and len(running) < room:
            task = next(todo, None)
            if task is None or not begin(task):
                more = False
                break
            if pool is None: yield task, *made(task)
            else: running[pool.submit(made, task)] = task
        for future in wait(running, LOOK, FIRST_COMPLETED).done if running else ():
            yield running.pop(future), *future.result()
