"""The tables of the course: its claims, its lessons, its tricks"""
import ast
import re
from pathlib import Path
from ..base.display import Table
from ..base.paths import lesson_of_module, lessons_path
from .lesson import lesson_link, lessons, notebook_cells, outline

__all__ = ['collect_answers', 'claims_table', 'lessons_table', 'tricks_table', 'verdicts_table']


def _statements(cell):
    "The parsed statements of a code cell, magics left out."
    return ast.parse(re.sub(r'^[%!].*', '', cell['source'], flags=re.M)).body


def _asserts(cell):
    "Does a cell assert something, by `assert` or by one of fastcore's `test_...`?"
    return any(isinstance(n, ast.Assert) or isinstance(n, ast.Call) and getattr(n.func, 'id', '').startswith('test_')
               or isinstance(n, ast.Call) and getattr(n.func, 'id', '') == 'expect_fail'
               for s in _statements(cell) for n in ast.walk(s))


def _arguments(call):
    "The arguments of an `answer(...)` that are written out; None for those that are computed."
    args = dict(zip(('claim_id', 'verdict', 'evidence'), call.args)) | {k.arg: k.value for k in call.keywords}
    return {k: v.value if isinstance(v, ast.Constant) else None for k, v in args.items()}


def _printed(cell, prefix):
    "What a cell's saved output says after `prefix`."
    texts = [''.join(o.get('data', {}).get('text/plain', '')) for o in cell.get('outputs', [])]
    return next((t[len(prefix):] for t in texts if t.startswith(prefix)), '')


def collect_answers(
    folder:str|Path=None, # where the notebooks are; default: `lessons_path()`
)->list: # a dict each: `claim`, `verdict`, `evidence`, `lesson`, `cell` (its index), `asserts`
    "The answers that the lessons give: each statement `answer(...)`, read from the notebooks without running them."
    rows = []
    for path in sorted(Path(folder or lessons_path()).glob('[0-9][0-9]_*.ipynb')):
        for i, cell in enumerate(notebook_cells(path)):
            if cell['cell_type'] != 'code' or 'answer(' not in cell['source']: continue
            for call in (s.value for s in _statements(cell) if isinstance(s, ast.Expr)):
                if not isinstance(call, ast.Call) or getattr(call.func, 'id', '') != 'answer': continue
                args = _arguments(call)
                claim, verdict = args.get('claim_id'), args.get('verdict')
                evidence = args.get('evidence') or _printed(cell, f'{claim}: {verdict}. ')
                rows.append(dict(claim=claim, verdict=verdict, evidence=evidence, lesson=path.stem, cell=i,
                                 asserts=_asserts(cell)))
    return rows


def claims_table(
    part:int=None, # number of a part of the course; default: all
    folder:str|Path=None, # where the notebooks are; default: `lessons_path()`
)->Table: # its `rows` have `id`, `claim`, `correct`, `lesson`, `stem`, `verdict`, `evidence`, `found`
    "Every claim with its verdict, once for each lesson that answers it; `planned` where the lesson is not there yet."
    found = {(a['claim'], a['lesson']): a for a in collect_answers(folder)}
    rows = []
    for lesson in lessons(folder):
        if part not in (None, lesson['part']): continue
        for c in outline()['claims']:
            if lesson['stem'][3:] not in c['lessons']: continue
            a = found.get((c['id'], lesson['stem']), {})
            verdict = a.get('verdict', 'missing' if lesson['there'] else 'planned')
            evidence = a.get('evidence', '')
            rows.append(dict(id=f"`{c['id']}`", claim=c['claim'], correct=c.get('correct', ''), stem=lesson['stem'],
                             lesson=lesson_link(lesson, '#claims' if a else ''), verdict=verdict, evidence=evidence,
                             found=f'**{verdict}** {evidence}' if a else verdict))
    return Table(rows, dict(id='', claim='claim', lesson='lesson', found='verdict'))


def lessons_table(
    part:int=None, # number of a part of the course; default: all
    folder:str|Path=None, # where the notebooks are; default: `lessons_path()`
)->Table: # its `rows` have `lesson`, `about`, `status`, `stem`; a row without a `stem` opens a part
    "The course's map: every lesson, with what it is about."
    found, rows = lessons(folder), []
    for p in outline()['parts']:
        if part is None:
            rows.append(dict(stem='', lesson=f"**{p['number']} {p['title']}**", about=f"*{p['question']}*", status=''))
        if part in (None, p['number']):
            rows += [dict(l, lesson=lesson_link(l), status='' if l['there'] else 'planned')
                     for l in found if l['part'] == p['number']]
    return Table(rows, dict(lesson='lesson', about='in one line', status=''))


def _taught(trick, stem): # does the lesson export the trick, or, where nothing exports it, bear its module's name?
    home = trick.__module__
    return (lesson_of_module(home) or stem[:3] + home.rpartition('.')[2]) == stem


def tricks_table(
    tricks, # the registry of tricks: name -> class with a `card`
    part:int=None, # number of a part of the course; default: all
    folder:str|Path=None, # where the notebooks are; default: `lessons_path()`
    effect=lambda name: None, # trick's name -> what was measured: `verdict`, `points`, `length`, ...; or None
    benches=lambda name: (), # trick's name -> what benches say: `bench`, `arm`, `epochs`, `word`, `points`, ...
)->Table: # its `rows` have `name`, `stem` (of the lesson), `tldr`, `when`, `verdict`, `points`, `cost`, `suggested`
    "Every trick in a line: what was measured, when to use it, its lesson; and the lessons whose trick is still planned."
    def text(v): return v if isinstance(v, str) else '; '.join(v)
    rows = []
    for l in lessons(folder):
        if part not in (None, l['part']): continue
        cards = {n: tricks[n].card for n in tricks if _taught(tricks[n], l['stem'])}
        for name, c in cards.items():
            rows.append(dict(trick=f'`{name}`: {text(c.tldr)}', lesson=lesson_link(l), stem=l['stem'], name=name,
                             tldr=text(c.tldr), when=f'{text(c.when)} **Not when:** {text(c.when_not)}',
                             cost=text(c.cost), suggested=text(c.suggested), **_found(effect(name), benches(name), name)))
        if not cards and l['kind'] == 'trick' and not l['there']:
            planned = f"*planned*: {l['about']}"
            rows.append(dict(trick=planned, lesson=lesson_link(l), stem=l['stem'], name='', tldr=planned, when='',
                             cost='', suggested='', **_found(None, (), '')))
    return Table(rows, dict(trick='trick', verdict='verdict', points='points [95% interval]', when='use it when',
                            lesson='lesson'))


def _found(effect, cells, name): # what the table says of a measured effect, and of what benches found
    word, lines = '', [] if effect else ['not recorded alone']*(not cells)
    if effect:
        word = effect.coloured
        images = effect.comparison.base.data.get('train', 0)
        lines = [f'{effect.points}<br>{images:,} images, {effect.length}']
    elif cells: word = cells[0].coloured(cells[0].verdict)
    lines += [f'[{c.bench}](matrix.ipynb#{c.bench}), {c.epochs:g} epoch{"s"*(c.epochs != 1)}: '
              f'{f"`{c.arm}` "*(c.arm != name)}{c.coloured(c.marked)}' for c in cells]
    return dict(verdict=word, points='<br>'.join(lines))


def verdicts_table(
    tricks, # the registry of tricks
    effect, # trick's name -> what was measured, or None
    folder:str|Path=None, # where the notebooks are; default: `lessons_path()`
    marked=frozenset(), # names that get a †
)->Table: # its `rows` have `verdict` and `tricks`
    "Which tricks help, in a few lines: the tricks with each verdict, the largest difference first."
    found = {r['name']: (effect(r['name']), r['stem']) for r in tricks_table(tricks, folder=folder).rows if r['name']}
    words = {v: [] for v in ('helps', 'hurts', 'no difference', 'undecided')}
    for name, (e, stem) in sorted(found.items(), key=lambda f: -f[1][0].comparison.difference if f[1][0] else 0):
        if e is None: continue
        word = next(w for w in words if e.verdict.startswith(w))
        words[word].append(f'[{name}]({stem}.ipynb) {e.points.partition(" ")[0]}' + '†'*(name in marked))
    return Table([dict(verdict=f'**{w}**', tricks=', '.join(t)) for w, t in words.items() if t],
                 dict(verdict='verdict', tricks='tricks, with the gain in percentage points of accuracy'))
