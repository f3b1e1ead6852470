"""`--on`: the workers that make the runs of a bench or an audit in place of this machine"""
from contextlib import contextmanager

from rich.console import Console

from ..base.machine import default_device
from ..distributed.cluster import Cluster, cluster
from .errors import UsageError

__all__ = ['on_cluster']


@contextmanager
def on_cluster(
    a, # what argparse made of the command line: `on`, `device`
    said:Console # where to print
): # -> `Cluster`; None: the runs are made here
    "The workers that `--on` names. Raises `UsageError`, `ImportError` and `ClusterError`, in a line, as `cluster` does"
    if a.on is None:
        yield None
        return
    try: there: Cluster = cluster(a.on, gpu=str(a.device or default_device()).startswith('cuda'))
    except ValueError as e: raise UsageError(f'--on {e}') from None
    with there:
        n = there.workers()
        said.print(f'{there.name}: {n} worker{"s"*(n != 1)}, a run each at a time')
        yield there
