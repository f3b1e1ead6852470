"""Make README.md from nbs/index.ipynb, without Quarto.

    python scripts/build/make_readme.py           # write it
    python scripts/build/make_readme.py --check   # write nothing; exit 1 if it is out of step

Hidden cells, pictures that a cell drew and directives are left out; links into nbs/ are mended for the top folder.
"""
import re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]
INDEX, README = ROOT/'nbs'/'index.ipynb', ROOT/'README.md'
HEAD = '<!-- Made from nbs/index.ipynb by scripts/build/make_readme.py: edit the notebook. -->\n\n'


def keep(cell) -> bool:
    "False for raw cells (settings of the site) and hidden ones."
    return cell.cell_type != 'raw' and not re.match(r'#\|\s*(hide|include:\s*false)\b', cell.source)


def mend_link(match) -> str:
    "The same link, seen from the top folder."
    start, target = match.groups()
    return f'{start}nbs/{target}' if (INDEX.parent/target.split('#')[0]).is_file() else match[0]


def make() -> str:
    "The text of README.md."
    nb = nbformat.read(INDEX, as_version=4)
    nb.cells = [c for c in nb.cells if keep(c)]
    for c in nb.cells:
        if c.cell_type != 'code': continue
        c.outputs = [o for o in c.outputs if not any(k.startswith('image/') for k in o.get('data', {}))]
        if re.search(r'^#\|\s*echo:\s*false', c.source, re.M): c.source = ''
        c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
    nb.metadata['language_info'] = {'name': 'python'}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r'```python\s*```', '', text)
    text = re.sub(r'<span class="ct-[^>]*>([^<]*)</span>', r'\1', text)  # colours of the site
    text = re.sub(r'(\]\(|(?:src|href)=")(?![a-z]+:|#|/)([^)"\s]+)', mend_link, text)
    return HEAD + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


if __name__ == '__main__':
    text = make()
    if '--check' not in sys.argv[1:]: README.write_text(text, encoding='utf-8')
    elif not README.exists() or README.read_text(encoding='utf-8') != text:
        sys.exit('README.md is out of step with nbs/index.ipynb: run python scripts/build/make_readme.py')
