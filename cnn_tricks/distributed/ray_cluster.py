"""Runs on the workers of a Ray cluster"""
import os
from importlib import import_module
from pathlib import Path

from .cluster import Cluster, ClusterError, keep, listens, run_there

__all__ = ['RayCluster', 'run_with']

RETRIES = 3 # how often a run whose worker was lost is given out again


def run_with(
    sent:dict, # key of a `Sent` -> [reference to it in Ray's store]
    wanted:dict, # as for `run_there`
    job:bytes # as for `run_there`
): # -> what the function returns
    "`run_there`, once this worker has fetched what was sent"
    ray = import_module('ray') # where it is not installed, this module can be imported all the same
    for key, (ref,) in sent.items(): keep(key, ray.get(ref))
    return run_there(wanted, job)


def _usual(): # HOST:PORT of the cluster that Ray would take; '' where it must look itself. It tries the dead for minutes
    if named := os.environ.get('RAY_ADDRESS'): return named if ':' in named else ''
    noted = Path(os.environ.get('RAY_TMPDIR', '/tmp'))/'ray'/'ray_current_cluster'
    return noted.read_text().strip() if noted.is_file() else ''


class RayCluster(Cluster):
    "The workers of a Ray cluster: a core for each run, or a GPU. `ClusterError` where it does not answer"

    def __init__(self,
        where:str='', # HOST:PORT of its client server; '': the cluster that `RAY_ADDRESS` names, or of this machine
        gpu:bool=False # does a run need one?
    ):
        super().__init__()
        self.ray = ray = import_module('ray')
        self.name, self.kind, self.sent = f'the Ray cluster{where and " at "}{where}', 'GPU' if gpu else 'CPU', {}
        if there := where or _usual(): listens(there.removeprefix('ray://'), 'Ray cluster')
        try: ray.init(f'ray://{where}' if where else 'auto', log_to_driver=False, logging_level='CRITICAL')
        except (ConnectionError, TimeoutError, RuntimeError, ValueError, ImportError) as e:
            raise ClusterError(f'{self.name} does not answer: {(str(e) or type(e).__name__).splitlines()[0][:200]}') from None
        need = dict(num_cpus=1, num_gpus=int(gpu), max_retries=RETRIES)
        self.remote = ray.remote(run_with).options(**need)

    def begin(self, wanted:dict, job:bytes): # arguments of `run_there` -> Future
        "Begin it on a worker"
        return self.remote.remote(self.sent, wanted, job).future()

    def spread(self, key:str, payload:bytes): # of a `Sent`
        "Put it into Ray's store, from which each worker fetches it"
        self.sent = {key: [self.ray.put(payload)]}

    def count(self)->int:
        "Runs that the cluster has room for"
        return int(self.ray.cluster_resources().get(self.kind, 0))

    def told(self,
        error:BaseException # of a run
    )->BaseException:
        "The same in a line, without the lines of the worker that Ray wraps it in"
        if isinstance(error, self.ray.exceptions.RayTaskError): error = error.cause
        if isinstance(error, self.ray.exceptions.WorkerCrashedError):
            return ClusterError(f'{RETRIES + 1} workers of {self.name} have ended over the same run: '
                                'has a worker too little memory for it?')
        return super().told(error)

    def shutdown(self, wait=True, *, cancel_futures=False):
        "Leave: what was not finished ends"
        self.ray.shutdown()
