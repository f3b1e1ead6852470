"""The form of a lesson as rules that a machine can check. Each rule lists what is wrong with one notebook.

`rules_for(kind)` names the rules of a kind of notebook; CONTRIBUTING.md says the same in words.
"""
import ast, builtins, json, pydoc, re, warnings
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import nbformat
from nbdev.config import get_config
from nbdev.test import nb_test_cells

from cnn_tricks.course.lesson import VERDICTS, lessons, outline
from form_training import training_outputs

ROOT = Path(__file__).resolve().parent.parent
LESSON, ALL = ('foundation', 'trick', 'tool'), ('foundation', 'trick', 'tool', 'page')
TAUGHT = ('foundation', 'trick')
MAX_BYTES, MAX_SECONDS = 400_000, 60
RULES = {}


def rule(kinds=ALL):
    "Register a function of a notebook that yields complaints, for these kinds of notebook."
    def add(f):
        RULES[f.__name__] = f, kinds
        return f
    return add


def rules_for(kind): return [name for name, (_, kinds) in RULES.items() if kind in kinds]


def complaints(name, nb):
    "What rule `name` says about `nb`: one line each, naming the notebook and the cell."
    return [f'{nb.path.name}: {c}' for c in RULES[name][0](nb)]


class Cell:
    "One cell, with the questions that the rules ask of it."

    def __init__(self, index, cell):
        self.index, self.id, self.code = index, cell.get('id', ''), cell['cell_type'] == 'code'
        self.source, self.outputs = ''.join(cell['source']), cell.get('outputs', [])
        self.meta, self.tags = cell.get('metadata', {}), cell.get('metadata', {}).get('tags', [])

    def __str__(self): return f'cell {self.index} (id {self.id})'

    @cached_property
    def directives(self):
        "`#| fig-alt: text` -> {'fig-alt': 'text'}"
        lines = re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', self.source, re.M) if self.code else []
        return dict(lines)

    @cached_property
    def body(self):
        "The parsed statements of a code cell, without magics."
        return ast.parse(re.sub(r'^\s*[%!].*', 'pass', self.source, flags=re.M)).body if self.code else []

    @property
    def nodes(self): return [n for s in self.body for n in ast.walk(s)]

    @property
    def exported(self): return bool({'export', 'exports', 'exporti', 'default_exp'} & self.directives.keys())

    @property
    def lines(self): return [l for l in self.source.splitlines() if l.strip() and not l.startswith('#|')]

    @property
    def calls(self):
        "Names of the functions and methods that the cell calls."
        return {getattr(n.func, 'id', getattr(n.func, 'attr', '')) for n in self.nodes if isinstance(n, ast.Call)}

    @property
    def asserts(self):
        "Does it assert something that can fail: `assert`, or fastcore's `test_...` and `expect_fail`?"
        stated = any(isinstance(n, ast.Assert) and not isinstance(n.test, ast.Constant) for n in self.nodes)
        return stated or any(c.startswith('test_') or c in ('expect_fail', 'raises') for c in self.calls)

    @property
    def data(self): return [d for o in self.outputs if (d := o.get('data'))]

    @property
    def text(self):
        "All text of its outputs."
        parts = [o.get('text', '') for o in self.outputs]
        parts += [v for d in self.data for k, v in d.items() if k.startswith('text/')]
        return '\n'.join(''.join(p) for p in parts)

    @property
    def images(self): return sum(any(k.startswith('image/') for k in d) for d in self.data)

    @property
    def heading(self):
        "Its first heading, as (level, text), or None."
        if self.code: return None
        m = re.search(r'^(#{1,6}) +(.+)', re.sub(r'^```.*?^```', '', self.source, flags=re.M | re.S), re.M)
        return (len(m[1]), m[2].strip()) if m else None


@dataclass
class Notebook:
    path: Path
    kind: str = ''
    results: Path = ROOT/'results'

    def __post_init__(self):
        self.raw = json.loads(self.path.read_text(encoding='utf-8'))
        self.cells = [Cell(i, c) for i, c in enumerate(self.raw['cells'])]
        self.stem, self.name = self.path.stem, self.path.stem[3:]
        number = self.stem[:2]
        if not self.kind:
            known = {l['stem'][:2]: l['kind'] for l in lessons(self.path.parent)}
            self.kind = known[number] if re.match(r'\d\d_', self.stem) else 'page'

    @property
    def code(self): return [c for c in self.cells if c.code]

    @property
    def prose(self): return [c for c in self.cells if not c.code]

    @cached_property
    def run(self):
        "Ids of the cells that nbdev-test runs."
        return {c.id for c in nb_test_cells(self.path, skip_flags=get_config(ROOT).tst_flags.split())}

    def section(self, title, level=2):
        "The cells under a heading, up to the next one of its level or above; None if there is no such heading."
        out = None
        for c in self.cells:
            if out is not None and c.heading and c.heading[0] <= level: break
            if out is not None: out.append(c)
            elif c.heading and c.heading[0] == level and re.fullmatch(title, c.heading[1]): out = []
        return out

    @property
    def claims(self): return [c['id'] for c in outline()['claims'] if self.name in c['lessons']]

    @property
    def row(self): return next((l for l in lessons(self.path.parent) if l['stem'] == self.stem), {})


# how it opens

@rule()
def title(nb):
    "One title cell: `# Title` and, in a lesson, `> promise`."
    first = next((c for c in nb.prose), None)
    if not first or not first.source.startswith('# '):
        return (yield 'the first markdown cell must begin with "# Title"')
    rest = [l for l in first.source.splitlines()[1:] if l.strip()]
    if not rest or not all(l.startswith('>') and len(l) > 10 for l in rest):
        yield f'{first}: after the title comes one sentence as "> promise", and nothing else'


@rule(LESSON)
def default_exp(nb):
    """A lesson that exports names its module in the first cell: the lesson's name, in a folder or in none; outside
    `tricks` another will do. One that exports nothing names none."""
    first, named = nb.cells[0], [c for c in nb.code if 'default_exp' in c.directives]
    exports = [c for c in nb.code if {'export', 'exports', 'exporti'} & c.directives.keys()]
    if not exports: return (yield from (f'{c}: names a module, and nothing is exported' for c in named))
    *folder, name = first.directives.get('default_exp', '').split('.') if first.code else ['']
    if name != nb.name and folder in ([], ['tricks']):
        yield f'{first}: must be "#| default_exp {nb.name}", or that after the name of a folder and a dot'


@rule(LESSON)
def exports_named(nb):
    "What a lesson exports is what it teaches: its prose names each public thing."
    exported, spans = {}, ' '.join(s for c in nb.prose for s in re.findall(r'`([^`\n]+)`', c.source))
    for c in nb.code:
        if not {'export', 'exports'} & c.directives.keys(): continue
        for n in c.body:
            if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_') \
                and not any('patch' in ast.unparse(d) for d in n.decorator_list): exported[n.name] = c
    for name, c in exported.items():
        if not re.search(rf'\b{name}\b', spans): yield f'{c}: exports {name}, which the prose does not name'


@rule(('trick',))
def card(nb):
    "The card is shown once, with all its fields, before the claims are answered."
    end = next((c.index for c in nb.prose if c.heading == (2, 'Claims')), len(nb.cells))
    cells = [c for c in nb.code if c.index < end and '**TL;DR**' in ''.join(''.join(d.get('text/markdown', '')) for d in c.data)]
    if not cells: return (yield 'no cell above "Claims" shows the card')
    shown = ''.join(''.join(d.get('text/markdown', '')) for d in cells[0].data)
    for field in 'TL;DR', 'When', 'When not', 'Cost', 'Suggested', 'Plays well', 'Plays badly', 'Sources':
        if f'**{field}**' not in shown: yield f'{cells[0]}: the card that it shows has no "{field}"'


@rule(LESSON)
def before_you_start(nb):
    "Needs earlier lessons that exist, says what one will be able to do."
    cells = nb.section('Before you start')
    if cells is None: return (yield 'no section "## Before you start"')
    cell = next((c for c in cells if 'before_you_start' in c.calls), None)
    if not cell: return (yield 'no call of before_you_start under "Before you start"')
    call = next(n for n in cell.nodes if isinstance(n, ast.Call) and getattr(n.func, 'id', '') == 'before_you_start')
    args = dict(zip(('lesson', 'needs', 'able'), call.args)) | {k.arg: k.value for k in call.keywords}
    values = {k: ast.literal_eval(v) for k, v in args.items()}
    if values.get('lesson') != nb.stem: yield f'{cell}: before_you_start must name this lesson, {nb.stem!r}'
    if not values.get('able'): yield f'{cell}: before_you_start must say what one will be able to do'
    for need in values.get('needs', ()):
        if not re.match(r'\d\d_', need): continue
        if not (nb.path.parent/f'{need}.ipynb').exists(): yield f'{cell}: needs {need!r}, which is not there'
        elif need >= nb.stem and nb.kind != 'tool': yield f'{cell}: needs {need!r}, which comes later'
    if cell.directives.get('echo') != 'false': yield f'{cell}: needs "#| echo: false"'
    if 'nbval-ignore-output' not in cell.tags: yield f'{cell}: needs the tag nbval-ignore-output (it shows a time)'


# how it is written

@rule()
def imports_alone(nb):
    "A cell that imports does nothing else: the site's build runs such cells on their own."
    def imports(s):
        if isinstance(s, ast.Try): return all(imports(x) for x in s.body)
        return isinstance(s, (ast.Import, ast.ImportFrom))
    for c in nb.code:
        kinds = {imports(s) for s in c.body}
        if kinds == {True, False}: yield f'{c}: imports stand alone in their cells'


@rule()
def headings(nb):
    "A heading is alone in its cell, so that JupyterLab can fold what is under it."
    for c in nb.prose[1:]:
        text = re.sub(r'^```.*?^```', '', c.source, flags=re.M | re.S)
        if re.search(r'^#{1,6} ', text, re.M) and len(c.source.strip().splitlines()) > 1:
            yield f'{c}: the heading {c.heading[1]!r} must be alone in its cell'


@rule(LESSON)
def cell_sizes(nb):
    "Small cells: at most 20 lines; what is exported at most 30; code lines of at most 120 characters."
    sizes = {c: len(c.lines) for c in nb.code if c.lines}
    for c, n in sizes.items():
        most = 30 if c.exported else 20
        if n > most: yield f'{c}: {n} lines; at most {most}'
    for c in nb.code:
        for line in c.source.splitlines():
            if len(line) > 120 and not line.startswith('#|'):
                yield f'{c}: a line of {len(line)} characters; at most 120: {line[:40]}...'


@rule(LESSON)
def assertions(nb):
    "What the prose claims is asserted: in one code cell of four (tools: of eight) or more."
    cells = [c for c in nb.code if c.lines]
    n, share = sum(c.asserts for c in cells), 8 if nb.kind == 'tool' else 4
    if n * share < len(cells): yield f'{n} of {len(cells)} code cells assert something; at least one in {share}'


@rule()
def alt_text(nb):
    "Every picture says in words what it shows; one figure a cell."
    for c in nb.code:
        if c.images > 1: yield f'{c}: {c.images} figures; one a cell'
        if c.images and len(c.directives.get('fig-alt', '')) < 15:
            yield f'{c}: shows a picture, so it needs "#| fig-alt: what one sees in it"'
        for tag in re.findall(r'<img\b[^>]*>', c.text):
            if not re.search(r'alt="[^"]+"', tag): yield f'{c}: an <img> in its output has no alt text'
    for c in nb.prose:
        if re.search(r'!\[\s*\]\(', c.source): yield f'{c}: a picture without alt text'
        for tag in re.findall(r'<img\b[^>]*>', c.source):
            if not re.search(r'alt="[^"]+"', tag): yield f'{c}: an <img> without alt text'


@cache
def package_names():
    "Every name that the package's modules define or their classes have, read from the sources."
    names = set(dir(builtins))
    for p in (ROOT/'cnn_tricks').rglob('*.py'):
        tree = ast.parse(p.read_text(encoding='utf-8'))
        names |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return names


@cache
def library_names():
    "What `torch`, fastai's `Learner` and the lessons' other tools offer: loaded only when a name is still unknown."
    names = set()
    for home in ('torch', 'torch.nn', 'torch.nn.functional', 'torch.Tensor', 'torch.optim', 'torch.nn.Module',
                 'torch.cuda', 'fastai.learner', 'fastai.learner.Learner', 'fastai.callback.schedule', 'numpy',
                 'pathlib.Path', 'fastai.data.load.DataLoader', 'builtins.dict', 'builtins.str', 'builtins.list'):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            names |= set(dir(pydoc.locate(home)))
    return names


@rule()
def names_resolve(nb):
    "What the prose writes as `name()` is there: in the notebook, the package, Python, torch or fastai."
    used = set()
    for c in nb.code:
        for n in c.nodes:
            used |= {v for f in ('id', 'attr', 'name', 'arg', 'asname') if isinstance(v := getattr(n, f, None), str)}
    for c in nb.prose:
        for name in re.findall(r'`([A-Za-z_][\w.]*)\(\)`', c.source):
            last = name.split('.')[-1]
            if last not in used and last not in package_names() and last not in library_names():
                yield f'{c}: `{name}()` is nowhere to be found'


# how it ends

@rule(TAUGHT)
def sections(nb):
    "Claims (where it has any), Pitfalls, Exercises, Questions, Read on: in this order, none empty."
    wanted = ['Claims'] * bool(nb.claims) + ['Pitfalls', 'Exercises', 'Questions', 'Read on']
    found = [c.heading[1] for c in nb.prose if c.heading and c.heading[0] == 2 and c.heading[1] in wanted]
    if found != wanted:
        return (yield f'must end with the sections {", ".join(wanted)}; it has {", ".join(found) or "none"}')
    for t in wanted:
        if not nb.section(t): yield f'the section {t!r} is empty'


@rule(TAUGHT)
def pitfalls(nb):
    "Three to five, as a list."
    items = sum(len(re.findall(r'^(?:[-*]|\d+\.) ', c.source, re.M)) for c in nb.section('Pitfalls') or [])
    if not 3 <= items <= 5: yield f'Pitfalls is a list of 3 to 5; it has {items}'


@rule(TAUGHT)
def exercises(nb):
    "Three to five, each with a stub, a checker that hints, a folded answer, and a hidden cell that proves both."
    heads = [c for c in nb.section('Exercises') or [] if c.heading]
    titles = [c.heading[1] for c in heads if c.heading[0] == 3]
    if not 3 <= len(titles) <= 5: yield f'3 to 5 exercises as "### Exercise n: title"; it has {len(titles)}'
    for n, t in enumerate(titles, 1):
        if not re.match(rf'Exercise {n}: \S', t): yield f'"### {t}" must be "### Exercise {n}: title"'
        yield from (f'exercise {n}: {p}' for p in exercise(nb.section(re.escape(t), 3), nb.run))


def exercise(cells, run):
    "What is wrong with one exercise; `run` has the ids of the cells that are executed."
    if not cells or cells[0].code: yield 'the task, in a markdown cell, comes first'
    code = [c for c in cells if c.code]
    answers = [c for c in code if c.directives.get('code-fold') == 'true']
    checks = [c for c in code if any(getattr(d, 'id', getattr(d, 'attr', '')) == 'checker'
                                     for n in c.nodes if isinstance(n, ast.FunctionDef) for d in n.decorator_list)]
    proofs = [c for c in code if 'hide' in c.directives and c.asserts]
    if not code or code[0] in answers + checks + proofs: yield 'a stub, in a code cell of its own, comes after the task'
    if not checks: yield 'no cell defines a @checker'
    hints = [c for c in code if c not in answers and 'Not yet' in c.text]
    if not hints: yield 'the checker must be called on the stub, and its saved output must be a hint ("Not yet: ...")'
    if not answers: yield 'no worked answer with "#| code-fold: true"'
    for c in answers + checks + proofs:
        if c.id not in run: yield f'{c}: must be executed'
    for c in answers:
        if not c.directives.get('code-summary'): yield f'{c}: the answer needs "#| code-summary: "Worked answer""'
        if not c.meta.get('jupyter', {}).get('source_hidden'):
            yield f'{c}: the answer needs the cell metadata {{"jupyter": {{"source_hidden": true}}}}'
    proof = next((c for c in proofs if sum(getattr(n, 'attr', '') == 'ok' for n in c.nodes) >= 2
                  and any(isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.Not) for n in c.nodes)), None)
    if not proof: yield 'no hidden cell asserts "not check(stub).ok and check(answer).ok"'


@rule(TAUGHT)
def questions(nb):
    "At least three questions, each with a folded answer; and sources to read on."
    text = '\n'.join(c.source for c in nb.section('Questions') or [])
    folds = len(re.findall(r'<details>\s*<summary>.+?</summary>.+?</details>', text, re.S))
    if folds < 3: yield f'at least 3 questions as <details><summary>...</summary>...</details>; it has {folds}'
    if text.count('<details') != text.count('</details>'): yield 'a <details> is not closed'
    if not re.search(r'\]\(https?://|\*|doi|arXiv', '\n'.join(c.source for c in nb.section('Read on') or [])):
        yield '"Read on" names no source'


@rule(('trick',))
def comparison(nb):
    "Compared live over three seeds or more, and the verdict comes from a recorded run that is there."
    if nb.row.get('compares') is False: return
    calls = [n for c in nb.code for n in c.nodes if isinstance(n, ast.Call)]
    named = lambda *names: [n for n in calls if getattr(n.func, 'id', getattr(n.func, 'attr', '')) in names]
    compares, recorded = named('compare', 'ledger'), named('recorded')
    if not compares: yield 'no compare(...) or ledger(...) is run'
    for n in compares:
        seeds = next((k.value for k in n.keywords if k.arg == 'seeds'), None)
        few = isinstance(seeds, (ast.Tuple, ast.List)) and len(seeds.elts) < 3
        counts = [a.value for a in getattr(seeds, 'args', []) if isinstance(a, ast.Constant)]  # of range(n)
        few |= counts in ([0], [1], [2])
        if few: yield f'{ast.unparse(n)[:60]}: at least three seeds'
    if not recorded: yield 'no recorded(...) run is shown'
    for n in recorded:
        name = n.args[0].value if n.args and isinstance(n.args[0], ast.Constant) else None
        if name and not (nb.results/'records'/f'{name}.json').exists(): yield f'recorded({name!r}): no results/records/{name}.json'


# what is saved in it

rule()(training_outputs)

SHOWING = re.compile(r'before_you_start|answer|print|display|\w+_table|check_\w+|head|describe')


@rule()
def saved_outputs(nb):
    "What a cell displays is saved; what was not run shows nothing."
    for c in nb.code:
        if c.id not in nb.run:
            if c.outputs: yield f'{c}: is not run by nbdev-test, so it must show no output'
            continue
        last = c.body[-1] if c.body else None
        if not isinstance(last, ast.Expr) or c.source.rstrip().endswith(';') or c.outputs: continue
        value = last.value
        name = getattr(value.func, 'id', getattr(value.func, 'attr', '')) if isinstance(value, ast.Call) else None
        if isinstance(value, (ast.Constant, ast.Await, ast.Yield)): continue
        if name is None or SHOWING.fullmatch(name):
            yield f'{c}: displays {ast.unparse(value)[:50]!r}, but no output is saved'


@rule()
def clean_outputs(nb):
    "No errors, no warnings, no progress bars."
    for c in nb.code:
        for o in c.outputs:
            if o['output_type'] == 'error': yield f'{c}: ends in {o.get("ename")}'
            if o.get('name') == 'stderr': yield f'{c}: prints on stderr: {"".join(o["text"])[:60]!r}'
        if '<progress' in c.text: yield f'{c}: saves a progress bar; run it with progress=False'


PLACE = re.compile(r'(?<![\w.:/])/(?:home|root|Users|tmp|work|mnt|opt|var|usr|content)/[\w.]|\b[A-Z]:\\\\?Users')


@rule()
def no_paths(nb):
    "No folder of the machine that it was written on."
    for c in nb.cells:
        if m := PLACE.search(c.text):
            yield f'{c}: its output names a folder of this machine: {c.text[m.start():][:40]!r}'
        if m := re.search(r'(?<![\w.:/])/(?:home|root|Users|work)/\w', c.source):
            yield f'{c}: its source names a folder of this machine: {c.source[m.start():][:40]!r}'


@rule()
def eval_false(nb):
    "A cell that is never run says why, in a comment."
    for c in nb.code:
        if c.directives.get('eval') == 'false' or {'notest', 'skip_exec'} & c.directives.keys():
            if not re.search(r'^# \S', c.source, re.M): yield f'{c}: is never run; a comment must say why'


@rule()
def no_nbdev_export(nb):
    "Notebooks do not export themselves."
    for c in nb.code:
        if 'nbdev_export' in c.calls: yield f'{c}: calls nbdev_export()'


@rule()
def file_size(nb):
    "Under 400 kB, so that a clone stays small."
    if (n := nb.path.stat().st_size) > MAX_BYTES: yield f'{n/1000:.0f} kB; at most {MAX_BYTES//1000} kB'


@rule(LESSON)
def time_recorded(nb):
    "Its run time is recorded, and at most a minute."
    path = nb.results/'times.json'
    t = json.loads(path.read_text(encoding='utf-8')).get(nb.stem) if path.exists() else None
    if not t: yield f'no time in {path.name}: run "python scripts/build/save_outputs.py nbs/{nb.path.name}"'
    elif t['seconds'] > MAX_SECONDS: yield f'takes {t["seconds"]} s; at most {MAX_SECONDS} s'


@rule()
def valid(nb):
    "A notebook of the current format, with cell ids that differ."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # ids that are not unique: below
        try: nbformat.validate(nbformat.reads(json.dumps(nb.raw), as_version=nbformat.NO_CONVERT))
        except nbformat.ValidationError as e: yield str(e).splitlines()[0]
    ids = [c.id for c in nb.cells]
    for i in sorted({i for i in ids if ids.count(i) > 1}): yield f'the cell id {i!r} is used more than once'
    if any(isinstance(c['source'], str) and '\n' in c['source'] for c in nb.raw['cells']):
        yield 'cell sources must be lists of lines: run nbdev-clean'


@rule(TAUGHT)
def claims(nb):
    "Each claim of this lesson is answered once, under Claims, by a cell that asserts what it says."
    from cnn_tricks.course.tables import collect_answers
    mine = [a for a in collect_answers(nb.path.parent) if a['lesson'] == nb.stem]
    given = [a['claim'] for a in mine]
    for i in nb.claims:
        if given.count(i) != 1: yield f'claim {i} is answered {given.count(i)} times; once'
    under = {c.index for c in nb.section('Claims') or []}
    for a in mine:
        where = f"answer to {a['claim']} in cell {a['cell']}"
        if a['claim'] not in nb.claims:
            yield f'{where}: not a claim of this lesson ({", ".join(nb.claims) or "it has none"})'
        if a['cell'] not in under: yield f'{where}: must stand under "## Claims"'
        if not a['asserts']: yield f'{where}: no assertion in the same cell'
        if not a['verdict']: yield f'{where}: the verdict must be written out; one of: {"; ".join(VERDICTS)}'
        if not a['evidence']: yield f'{where}: no evidence is written or saved'
