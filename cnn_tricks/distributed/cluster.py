"""Independent runs on the workers of a cluster that is there already: an `Executor`, whichever scheduler it has"""
import hashlib, os, pickle, platform, socket, threading, time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from .. import __version__

__all__ = ['ClusterError', 'Cluster', 'Sent', 'cluster', 'run_versions', 'check_there', 'run_there', 'keep', 'forget',
           'listens']

MOST = 2**31 # bytes of images that are sent to each worker at most
LOOK = 30. # seconds after which it is looked anew whether there are workers


class ClusterError(RuntimeError):
    "The scheduler, or a worker, cannot do what was asked of it"


# what happens on a worker

_received, _one_run = {}, threading.Lock()


def run_versions()->dict: # package -> version
    "What a run depends on, and must be the same on all machines for runs to be equal to the bit"
    def of(package):
        try: return version(package).split('+')[0]
        except PackageNotFoundError: return 'none'
    python = '.'.join(platform.python_version_tuple()[:2])
    return dict(cnn_tricks=__version__, python=python) | {p: of(p) for p in ('torch', 'fastai', 'torchvision', 'numpy')}


def check_there(
    wanted:dict # of `run_versions`, where the run comes from
):
    "`ClusterError` where this process has other versions"
    have = run_versions()
    if other := [f'{k} {have.get(k)}, here {v}' for k, v in wanted.items() if have.get(k) != v]:
        raise ClusterError(f'a worker on {socket.gethostname()} has {"; ".join(other)}: install the same there')


def run_there(
    wanted:dict, # of `run_versions`, where the run comes from
    job:bytes # a function and its arguments, pickled; they are looked at once the versions agree
): # -> what the function returns
    "Run it on a worker, one at a time in this process: random numbers and torch's threads belong to a process"
    check_there(wanted)
    with _one_run:
        fn, args, kwargs = pickle.loads(job)
        return fn(*args, **kwargs)


def keep(
    key:str, # of a `Sent`
    value:bytes # pickled
):
    "A worker keeps what the driver has sent"
    _received.setdefault(key, value)


def forget(
    key:str # of a `Sent`
):
    "A worker drops it"
    _received.pop(key, None)


@dataclass(frozen=True)
class Sent:
    "A function of nothing that gives what the driver has sent to the workers; equal where that is equal"
    key: str # a hash of it

    def __call__(self):
        value = _received[self.key]
        if isinstance(value, bytes): value = _received[self.key] = pickle.loads(value)
        return value


# what happens on the driver

def _pass_on(outer, cluster, inner): # the end of a scheduler's future -> ours
    if inner.cancelled(): outer.set_exception(ClusterError(f'{cluster.name} has ended, or cannot be reached any more'))
    elif error := inner.exception(): outer.set_exception(cluster.told(error))
    else: outer.set_result(inner.result())


class Cluster(Executor):
    """The workers of a scheduler, which gives a run of a worker that was lost to another one

    One run a worker at a time, on one thread. Workers have what `run_versions` says; images are sent to them, once."""
    name = '' # what to call it

    def __init__(self):
        self.wanted, self.since = run_versions(), None

    def submit(self, fn:Callable, /, *args, **kwargs)->Future: # a function of a module, and its arguments; what it returns
        "Run it on a worker; where it cannot be, the future's error is a `ClusterError`"
        outer: Future = Future()
        inner = self.begin(self.wanted, pickle.dumps((fn, args, kwargs)))
        inner.add_done_callback(lambda f: _pass_on(outer, self, f))
        return outer

    def send(self,
        value # what all runs need, can be pickled
    )->Sent: # a function of nothing, to be called on a worker
        "Send it to each worker, also to those that come later; `ClusterError` where it is too large"
        payload = pickle.dumps(value, protocol=5)
        if len(payload) > MOST:
            raise ClusterError(f'{len(payload)/2**30:.1f} GiB of images are too much to send to each worker (at most '
                               f'{MOST/2**30:g})')
        key = hashlib.blake2b(payload, digest_size=8).hexdigest()
        self.spread(key, payload)
        return Sent(key)

    def workers(self)->int: # at least 1
        "How many workers there are now; `ClusterError` where there has been none for CNN_TRICKS_TIMEOUT seconds (300)"
        n, patience = self.count(), float(os.environ.get('CNN_TRICKS_TIMEOUT', 300))
        self.since = None if n else self.since or time.monotonic()
        if self.since and time.monotonic() - self.since > patience:
            raise ClusterError(f'{self.name} has had no worker for {patience:g} seconds')
        return max(1, n)

    def ended(self,
        futures # of `submit`
    )->Iterator:
        "Them, as they end; `ClusterError` as `workers`"
        left = set(futures)
        while left:
            done, left = wait(left, LOOK, FIRST_COMPLETED)
            yield from done
            if left: self.workers()

    def told(self,
        error:BaseException # of a run
    )->BaseException:
        "The same in a line, where it is the scheduler's or an import's"
        if isinstance(error, (ImportError, AttributeError)) and 'cnn_tricks' in str(error):
            return ClusterError(f'a worker of {self.name} cannot load cnn_tricks {__version__} ({error}): '
                                'install it there')
        return error

    # what a scheduler has to offer

    @abstractmethod
    def begin(self, wanted:dict, job:bytes)->Future: # arguments of `run_there`
        "Begin `run_there` on a worker"

    @abstractmethod
    def spread(self, key:str, payload:bytes):
        "Have each worker `keep` it before its next run"

    @abstractmethod
    def count(self)->int:
        "Workers that there are now"


def listens(
    where:str, # 'HOST:PORT'
    name:str, # of the scheduler, for the complaint
    seconds:float=5. # to wait
):
    "`ClusterError` where nobody listens there"
    host, _, port = where.rpartition(':')
    try: socket.create_connection((host.strip('[]'), int(port)), timeout=seconds).close()
    except OSError as e:
        raise ClusterError(f'no {name} answers at {where} within {seconds:g} seconds ({e.strerror or e})') from None


def cluster(
    text:str, # 'dask', 'dask://HOST:PORT', 'ray' or 'ray://HOST:PORT'
    gpu:bool=False # does a run need one?
)->Cluster: # to be used as a context
    """The workers of a scheduler that is there already: without an address the one that its own settings name, or that
    of this machine

    `ValueError` for another text, `ImportError` without the extra `dask` or `ray`, `ClusterError` where no scheduler
    answers, or a worker has other versions. A scheduler runs what it is sent: name one of a network that you trust."""
    kind, mark, where = text.partition('://')
    host, colon, port = where.rpartition(':')
    right = where.isprintable() and ((host and port.isdecimal()) if colon else where) and '/' not in where
    if kind not in ('dask', 'ray') or mark and not right:
        raise ValueError(f'{text!r}: must be dask, dask://HOST:PORT, ray or ray://HOST:PORT')
    if mark and not colon: where += {'dask': ':8786', 'ray': ':10001'}[kind] # the ports that they choose themselves
    try: return getattr(import_module(f'.{kind}_cluster', __package__), f'{kind.title()}Cluster')(where, gpu)
    except ModuleNotFoundError as e:
        raise ImportError(f"{kind} needs the package {e.name}: pip install 'cnn_tricks[{kind}]'") from None
