"""The record of a bench: rates that were tried, runs, costs, and where they were made; one JSON file, one line a run"""
import json, platform, subprocess
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

from .. import __version__
from ..base.files import atomic_write
from ..base.machine import machine
from ..base.paths import results_path
from ..core.recipe import Recipe
from .arms import Arm, Run
from .benches import Bench, whole_data
from .records import code_hashes, modules_used

__all__ = ['BenchRecord', 'benches_path', 'session_now']


def benches_path()->Path:
    "The folder of the recorded benches"
    return results_path()/'benches'


def session_now(
    device:str # torch device
)->dict: # plain values
    "The code, the versions and the machine of runs that are made now"
    m = asdict(machine(device)) | {'threads': 1 if device == 'cpu' else machine(device).threads}
    versions = {v: version(v).split('+')[0] for v in ('torch', 'fastai', 'numpy')}
    versions['python'] = platform.python_version()
    return dict(commit=_commit(), cnn_tricks=__version__, versions=versions, machine=m, date=date.today().isoformat())


def _commit(): # of the clone that this package stands in; '' where it is none
    git = ['git', '-C', str(Path(__file__).parents[2]), 'rev-parse', '--short=12', 'HEAD']
    try: return subprocess.run(git, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError): return ''


@dataclass
class BenchRecord:
    "What a bench has measured so far; a list in it is sorted, so that the order of work leaves no trace"
    name:str # of the bench
    base:dict # its base as it was frozen, plain values
    data:dict # name and fingerprint of all images, how many are drawn from, validated on and judged on
    delta:float # the smallest difference that matters, declared before the runs
    target:float # the accuracy to which seconds are counted
    recipes:dict = field(default_factory=dict) # arm -> plain values of its recipe, with the rates that were found
    signs:dict = field(default_factory=dict) # arm -> 1, or -1 where it lacks what its row is named after
    about:dict = field(default_factory=dict) # arm -> the registered trick that it is about
    refused:dict = field(default_factory=dict) # arm -> why it is not run
    tuned:list = field(default_factory=list) # of each arm and rate: arm, lr, optimizer_args, valid (accuracy by seed)
    found:dict = field(default_factory=dict) # arm -> lr and optimizer_args, where its search has come to an end
    runs:list = field(default_factory=list) # arm, epochs, seed, session, and what `bench_run` found
    costs:dict = field(default_factory=dict) # arm -> milliseconds a step, ratios to the base, in interleaved turns
    checks:list = field(default_factory=list) # runs made again by later code
    sessions:list = field(default_factory=list) # where runs were made; `session` of a run counts them from 0
    code:dict = field(default_factory=dict) # module -> hash of the code that ran
    notes:list = field(default_factory=list) # what a reader of the figures has to know

    @classmethod
    def of(cls,
        bench:Bench
    ): # -> BenchRecord
        "A record without runs"
        data = whole_data(bench.images)
        n = len(data.train)
        valid = bench.valid if isinstance(bench.valid, int) else round(bench.valid*n)
        about = dict(name=data.name, fingerprint=data.fingerprint, train=n - valid, valid=valid, test=len(data.test))
        return cls(bench.name, bench.recipe.to_dict(), about, bench.delta, bench.target, notes=list(bench.notes))

    def check(self,
        bench:Bench
    ):
        "`ValueError` where the record is of another base (but for its rates), of other images, or of another δ"
        base = bench.recipe.to_dict()
        other = [k for k, v in base.items() if v != self.base.get(k) and k not in ('lr', 'optimizer_args')]
        if other:
            raise ValueError(f'the record of {self.name} has another base than {bench.base!r} ({", ".join(other)} '
                             'differ): write to another file')
        now = whole_data(bench.images)
        if now.fingerprint != self.data['fingerprint']:
            raise ValueError(f'the record of {self.name} was made on other images ({self.data["name"]}, '
                             f'{self.data["fingerprint"]}), here are {now.name}, {now.fingerprint}')
        if bench.delta != self.delta:
            raise ValueError(f'the record of {self.name} has δ={self.delta}, not {bench.delta}')

    def tuning(self): # -> BenchRecord
        "The same without runs: what another machine may start from, since rates are chosen once"
        return replace(self, runs=[], costs={}, checks=[])

    def session(self,
        now:dict # of `session_now`
    )->int: # its number
        "Note where runs are made; one that differs in nothing but its date is the same"
        def same(s): return {k: v for k, v in s.items() if k != 'date'}
        for i, s in enumerate(self.sessions):
            if same(s) == same(now): return i
        self.sessions.append(now)
        return len(self.sessions) - 1

    def find(self,
        arm:str, # its name
        epochs:float, # a length of the bench
        seed:int=None # None: every seed
    )->list: # the runs
        "Runs of an arm at a length"
        return [r for r in self.runs if r['arm'] == arm and r['epochs'] == epochs and seed in (None, r['seed'])]

    def tried(self,
        arm:str, # its name
        recipe:Recipe # at one rate and one decay
    )->dict: # seed -> validation accuracy
        "What was found already of a recipe while an arm was tuned"
        key = recipe.to_dict()
        return {int(s): a for t in self.tuned if t['arm'] == arm and t['lr'] == key['lr']
                and t['optimizer_args'] == key['optimizer_args'] for s, a in t['valid'].items()}

    def add_tried(self,
        arm:str, # its name
        recipe:Recipe, # at one rate and one decay
        seed:int, # a tuning seed
        valid:float # validation accuracy
    ):
        "Keep what was found of a recipe while an arm is tuned"
        key = dict(arm=arm, lr=recipe.lr, optimizer_args=recipe.optimizer_args)
        row = next((t for t in self.tuned if {k: t[k] for k in key} == key), None)
        if row is None:
            row = dict(arm=arm, lr=recipe.lr, optimizer_args=recipe.optimizer_args, valid={})
            self.tuned.append(row)
        row['valid'] = dict(sorted((row['valid'] | {str(seed): valid}).items()))

    def arm(self,
        name:str, # of an arm
        epochs:float, # a length of the bench
        seeds:tuple=None # of the runs; None: all that there are
    )->Arm:
        "The runs of an arm as an `Arm`, which can be compared"
        found = sorted(self.find(name, epochs), key=lambda r: r['seed'])
        runs = [Run(r['seed'], r['accuracy'], r['valid'], r['steps'], r['seconds'], diverged=r['diverged'])
                for r in found if seeds is None or r['seed'] in seeds]
        where = self.sessions[found[0]['session']]['machine'] if found else {}
        return Arm(name, self.recipes[name], runs, 'test', self.data, where)

    @property
    def stale(self): # -> list of names
        "Modules whose code has changed since the runs, or since the last check that agreed"
        agreed = [c['code'] for c in self.checks if c['agrees']]
        then = agreed[-1] if agreed else self.code
        now = code_hashes(set(then))
        return [m for m, h in then.items() if now.get(m) != h]

    def hashes(self)->dict: # module -> hash
        "Of the code that the recipes of all arms need now"
        arms = {n: Arm(n, r, []) for n, r in self.recipes.items()}
        return code_hashes(modules_used(arms) | {'measure.bench_run'})

    def text(self)->str:
        "The JSON text: one line for each run, so that git shows what was added"
        order = list(self.recipes)
        place = {n: order.index(n) for n in order}
        self.runs.sort(key=lambda r: (place.get(r['arm'], -1), r['epochs'], r['seed']))
        self.tuned.sort(key=lambda t: (place.get(t['arm'], -1), t['lr'], json.dumps(t['optimizer_args'])))
        def block(v):
            if not v or not isinstance(v, (list, dict)): return json.dumps(v)
            if isinstance(v, list): return '[\n  ' + ',\n  '.join(map(json.dumps, v)) + '\n ]'
            return '{\n  ' + ',\n  '.join(f'{json.dumps(k)}: {json.dumps(x)}' for k, x in v.items()) + '\n }'
        return '{\n ' + ',\n '.join(f'{json.dumps(k)}: {block(v)}' for k, v in asdict(self).items()) + '\n}\n'

    def save(self,
        path:Path # the file to write
    ):
        "Write the JSON, whole or not at all"
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as f: f.write(self.text().encode())

    @classmethod
    def load(cls,
        path:Path # what `save` wrote
    ): # -> BenchRecord
        "Read a record; `ValueError` for a file that holds none"
        try: return cls(**json.loads(Path(path).read_text(encoding='utf-8')))
        except (ValueError, TypeError) as e: raise ValueError(f'{path} is no record of a bench: {e}') from None
