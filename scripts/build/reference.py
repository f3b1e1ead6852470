"""The reference pages: what every folder of the package offers, read from its sources. `make_site.py` writes them.

nbdev shows in a lesson what the lesson exports; most of the package is plain Python, and is shown here beside it.
"""
import ast, io, re, textwrap, tokenize
from pathlib import Path


def module_names(tree) -> list:
    "The names in `__all__`, or what the module defines without an underscore."
    for n in tree.body:
        if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '') == '__all__' and isinstance(n.value, ast.List):
            return [e.value for e in n.value.elts if isinstance(e, ast.Constant)]
    return [n.name for n in tree.body if hasattr(n, 'name') and not n.name.startswith('_')]


def patched(node):
    "The class that a function with `@patch` belongs to; None for any other."
    if not isinstance(node, ast.FunctionDef) or not any('patch' in ast.unparse(d) for d in node.decorator_list): return None
    first = node.args.args[0].annotation if node.args.args else None
    return getattr(first, 'id', None)


def comment(line) -> str:
    "What stands behind the `#` of a line of code."
    try:
        for t in tokenize.generate_tokens(io.StringIO(line.strip() + '\n').readline):
            if t.type == tokenize.COMMENT: return t.string[1:].strip()
    except (tokenize.TokenError, IndentationError): return comment(line.partition(' #')[1] + line.partition(' #')[2])
    return ''


def in_table(text) -> str: return text.replace('|', r'\|').replace('<', r'\<')
def code(text) -> str: return '`' + text.replace('|', r'\|') + '`' if text else ''


def parameters(node) -> list:
    "(name, annotation, default, line) of each parameter of a function, `self` and `cls` left out."
    a, found = node.args, []
    plain = a.posonlyargs + a.args
    given = [None]*(len(plain) - len(a.defaults)) + a.defaults
    found += [(x.arg, x, d) for x, d in zip(plain, given, strict=True)]
    if a.vararg: found.append((f'*{a.vararg.arg}', a.vararg, None))
    found += [(x.arg, x, d) for x, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    if a.kwarg: found.append((f'**{a.kwarg.arg}', a.kwarg, None))
    own = isinstance(found[0][1].annotation, ast.Name) and patched(node) if found else None
    return [(n, x.annotation, d, x.end_lineno if d is None else d.end_lineno) for n, x, d in found
            if n not in ('self', 'cls')][bool(own and found[0][0] not in ('self', 'cls')):]


def fields(node) -> list:
    "(name, annotation, default, line) of each field of a dataclass or a named tuple."
    return [(n.target.id, n.annotation, n.value, n.end_lineno) for n in node.body
            if isinstance(n, ast.AnnAssign) and not n.target.id.startswith('_')]


def table(rows, lines, returns=()) -> str:
    "A row for each parameter or field: what it is called, its type and default, what its comment says."
    if not rows: return ''.join('Returns ' + ': '.join(filter(None, [code(kind), said])) + '.'*(not said.endswith(('.', '?', '!'))) for kind, said in returns)
    out = ['| | type | default | |', '|---|---|---|---|']
    for name, kind, default, line in rows:
        shown = re.sub(r'^field\(default_factory=(\w+).*', r'\1()', ast.unparse(default)) if default is not None else ''
        said = comment(lines[line - 1]).partition(' -> ')[0]
        out.append(f'| `{name}` | {code(ast.unparse(kind) if kind else "")} | {code(shown)} | {in_table(said)} |')
    return '\n'.join(out + [f'| *returns* | {code(kind)} | | {in_table(said)} |' for kind, said in returns])


def entry(node, lines, name) -> list:
    "Cells for one function, class or method: its heading, then what it says and its parameters or fields."
    said = ast.get_docstring(node) or ''
    if isinstance(node, ast.ClassDef):
        init = next((n for n in node.body if getattr(n, 'name', '') == '__init__'), None)
        shown = table(parameters(init) if init else fields(node), lines)
    else:
        rows, last = parameters(node), comment(lines[node.body[0].lineno - 2]) if node.body[0].lineno > node.lineno else ''
        what = last.partition('-> ')[2] if '-> ' in last else last if node.returns and (not rows or rows[-1][3] < node.body[0].lineno - 1) else ''
        kind = ast.unparse(node.returns) if node.returns else ''
        shown = table(rows, lines, [(kind, what)] if kind or what else [])
    return [f'### {name}', '\n\n'.join(filter(None, [said, shown])) or 'No parameters.']


def public_methods(node, tree) -> list:
    "The methods of a class that have a docstring, those that the module adds with `@patch` among them."
    own = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    added = [n for n in tree.body if patched(n) == node.name]
    return [n for n in own + added if not n.name.startswith('_') and ast.get_docstring(n)]


def module_cells(path, lessons) -> list:
    "Cells for one module; `lessons` maps the stem of a notebook to its title."
    text = path.read_text(encoding='utf-8')
    tree, lines = ast.parse(text), text.split('\n')
    things = {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not patched(n)}
    found = [things[n] for n in module_names(tree) if n in things]
    if not found: return []
    said = ast.get_docstring(tree).partition('\n')[0]
    made = re.search(r'File to edit: \S*nbs/(\w+)\.ipynb', text)
    where = f' It is written in the lesson [{lessons.get(made[1], made[1])}](../{made[1]}.ipynb).' if made else ''
    names = '\n'.join(textwrap.wrap(', '.join(n.name for n in found), 56, initial_indent='    ', subsequent_indent='    '))
    cells = [f'## {path.stem}', f'{said.rstrip(".")}.{where}\n\n```python\n'
             f'from {".".join(path.parts[-3:-1])}.{path.stem} import (\n{names})\n```']
    for n in found:
        cells += entry(n, lines, n.name)
        if isinstance(n, ast.ClassDef):
            for m in public_methods(n, tree): cells += entry(m, lines, f'{n.name}.{m.name}')
    return cells


def pages(package, lessons) -> dict:
    "Folder of the package -> the texts of its page's markdown cells."
    found = {}
    for folder in sorted(p for p in Path(package).iterdir() if (p/'__init__.py').exists()):
        cells = [c for p in sorted(folder.glob('*.py')) if not p.stem.startswith('_') for c in module_cells(p, lessons)]
        said = ast.get_docstring(ast.parse((folder/'__init__.py').read_text(encoding='utf-8')))
        if cells: found[folder.name] = [f'# cnn_tricks.{folder.name}\n\n> {said}', *cells]
    return found
