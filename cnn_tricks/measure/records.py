"""Records of measurements, which know the code that made them and when it has changed"""
import ast, hashlib, json, platform, re
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

from ..base.display import Shown
from ..base.files import atomic_write
from ..base.paths import records_path
from ..core.components import losses, optimizers, schedules
from ..core.plan import plan
from ..core.recipe import Recipe
from ..nets.networks import networks
from .arms import Arm, read_plain
from .compare import Comparison # importing it makes the kinds `comparison` and `ledger` known to `recorded`
from .repeated_runs import measure_arms

__all__ = ['Record', 'record', 'recorded', 'all_arms', 'modules_used', 'code_hash', 'code_hashes']

_versions = 'cnn_tricks', 'torch', 'fastai', 'numpy'
_showing = {'course', 'pages', 'display', 'comparison_display'} # they decide nothing
_folder = Path(__file__).parents[1]
_unseen = {'ctx', 'kind', 'type_comment', 'type_params', 'annotation', 'returns'}


@dataclass
class Record:
    "A result that was kept, with what it takes to judge it; attributes and items that it lacks are those of the result"
    name:str # of the file, without `.json`
    result:object # an `Arm`, a `Comparison`, a `Ledger`, or a dict of them
    date:str # of the runs, ISO
    machine:dict # where they ran
    versions:dict # of Python and of what matters
    code:dict # module -> hash of the code that ran
    made_by:str = '' # the command that makes it anew
    checked:dict = field(default_factory=dict) # the run that showed that newer code does the same

    @property
    def stale(self): # -> list of names
        "Modules whose code has changed since"
        now = code_hashes(set(self.code))
        return [m for m, h in self.code.items() if now.get(m) != h]

    def line(self): # -> `Shown`
        "When, where and over how many seeds; and whether the code has changed since"
        runs = sorted({len(a) for a in all_arms(self.result)})
        m, seeds = self.machine, ' and '.join(map(str, runs))
        data = all_arms(self.result)[0].data
        text = (f"Recorded on {self.date}: {seeds} seeds; {data['name']}, {data['train']:,} training images; "
                f"{m['name']}, {m['threads']} thread{'s' * (m['threads'] != 1)}, torch {self.versions.get('torch')}.")
        if self.stale:
            again = f' Run `{self.made_by}` again.' if self.made_by else ''
            changed = ', '.join(f'`{s}`' for s in self.stale)
            text += f'\n\n**Stale:** since then the code of {changed} has changed.{again}'
        return Shown(text)

    def __getattr__(self, name):
        if name.startswith('__') or 'result' not in self.__dict__: raise AttributeError(name)
        return getattr(self.result, name)

    def __getitem__(self, key): return self.result[key]

    def _ipython_display_(self):
        from IPython.display import display
        display(self.line())
        for r in self.result.values() if isinstance(self.result, dict) else [self.result]: display(r)

    def __repr__(self): return f'{self.line()}\n{self.result!r}'


def record(
    name:str, # of the file, without `.json`: small letters, digits and _
    result, # an `Arm`, a `Comparison`, a `Ledger`, or a dict of them
    folder:Path=None, # where to write; None: `records_path()`
    made_by:str='' # the command that makes it anew, for the day when it is stale
)->Path: # the file
    """Keep a result as NAME.json: with data, recipes, seeds, machine, versions, date, and hashes of the code that ran.
    `ValueError` for a name with other characters, or a result without runs"""
    if not re.fullmatch('[a-z0-9_]+', name): raise ValueError(f'name={name!r}: must be small letters, digits and _')
    if not all_arms(result) or not all(map(len, all_arms(result))): raise ValueError('result: holds no runs')
    path = Path(folder or records_path())/f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {k: v.to_dict() for k, v in result.items()} if isinstance(result, dict) else result.to_dict()
    about = {'date': date.today().isoformat(), 'machine': all_arms(result)[0].machine, 'made_by': made_by,
             'versions': {'python': platform.python_version(), **{v: version(v).split('+')[0] for v in _versions}},
             'code': code_hashes(modules_used(result))}
    with atomic_write(path) as f: f.write(json.dumps({**about, 'result': plain}, indent=1).encode() + b'\n')
    return path


def recorded(
    name:str, # as given to `record`
    folder:Path=None # where it lies; None: `records_path()`
)->Record: # its attributes and items are those of the result
    """Load what `record` kept; it says itself whether it is stale. `FileNotFoundError` where there is no such record,
    `ValueError` where the file is none"""
    folder = Path(folder or records_path())
    path = folder/f'{name}.json'
    if not path.is_file():
        there = ', '.join(sorted(p.stem for p in folder.glob('*.json'))) or 'none'
        raise FileNotFoundError(f'no recorded run {name!r} in {folder}; there are: {there}')
    d = json.loads(path.read_text(encoding='utf-8'))
    if not isinstance(d, dict) or 'result' not in d: raise ValueError(f'{path} is no recorded run')
    r = d.pop('result')
    result = read_plain(r) if 'kind' in r else {k: read_plain(v) for k, v in r.items()}
    return Record(name, result, **d)


def all_arms(result)->list: # whatever can be recorded
    "Its arms, those of comparisons too"
    return [a for r in _results(result) for a in ([r] if isinstance(r, Arm) else [r.base, r.trick])]

def _results(result): # whatever can be recorded -> its arms and comparisons
    if isinstance(result, dict): return [r for v in result.values() for r in _results(v)]
    return result.comparisons if hasattr(result, 'comparisons') else [result]


def modules_used(result)->set: # what can be recorded -> {'core.train', 'nets.networks', ...}
    "The modules that define what the recipes name, and those that planned, made, paired and judged the runs"
    used = {'cnn_tricks.core.train', measure_arms.__module__, Arm.__module__, Comparison.__module__}
    used |= {c.__module__ for r in _results(result) for c in type(r).__mro__}
    for arm in all_arms(result):
        r = plan(Recipe.from_dict(arm.recipe)).recipe
        named = (networks, r.network), (optimizers, r.optimizer), (schedules, r.schedule), (losses, r.loss)
        used |= {registry[name].__module__ for registry, name in named} | {type(t).__module__ for t in r.tricks}
    used = {m.removeprefix('cnn_tricks.') for m in used if m.startswith('cnn_tricks.')}
    return {m for m in used if not _showing & {*m.split('.')}}


def code_hash(source:str)->str: # Python source -> 12 hexadecimal digits
    """A hash of what the source does: comments, docstrings, annotations, card texts and where modules stand do not
    count. `SyntaxError` for what is no Python"""
    return hashlib.blake2b(repr(_shape(ast.parse(source))).encode(), digest_size=6).hexdigest()


def code_hashes(
    modules:set, # names of modules of the package, without its own: {'core.train'}
    folder:Path=None # where the modules are; None: this package
)->dict: # module -> hash, sorted
    "`code_hash` of these modules and of all that they import, directly or not, but for tables and other display"
    folder, todo, hashes = Path(folder or _folder), set(modules), {}
    while todo:
        name = todo.pop()
        path = folder/f'{name.replace(".", "/")}.py'
        if name in hashes or not path.is_file(): continue
        source = path.read_text(encoding='utf-8')
        hashes[name] = code_hash(source)
        todo |= {m for m in _imports(source, name) if not _showing & {*m.split('.')}}
    return dict(sorted(hashes.items()))


def _taken(node): # names that a statement imports from this package, wherever they stand in it; none for any other
    if not isinstance(node, (ast.Import, ast.ImportFrom)): return set()
    if getattr(node, 'level', 0): return {(a.name, a.asname) for a in node.names}
    homes = [node.module] if hasattr(node, 'module') else [a.name for a in node.names]
    if any(h.split('.')[0] != 'cnn_tricks' for h in homes): return set()
    return {(a.name if hasattr(node, 'module') else '', a.asname) for a in node.names}


def _shape(node): # a syntax tree -> nested tuples of what it does, the same in every version of Python
    if isinstance(node, list): return tuple(map(_shape, node))
    if isinstance(node, str) and re.fullmatch(r'cnn_tricks(\.\w+)+', node): return 'a module of the package'
    if not isinstance(node, ast.AST): return repr(node)
    if _taken(node): return 'imports', *sorted(_taken(node), key=str)
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'Card': return 'Card' # whatever it says
    fields = {k: v for k, v in ast.iter_fields(node) if k not in _unseen and v not in (None, [])}
    if isinstance(fields.get('body'), list): fields['body'] = _code(fields['body'])
    if isinstance(node, ast.JoinedStr): # Python 3.12 put empty strings into format specifications
        fields['values'] = [v for v in node.values if getattr(v, 'value', None) != '']
    return type(node).__name__, *((k, _shape(v)) for k, v in fields.items())


def _code(body): # statements -> those that do something: no docstrings, no other bare strings, no bare annotations
    taken = set().union(*map(_taken, body)) # of what is imported from the package, neither order nor place counts
    kept = [n for n in body if not _taken(n) and not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
            and not (isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__')]
    return [('imports', *sorted(taken, key=str))]*bool(taken) + kept


def _imports(source, name): # of a module: `core.train` -> names of the package's modules that it imports, at any depth
    found, home = set(), ['cnn_tricks', *name.split('.')]
    for n in ast.walk(ast.parse(source)):
        if isinstance(n, ast.Import): found |= {a.name for a in n.names}
        if isinstance(n, ast.ImportFrom):
            base = '.'.join(home[:len(home) - n.level]*(n.level > 0) + [n.module]*bool(n.module))
            found |= {base} | {f'{base}.{a.name}' for a in n.names}
    return {f.removeprefix('cnn_tricks.') for f in found if f.startswith('cnn_tricks.')}
