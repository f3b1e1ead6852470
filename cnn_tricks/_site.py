"""Turns lessons into pages of the site; part of the build, not of the library.

Named as `doc_procs` in pyproject.toml, so `nbdev-docs` uses it after its own processors. A lesson is written for
somebody who runs it; a page is read by somebody who came from a search engine. So a page says what course it belongs
to and what was measured, folds the code that only checks and draws, and needs no script for its tables.
"""
import re
from html.parser import HTMLParser
from pathlib import Path

from nbdev.process import Processor

RAW = 'https://github.com/cnn-tricks/cnn_tricks/raw/main/nbs'
COMMANDS = '80', '90', 'in' # lessons, and the index, where names in backticks are often commands
LONG = 60 # rows of a table that are shown without a click

DRAWS, MEASURES = re.compile(r'\bplt\.|\bax\w*\.|\.plot\(|imshow'), re.compile(r'\b(compare|ledger|recorded|train)\(')


# what the outputs become

class TableReader(HTMLParser):
    "The rows of the first table in some HTML, as lists of text."

    def __init__(self, html):
        super().__init__()
        self.rows, self.cell = [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == 'tr': self.rows.append([])
        if tag in ('td', 'th'): self.cell = ''

    def handle_endtag(self, tag):
        if tag in ('td', 'th') and self.cell is not None:
            self.rows[-1].append(self.cell.strip())
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None: self.cell += data


def table_markdown(html):
    "A table of pandas as Markdown: Quarto loads scripts from elsewhere for a page with HTML outputs"
    rows = TableReader(html).rows
    width = max(map(len, rows))
    lines = [[c.replace('|', r'\|') for c in r] + ['']*(width - len(r)) for r in rows]
    lines.insert(1, ['---'] + ['---:']*(width - 1))
    return '\n'.join('| ' + ' | '.join(l) + ' |' for l in lines)


def html_markdown(html):
    "HTML as Markdown"
    return table_markdown(html) if 'class="dataframe"' in html else f'```{{=html}}\n{html}\n```'


def folded(text):
    "A long table behind a click"
    rows = re.findall(r'^\|.*\|$', text, re.M)
    if len(rows) <= LONG + 2: return text
    table = '\n'.join(rows)
    return text.replace(table, f'<details><summary>All {len(rows) - 2} rows</summary>\n\n{table}\n\n</details>')


def cells_of(row): return [c.strip() for c in re.split(r'(?<!\\)\|', row.strip())[1:-1]]


def proportioned(text):
    """Tables whose columns are as wide as their words need: pandoc takes the widths from the dashes under the heads as
    soon as a row is long, and three dashes each give the name of a lesson as much room as its description"""
    return re.sub(r'(?:^\|.*\|[ \t]*(?:\n|$)){3,}', lambda m: with_widths(m[0]), text, flags=re.M)


def with_widths(table):
    "A Markdown table with a line of dashes that gives each column its share of 100"
    head, dashes, *rows = table.rstrip('\n').split('\n')
    if not re.fullmatch(r'[|:\s-]+', dashes) or max(map(len, rows)) < 72: return table
    said = [[re.sub(r'\]\([^)]*\)|<[^>]+>|[*`\[]', '', c) for c in cells_of(r)] for r in (head, *rows)]
    if len({len(r) for r in said}) > 1: return table
    columns = list(zip(*said))
    least = [max(len(w) for c in column for w in [*c.split(), '']) + 2 for column in columns]
    wish = [max(least[i], sum(map(len, column))/len(column)) for i, column in enumerate(columns)]
    room = max(100 - sum(least), 0)
    more = [w - l for w, l in zip(wish, least)]
    widths = [l + room*m/(sum(more) or 1) for l, m in zip(least, more)]
    marks = [(c[:1] == ':', c[-1:] == ':') for c in cells_of(dashes)]
    line = '|'.join(':'*a + '-'*max(3, round(w)) + ':'*b for w, (a, b) in zip(widths, marks))
    return '\n'.join([head, f'|{line}|', *rows]) + '\n'*table.endswith('\n')


def stacked(text):
    "Long tables of words, in a box of their own: on a telephone each row stands as a block"
    rows = [r for r in text.split('\n') if re.fullmatch(r'\|.*\|', r)]
    wordy = rows and len(cells_of(rows[0])) > 2 and any(len(c) > 80 for r in rows for c in cells_of(r))
    if not wordy or not text.startswith('|') or '\n\n' in text.strip(): return text
    return f'::: {{.ct-stack}}\n\n{text.strip()}\n\n:::'


def linked(text):
    "arXiv numbers as links, where they are none yet"
    number = r'(?<![\[/\w])arXiv[ :](\d{4}\.\d{4,5})(?![\d\]])'
    return re.sub(number, r'[arXiv \1](https://arxiv.org/abs/\1)', text)


def without_dead_links(text, commands=False):
    """nbdev links names in backticks to what a lesson exports. Private names and attributes have no place there; and
    in a lesson on commands `train` is the command, or a folder"""
    wrong = r'_\w*|[a-z]\w*\.\w+' + '|train'*commands
    return re.sub(rf'\[(`[^`\]]*`)\]\(https://cnn-tricks\.github\.io/cnn_tricks/\w+\.html#(?:{wrong})\)', r'\1', text)


def with_measured(text):
    "A card with the row \"Measured here\": behind TL;DR, for each trick whose card it is"
    from .core.trick import tricks
    line = re.search(r'^\| \*\*TL;DR\*\* \| .*$', text, re.M)
    if not line: return text
    said = re.sub(r'\[(`[^`]*`)\]\([^)]*\)', r'\1', line[0]) # without nbdev's links
    cells = [c.replace(r'\|', '|') for c in cells_of(said)[1:]]
    named = {tricks[n].card.tldr: n for n in tricks}
    rows = [found_of(named[c], 3 if len(cells) == 1 else 1) if c in named else '' for c in cells]
    if not any(rows): return text
    return text.replace(line[0], f'{line[0]}\n| **Measured here** | {" | ".join(rows)} |')


def found_of(name, most):
    "The row of a trick's card: what benches say of it, then the records that the card names; of each at most so many"
    from .measure.bench_effects import bench_lines
    from .measure.effects import measured_row
    return '<br>'.join(filter(None, [*bench_lines(name)[:most], measured_row(name, most)]))


# what the cells become

def summary(cell):
    "The words on the fold of a code cell that only checks or draws; '' for one that is shown"
    source = '\n'.join(l for l in cell.source.splitlines() if not l.startswith('#|'))
    if re.search(r'^@checker\b', source, re.M): return 'The checker: run the lesson to try it'
    if re.search(r'^answer\(', source, re.M): return 'The code behind this verdict'
    drawn = any(k.startswith('image/') for o in cell.get('outputs', []) for k in o.get('data', {}))
    if drawn and DRAWS.search(source) and not MEASURES.search(source): return 'The code of this figure'
    statements = [l for l in source.splitlines() if l.strip() and not l[0].isspace() and not l.startswith('#')]
    if statements and all(re.match(r'assert\b|test_\w+\(|with expect_fail', l) for l in statements): return 'What is asserted here'
    return ''


def fold(cell, hints=False):
    "Fold a code cell that only checks or draws; a checker's hint for the stub is shown only on request"
    said = summary(cell)
    if not said or re.search(r'^#\| *(code-fold|echo|eval|include|output)\b', cell.source, re.M): return
    cell.source = f'#| code-fold: true\n#| code-summary: "{said}"\n{cell.source}'
    if said.startswith('The checker') and not hints: cell.outputs = []


def is_stub(cell):
    "Does a `show_doc` cell show a bare signature, of which nothing is said?"
    if not re.search(r'^show_doc\(', cell.source, re.M): return False
    said = ''.join(''.join(o.get('data', {}).get('text/markdown', '')) for o in cell.get('outputs', []))
    code = re.search(r'```python\n(.*?)```(.*)', said, re.S)
    return bool(code) and '#' not in code[1] and not re.search(r'\w', code[2])


def lead(stem, names):
    "The line under the title of a lesson, and what was measured of its tricks: the first screen has the answer"
    from .measure.bench_effects import bench_cells
    from .measure.benches import in_epochs
    from .measure.effects import main_effect
    where = ', measured on Fashion-MNIST on a CPU' if names else ''
    text = (f'Lesson {stem[:2]} of a free course on training tricks for convolutional networks{where}. '
            f'Run it on your machine with `cnn_tricks lessons` ([install](index.ipynb#start)), or '
            f'[download the notebook]({RAW}/{stem}.ipynb). Which tricks help? [The matrix](matrix.ipynb), [all on one page](tricks.ipynb).')
    rows = []
    for n in names:
        for c in bench_cells(n):
            rows.append(f'| `{c.arm}` | {c.coloured(c.verdict)} | {c.points} | bench [{c.bench}](matrix.ipynb#{c.bench}), '
                        f'{in_epochs(c.epochs)}, {c.seeds} seeds |')
        if e := main_effect(n): rows.append(f'| `{n}` | {e.coloured} | {e.points} | {e.setting} |')
    head = ['| trick | verdict | points [95% interval] | measured with |', '|---|---|---|---|']
    return f'::: {{.ct-lead}}\n{text}\n:::\n' + '\n'.join(['', *head, *rows, '']*bool(rows))


class Page(Processor):
    "nbdev's processor of a page"

    def begin(self):
        stem = Path(self.nb.path_).stem
        names = tricks_of(stem) if re.match(r'\d\d_', stem) else []
        for cell in self.nb.cells:
            if cell.cell_type == 'markdown': cell.source = without_dead_links(linked(proportioned(cell.source)), stem[:2] in COMMANDS)
            if cell.cell_type != 'code': continue
            self.outputs(cell)
            fold(cell, hints=stem == '05_course') # which shows how lessons work
        self.nb.cells = [c for c in self.nb.cells if not (c.cell_type == 'code' and is_stub(c))]
        if re.match(r'\d\d_', stem): self.nb.cells.insert(1, self.markdown(lead(stem, names)))

    def outputs(self, cell):
        "Change what a cell shows, in place"
        for o in cell.get('outputs', []):
            data = o.get('data', {})
            if 'text/html' in data:
                html = ''.join(data.pop('text/html'))
                data.setdefault('text/markdown', html_markdown(html))
            for k in {'text/markdown', 'text/plain'} & data.keys(): data[k] = ''.join(data[k]).replace('__main__.', '')
            if 'text/markdown' in data:
                text = data['text/markdown']
                data['text/markdown'] = without_dead_links(linked(folded(stacked(proportioned(with_measured(text))))))

    def markdown(self, text):
        from fastcore.nbio import mk_cell
        return mk_cell(text, 'markdown')


def tricks_of(stem):
    """The names of the tricks that a lesson teaches, read from the sources: in the process that makes the pages the
    registry holds what the notebooks have defined since"""
    found = []
    for path in sorted((Path(__file__).parent/'tricks').glob('*.py')):
        text = path.read_text(encoding='utf-8')
        made = re.search(r'File to edit: \S*nbs/(\w+)\.ipynb', text)
        if (made[1] if made else stem[:3] + path.stem) == stem: found += re.findall(r"^@trick\('(\w+)'", text, re.M)
    return found
