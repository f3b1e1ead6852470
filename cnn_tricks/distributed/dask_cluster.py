"""Runs on the workers of a Dask scheduler"""
import asyncio
import logging
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

from dask import config
from distributed import Client, KilledWorker, WorkerPlugin

from .cluster import Cluster, ClusterError, check_there, forget, keep, listens, run_there

__all__ = ['DaskCluster', 'Keeper']


class Keeper(WorkerPlugin):
    "Puts into each worker what the driver has sent; one that starts later, or again, gets it from the scheduler"
    def __init__(self,
        key:str, # of a `Sent`
        payload:bytes # pickled
    ):
        self.name, self.key, self.payload = f'cnn_tricks-{key}', key, payload

    def setup(self, worker): keep(self.key, self.payload)
    def teardown(self, worker): forget(self.key)


def _client(address, seconds): # in a thread, since it waits for ever for one who listens there and is no scheduler
    made: Future = Future()
    def make():
        try: made.set_result(Client(address, timeout=seconds, set_as_default=False))
        except BaseException as e: made.set_exception(e)
    threading.Thread(target=make, daemon=True).start()
    try: return made.result(2*seconds)
    except (OSError, ValueError, FutureTimeout) as e:
        raise ClusterError(f'no Dask scheduler answers at {address.rpartition("/")[2]} within {seconds:g} seconds '
                           f'({type(e).__name__})') from None


class DaskCluster(Cluster):
    """The workers of a Dask scheduler; several threads of one worker make one run at a time

    A run whose worker is lost goes to another, up to the scheduler's `allowed-failures` (3) times."""

    def __init__(self,
        where:str='', # HOST:PORT; '': what `DASK_SCHEDULER_ADDRESS` says, or 127.0.0.1:8786
        gpu:bool=False, # a Dask worker has the GPUs that it was started with
        seconds:float=10. # to wait for the scheduler, and for a first worker
    ):
        super().__init__()
        address = f'tcp://{where}' if where else config.get('scheduler-address', None) or 'tcp://127.0.0.1:8786'
        self.name, self.plugins = f'the Dask scheduler at {address.rpartition("/")[2]}', []
        logging.getLogger('distributed').setLevel(logging.CRITICAL) # what matters is said in a line
        listens(address.rpartition('/')[2], 'Dask scheduler')
        self.client = _client(address, seconds)
        self.executor = self.client.get_executor(pure=False)
        try: self._look(address, seconds)
        except BaseException:
            self.shutdown()
            raise

    def _look(self, address, seconds): # are there workers, with our versions?
        try: self.client.wait_for_workers(1, timeout=seconds)
        except (TimeoutError, asyncio.TimeoutError): # one and the same from Python 3.11 on
            raise ClusterError(f'{self.name} has no workers: start some, with '
                               f'dask worker {address} --nworkers 2 --nthreads 1') from None
        try: self.client.run(check_there, self.wanted)
        except Exception as e: raise self.told(e) from None

    def begin(self, wanted:dict, job:bytes): # arguments of `run_there` -> Future
        "Begin it on a worker"
        return self.executor.submit(run_there, wanted, job)

    def spread(self, key:str, payload:bytes): # of a `Sent`
        "Have each worker keep it"
        plugin = Keeper(key, payload)
        try: self.client.register_plugin(plugin)
        except Exception as e: raise self.told(e) from None
        self.plugins.append(plugin.name)

    def count(self)->int:
        "Workers that there are now"
        try: return len(self.client.scheduler_info()['workers'])
        except OSError: return 0 # the runs will say it

    def told(self,
        error:BaseException # of a run
    )->BaseException:
        "The same in a line"
        if isinstance(error, KilledWorker):
            return ClusterError(f'{error.allowed_failures + 1} workers of {self.name} have ended over the same run: '
                                'has a worker too little memory for it?')
        return super().told(error)

    def shutdown(self, wait=True, *, cancel_futures=False):
        "Leave: the workers drop what was sent, and what was not finished"
        try:
            for name in self.plugins: self.client.unregister_worker_plugin(name)
        except Exception: pass # noqa: S110 (the scheduler has ended)
        self.client.close(timeout=5)
