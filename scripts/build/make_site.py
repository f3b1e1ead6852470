"""Write what follows from the list of lessons and from the package: the site's sidebar, the title pages of the parts,
the reference, and the tables that stand in pages (their cells are tagged `generated`).

    python scripts/build/make_site.py           # write what has changed
    python scripts/build/make_site.py --check   # write nothing; exit 1 and name what is out of step

A new lesson needs no entry anywhere: its notebook's number says where it belongs.
"""
import argparse, ast, json, sys, warnings
from pathlib import Path

from cnn_tricks.course.lesson import lessons, outline
from cnn_tricks.course.tables import claims_table, lessons_table

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
import reference

TAG = 'generated'


def part_stem(part) -> str: return f"part_{part['number']}"


def sidebar(folder) -> str:
    "The navigation: the parts with the lessons that exist in `folder`, then the tables."
    quoted = lambda s: json.dumps(s, ensure_ascii=False)  # JSON's strings are YAML's
    lines = ['# Made by scripts/build/make_site.py', 'website:', '  sidebar:', '    contents:']

    def entry(stem, text, indent=6):
        lines.extend([f'{" "*indent}- href: {stem}.ipynb', f'{" "*indent}  text: {quoted(text)}'])
    entry('index', 'Start here')
    for part in outline()['parts']:
        name = f"{part['number']} {part['title']}"
        here = [l for l in lessons(folder) if l['part'] == part['number'] and l['there']]
        if not here:
            entry(part_stem(part), name)
            continue
        lines += [f'      - section: {quoted(name)}', f'        href: {part_stem(part)}.ipynb', '        contents:']
        for l in here: entry(l['stem'], f"{l['stem'][:2]} {l['title']}", 10)
    entry('matrix', 'The matrix')
    entry('tricks', 'All tricks')
    entry('claims', 'All claims')
    lines += ['      - section: "Reference"', '        contents:']
    for name in reference_pages(folder): entry(f'reference/{name}', name, 10)
    return '\n'.join(lines) + '\n'


def save_text(nb) -> str:
    "A notebook as nbdev-clean writes it."
    return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n'


def page(texts, name) -> str:
    "Markdown cells as a notebook; the ids of the cells begin with `name`."
    cells = [dict(cell_type='markdown', id=f'{name}-{i}'.replace('_', '-'), metadata={}, source=t.splitlines(keepends=True))
             for i, t in enumerate(texts)]
    spec = dict(display_name='python3', language='python', name='python3')
    return save_text(dict(cells=cells, metadata=dict(kernelspec=spec), nbformat=4, nbformat_minor=5))


def reference_pages(folder) -> dict: return reference.pages(ROOT/'cnn_tricks', {l['stem']: l['title'] for l in lessons(folder)})


def part_page(part, folder) -> str:
    "The title page of a part, as a notebook."
    texts = [f"# Part {part['number']}: {part['title']}\n\n> {part['question']}", part['text'], '## Lessons',
             lessons_table(part['number'], folder).markdown]
    if claims_table(part['number'], folder).rows:
        place = part['title'].lower().replace(' ', '-')
        texts += ['## Claims', 'What these lessons say to the claims that people repeat stands in the '
                  f'[table of claims](claims.ipynb#{place}).']
    return page(texts, part_stem(part))


def evaluate(source, names):
    "Run a cell in `names`; the value of its last line, or None."
    *body, last = ast.parse(source).body
    value = ast.Expression(last.value) if isinstance(last, ast.Expr) else None
    exec(compile(ast.Module(body if value else [*body, last], []), 'cell', 'exec'), names)
    return eval(compile(value, 'cell', 'eval'), names) if value else None


def refreshed(path) -> str:
    "The page at `path`, with its generated cells run again."
    nb, names = json.loads(path.read_text(encoding='utf-8')), {}
    for cell in nb['cells']:
        if TAG not in cell['metadata'].get('tags', []): continue
        shown = evaluate(''.join(cell['source']), names)
        if shown is None: continue
        data = {'text/markdown': shown.markdown.splitlines(keepends=True),
                'text/plain': repr(shown).splitlines(keepends=True)}
        cell['outputs'] = [dict(data=data, execution_count=None, metadata={}, output_type='execute_result')]
    return save_text(nb)


def wanted(folder) -> dict:
    "What every generated file in `folder` should hold: path -> text."
    files = {folder/'sidebar.yml': sidebar(folder)}
    files |= {folder/f'{part_stem(p)}.ipynb': part_page(p, folder) for p in outline()['parts']}
    files |= {folder/'reference'/f'{name}.ipynb': page(texts, name) for name, texts in reference_pages(folder).items()}
    return files | {p: refreshed(p) for name in ('index', 'matrix', 'tricks', 'claims') if (p := folder/f'{name}.ipynb').exists()}


def stale(folder) -> dict:
    "The files of `wanted` that are missing or different; and pages of the reference that have no folder any more, as ''."
    files = wanted(folder)
    gone = {p: '' for p in (folder/'reference').glob('*.ipynb') if p not in files}
    return {p: text for p, text in files.items() if not p.exists() or p.read_text(encoding='utf-8') != text} | gone


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing, exit 1 if something is out of step')
    check = parser.parse_args().check
    warnings.simplefilter('ignore')
    found = stale(ROOT/'nbs')
    for path, text in found.items():
        if check: print(f'{path.relative_to(ROOT)} is out of step: run python scripts/build/make_site.py')
        elif not text:
            path.unlink()
            print(f'removed {path.relative_to(ROOT)}')
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding='utf-8')
            print(f'wrote {path.relative_to(ROOT)}')
    sys.exit(bool(check and found))
