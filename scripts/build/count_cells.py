"""How much of each lesson a reader sees: cells that are open on the site and cells that are folded, and lines of code.

    python scripts/build/count_cells.py [FOLDER]     # of the notebooks; default: nbs

Open: prose, and code whose source the site shows. Folded: exports (the site shows their signature), `code-fold: true`,
`echo: false`, and what is hidden. Lines of code: those that are exported, and the lesson's own.
"""
import json, re, sys
from pathlib import Path


def directives(source): return dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', source, re.M))


def folded(cell) -> bool:
    "Does the site leave the source of this cell out, or behind a click?"
    if cell['cell_type'] != 'code': return False
    d = directives(''.join(cell['source']))
    return bool({'hide', 'export', 'exporti', 'default_exp'} & d.keys()) or d.get('code-fold') == 'true' \
        or 'false' in (d.get('echo'), d.get('include'))


def counts(path) -> dict:
    "Cells and lines of one notebook."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    found = dict(lesson=path.stem, cells=len(cells), open=0, folded=0, exported=0, own=0)
    for c in cells:
        found['folded' if folded(c) else 'open'] += 1
        if c['cell_type'] != 'code': continue
        source = ''.join(c['source'])
        n = sum(bool(l.strip()) and not l.startswith('#|') for l in source.splitlines())
        found['exported' if {'export', 'exports', 'exporti'} & directives(source).keys() else 'own'] += n
    return found


if __name__ == '__main__':
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]/'nbs'
    print('| lesson | cells | open | folded | lines exported | own lines | share exported |\n|---|---|---|---|---|---|---|')
    rows = [counts(p) for p in sorted(folder.glob('[0-9][0-9]_*.ipynb'))]
    if not rows: sys.exit(f'no lessons in {folder}')
    for r in rows + [dict(lesson='all', **{k: sum(r[k] for r in rows) for k in list(rows[0])[1:]})]:
        print(f"| {r['lesson']} | {r['cells']} | {r['open']} | {r['folded']} | {r['exported']} | {r['own']} | "
              f"{r['exported']/(r['exported'] + r['own']):.0%} |")
