"The modules as users import them: in a fresh process, outside nbs/."
import ast, builtins, dis, importlib, inspect, json, re, sys
from dataclasses import is_dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from common import run
from fastai.callback.core import event
from fastcore.docments import docments

import cnn_tricks
from cnn_tricks.measure.records import _imports

FOLDER = Path(cnn_tricks.__file__).parent
# the modules by name without the package's own: 'train', or 'core.train' for one in a folder
SOURCES = {'.'.join(p.relative_to(FOLDER).with_suffix('').parts): p.read_text(encoding='utf-8')
           for p in sorted(FOLDER.rglob('*.py')) if not p.stem.startswith('_')}
PARTS = list(SOURCES)


def fresh(code, tmp_path):
    "What `code` prints as JSON, run in a new process elsewhere."
    return json.loads(run(sys.executable, '-c', 'import json, sys\n' + code, cwd=tmp_path).splitlines()[-1])


def exported(name) -> list:
    "The names in `__all__` of the module `name`."
    found = [ast.literal_eval(n.value) for n in ast.parse(SOURCES[name]).body
             if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__']
    return found[0] if found else []


def imports_of(name) -> set:
    "The package's own modules that the module `name` imports anywhere."
    return _imports(SOURCES[name], name) & set(SOURCES)


def lesson_number(name):
    "The number of the notebook that exports the module `name`, from its header; None for a plain module."
    found = re.search(r'File to edit: (?:\.\./)+nbs/(\d+)_\w+\.ipynb', SOURCES[name])
    return int(found[1]) if found else None


def test_package_alone_is_light(tmp_path):
    loaded = fresh('import cnn_tricks; print(json.dumps(sorted(sys.modules)))', tmp_path)
    heavy = {'torch', 'fastai', 'fastcore', 'numpy', 'pandas', 'matplotlib', 'scipy', 'PIL', 'rich'}
    assert sorted(heavy & set(loaded)) == []


def test_public_face(tmp_path):
    "The names of `__all__` come from the modules that define them, when asked for, and stay what they are."
    code = '''
import cnn_tricks
early = 'torch' in sys.modules
from cnn_tricks import *
from cnn_tricks.core import recipe, train as training
from cnn_tricks.measure import compare as comparing
from cnn_tricks.studies import audit as auditing
import cnn_tricks.tricks.pooling as pooling
same = [cnn_tricks.Recipe is recipe.Recipe, Trick is recipe.Trick, recipes is recipe.recipes, train is training.train,
        cnn_tricks.learner is training.learner, compare is comparing.compare, cnn_tricks.audit is auditing.audit,
        'embedded' in datasets, 'resnet' in networks, tricks is cnn_tricks.tricks, tricks['pooling'] is pooling.Pooling,
        'pooling' in tricks, list(tricks) == recipe.tricks.names(), len(tricks) == len(recipe.tricks)]
try: cnn_tricks.trian
except AttributeError as e: said = str(e)
print(json.dumps([early, same, said, sorted(set(cnn_tricks.__all__) - set(dir(cnn_tricks)))]))
'''
    early, same, said, missing = fresh(code, tmp_path)
    assert not early and all(same) and "no attribute 'trian'" in said and not missing


@pytest.mark.parametrize('name', SOURCES)
def test_module_alone(name, tmp_path):
    code = f'import cnn_tricks.{name} as m; from cnn_tricks.{name} import *\n' \
           'torch = sys.modules.get("torch"); print(json.dumps([m.__file__, torch and torch.cuda.is_initialized()]))'
    file, cuda = fresh(code, tmp_path)
    assert Path(file) == FOLDER/f'{name.replace(".", "/")}.py' and not cuda


def test_imports_change_no_settings(tmp_path):
    code = '''
import fastai.vision.all, matplotlib, numpy, os, random, torch, warnings
def state():
    return dict(
        rc=dict(matplotlib.rcParams), backend=matplotlib.get_backend(), environ=dict(os.environ), folder=os.getcwd(),
        path=sys.path, filters=warnings.filters, printing=numpy.get_printoptions(), threads=torch.get_num_threads(),
        interop=torch.get_num_interop_threads(), dtype=torch.get_default_dtype(), grad=torch.is_grad_enabled(),
        deterministic=torch.are_deterministic_algorithms_enabled(), cudnn=torch.backends.cudnn.benchmark,
        torch_random=torch.get_rng_state().tolist(), random=random.getstate(),
        numpy_random=numpy.random.get_state()[1].tolist())
before = {k: repr(v) for k, v in state().items()}
''' + ''.join(f'import cnn_tricks.{name}\n' for name in SOURCES) + \
        'print(json.dumps([k for k, v in state().items() if repr(v) != before[k]]))'
    assert fresh(code, tmp_path) == []


@pytest.mark.parametrize('name', PARTS)
def test_names_used_exist(name):
    "Every global that any function reads is there: an import left in the notebook fails here."
    module = importlib.import_module(f'cnn_tricks.{name}')
    todo, missing = [compile(SOURCES[name], name, 'exec')], set()
    while todo:
        code = todo.pop()
        todo += [c for c in code.co_consts if inspect.iscode(c)]
        local = {i.argval for i in dis.get_instructions(code) if i.opname == 'STORE_NAME'}
        used = {i.argval for i in dis.get_instructions(code) if i.opname in ('LOAD_GLOBAL', 'LOAD_NAME')}
        missing |= {n for n in used - local if not hasattr(module, n) and not hasattr(builtins, n)}
    assert not missing - {'__class__', '__annotations__', '__conditional_annotations__', '__qualname__', '__module__'}


def undocumented(obj, name, owner=None) -> list:
    """What is missing on the function, or the class with its public methods, called `name`.
    Methods named after fastai's events, and those that a base class has too, are explained there."""
    if inspect.isclass(obj):
        made = {'__init__'} if is_dataclass(obj) else set()  # from fields, which have types
        own = {k: v.fget if isinstance(v, property) else getattr(v, '__func__', v) for k, v in vars(obj).items()
               if (k == '__init__' or not k.startswith('_')) and k not in made}
        bad = [] if vars(obj).get('__doc__') else [f'{name}: no docstring']
        return sum((undocumented(v, f'{name}.{k}', obj) for k, v in own.items() if inspect.isfunction(v)), bad)
    init = name.endswith('.__init__')
    if owner and not init and (obj.__name__ in vars(event) or hasattr(super(owner, owner), obj.__name__)): return []
    bad = [] if inspect.getdoc(obj) or init else [f'{name}: no docstring']
    notes = docments(obj, full=True, returns=False)
    for p in inspect.signature(obj).parameters.values():
        if p.name in ('self', 'cls'): continue
        note = notes.get(p.name) or {}
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or note.get('docment') or p.annotation is not p.empty: continue
        bad.append(f'{name}: parameter {p.name} has neither comment nor type')
    return bad


@pytest.mark.parametrize('name', PARTS)
def test_public_names_are_documented(name):
    module = importlib.import_module(f'cnn_tricks.{name}')
    assert inspect.getdoc(module)
    objects = [(n, inspect.unwrap(getattr(module, n))) for n in exported(name)]
    ours = [(n, o) for n, o in objects if inspect.isclass(o) or inspect.isfunction(o)]
    missing = sum((undocumented(o, n) for n, o in ours), [])
    assert not missing, '\n'.join(missing)


def test_modules_are_short():
    assert not {n: s.count('\n') for n, s in SOURCES.items() if s.count('\n') >= 250}


def test_imports_follow_the_lessons():
    "No circle; and what one lesson exports imports nothing that a later lesson exports."
    graph = {n: imports_of(n) for n in PARTS}
    list(TopologicalSorter(graph).static_order())  # raises CycleError
    number = {n: k for n in PARTS if (k := lesson_number(n)) is not None}
    ahead = [f'{n} imports {m}' for n in number for m in graph[n] & number.keys() if number[m] > number[n]]
    assert len(number) > 30 and not ahead, '\n'.join(ahead)


def silent_errors(text):
    "Public functions, classes and methods of a module that raise what neither their docstring nor a comment of theirs names."
    for scope in ast.parse(text).body:
        public = not getattr(scope, 'name', '_').startswith('_')
        said = ast.get_docstring(scope) or '' if isinstance(scope, ast.ClassDef) else ''
        inside = scope.body if isinstance(scope, ast.ClassDef) else [scope]
        for f in inside:
            if not public or not isinstance(f, ast.FunctionDef) or f.name.startswith('_') and f.name != '__init__': continue
            words = said + (ast.get_docstring(f) or '') + ' '.join(re.findall('#.*', ast.get_source_segment(text, f)))
            raised = {getattr(r.exc.func, 'id', '') for r in ast.walk(f) if isinstance(r, ast.Raise) and isinstance(r.exc, ast.Call)}
            for e in raised - {'', 'NotImplementedError', 'SystemExit', 'kind'}:
                if e not in words: yield f'{f.name}: {e}'


def test_docstrings_name_their_errors():
    found = {name: said for name, text in SOURCES.items() if (said := list(silent_errors(text)))}
    assert not found, '\n'.join(f'{k}: {", ".join(v)}' for k, v in found.items())
    assert list(silent_errors('def f(x):\n    "Does it"\n    raise ValueError(x)')) == ['f: ValueError']
    assert not list(silent_errors('def f(x): # a number; `ValueError` for another\n    raise ValueError(x)'))


def test_a_name_means_one_thing():
    "A module may hand on another's name; two things may not have the same one."
    owners = {}
    for name in PARTS:
        module = importlib.import_module(f'cnn_tricks.{name}')
        for public in exported(name): owners.setdefault(public, {}).setdefault(id(getattr(module, public)), []).append(name)
    assert owners and not {k: list(v.values()) for k, v in owners.items() if len(v) > 1}
