"""The site: what is made for it, and its pages read as HTML (test_site_browser.py opens them)."""
import json, posixpath, re, runpy, shutil
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import yaml
from form import ROOT

from cnn_tricks._site import tricks_of
from cnn_tricks.course.lesson import outline
from cnn_tricks.measure.effects import main_effect

make_site = runpy.run_path(str(ROOT/'scripts'/'build'/'make_site.py'))
PAGES = sorted(p.relative_to(ROOT/'nbs').with_suffix('').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb') if '_proc' not in p.parts)
MATH = re.compile(r'katex', re.I)  # the stand-in's own way to show formulas; Quarto writes MathML into the page


# the pages that follow from the list of lessons

def test_generated_pages_are_in_step():
    stale = [p.name for p in make_site['stale'](ROOT/'nbs')]
    assert not stale, f'out of step: {", ".join(stale)}; run python scripts/build/make_site.py'


def copy_notebooks(folder):
    for p in (ROOT/'nbs').glob('*.ipynb'): shutil.copy2(p, folder)


def test_new_lesson_appears_by_itself(tmp_path):
    "One file more, and nothing else: it stands in the sidebar and on the page of its part."
    copy_notebooks(tmp_path)
    cells = [dict(cell_type='markdown', source='# A trick nobody planned\n> It is here.')]
    (tmp_path/'19_unplanned.ipynb').write_text(json.dumps(dict(cells=cells)))
    texts = {p.name: t for p, t in make_site['wanted'](tmp_path).items()}
    contents = yaml.safe_load(texts['sidebar.yml'])['website']['sidebar']['contents']
    part = next(c for c in contents if c.get('section', '').startswith('1 '))
    assert dict(href='19_unplanned.ipynb', text='19 A trick nobody planned') in part['contents']
    assert all(t in texts['part_1.ipynb'] for t in ('[19 A trick nobody planned](19_unplanned.ipynb)', 'It is here.'))


def test_stale_pages_are_found(tmp_path):
    copy_notebooks(tmp_path)
    for p, text in make_site['wanted'](tmp_path).items():
        p.parent.mkdir(exist_ok=True)
        p.write_text(text, encoding='utf-8')
    assert not make_site['stale'](tmp_path)
    (tmp_path/'part_2.ipynb').unlink()
    page = tmp_path/'claims.ipynb'
    page.write_text(page.read_text(encoding='utf-8').replace('S4-11', 'S4-99'), encoding='utf-8')
    assert {p.name for p in make_site['stale'](tmp_path)} == {'part_2.ipynb', 'claims.ipynb'}


def test_sidebar_names_every_page():
    "Each notebook is reached from the sidebar, once, and what the sidebar names is there."
    links = re.findall(r'href: (\S+)\.ipynb', (ROOT/'nbs'/'sidebar.yml').read_text(encoding='utf-8'))
    assert sorted(links) == PAGES


def test_reference_shows_plain_modules_and_lessons(tmp_path):
    "A page a folder: what each public thing says, with its parameters; private ones are left out."
    (tmp_path/'odd').mkdir()
    (tmp_path/'odd'/'__init__.py').write_text('"Odd things"')
    (tmp_path/'odd'/'plain.py').write_text('''"Plain code."
__all__ = ['Box', 'grow']
class Box:
    "Holds things"
    size: int = 3 # how many
    def empty(self)->bool: # is nothing in it?
        "Look into it"
    def _mend(self): "Not for you"
def grow(
    box:Box, # what grows
    by:int=1, # how much, 'a|b' or a < b
    *rest
)->Box: # a new one
    "Grow it"
    return _helper()
def _helper(): "Not for you"
''')
    text = '\n'.join(make_site['reference'].pages(tmp_path, {})['odd'])
    assert text.startswith('# cnn_tricks.odd\n\n> Odd things') and 'import (\n    Box, grow)' in text
    assert 'Not for you' not in text and '### Box.empty\nLook into it\n\nReturns `bool`: is nothing in it?' in text
    for row in ('| `size` | `int` | `3` | how many |', '| `box` | `Box` |  | what grows |', '| *returns* | `Box` | | a new one |',
                r"| `by` | `int` | `1` | how much, 'a\|b' or a \< b |", '| `*rest` |  |  |  |'): assert row in text, text


def test_look_is_set_once():
    "nbs/_quarto.yml is a link to the one at the top, which asks for MathML, two themes, and files that are there."
    link = ROOT/'nbs'/'_quarto.yml'
    assert link.is_symlink() and link.resolve() == ROOT/'_quarto.yml'
    config = yaml.safe_load(link.read_text(encoding='utf-8'))
    html = config['format']['html']
    assert html['html-math-method'] == 'mathml' and set(html['theme']) == {'light', 'dark'}
    assert html['respect-user-color-scheme'] is True and html['code-overflow'] == 'wrap'
    themes = [t[1] for t in html['theme'].values()]
    filters = config['format']['commonmark']['filters']
    files = [html['css'], html['include-after-body'], *filters, *config['metadata-files'], config['website']['favicon'], *themes]
    assert all((ROOT/'nbs'/f).exists() for f in files)
    menu = next(i['menu'] for i in config['website']['navbar']['left'] if i['text'] == 'Lessons')
    assert [m['href'] for m in menu] == [f"part_{p['number']}.ipynb" for p in outline()['parts']]
    assert [m['text'] for m in menu] == [f"{p['number']} {p['title']}" for p in outline()['parts']]
    for t in themes: assert '$web-font-path: false;' in (ROOT/'nbs'/t).read_text(encoding='utf-8')


# the pages as HTML

class Page(HTMLParser):
    "What a page links to, the places in it, and its pictures."

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.sources, self.images, self.text = [], [], [], [], ''
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if 'id' in a: self.ids.append(a['id'])
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag in ('script', 'img') and a.get('src'): self.sources.append(a['src'])
        if tag == 'link' and a.get('href') and a.get('rel') in ('stylesheet', 'icon'): self.sources.append(a['href'])
        if tag == 'img': self.images.append(a)

    def handle_data(self, data): self.text += data


def problems(site) -> list:
    "Links, anchors and pictures of a built site that lead nowhere or say nothing."
    pages, found = {p.relative_to(site).as_posix(): Page(p) for p in sorted(site.rglob('*.html'))}, []
    for name, page in pages.items():
        for link in page.links + page.sources:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.sources and parts.scheme != 'data' and not MATH.search(link):
                    found.append(f'{name}: loads {link}')
                continue
            path = unquote(parts.path)  # from the top, or from the page's own folder
            target = posixpath.normpath(path.lstrip('/') if path.startswith('/') else posixpath.join(posixpath.dirname(name), path)) \
                if path else name
            if not (site/target).exists(): found.append(f'{name}: {link} leads nowhere')
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                found.append(f'{name}: {link}: no such place in the page')
        for image in page.images:
            if not (image.get('alt') or '').strip():
                found.append(f'{name}: a picture without alt text: {image.get("src", "")[:50]}')
        twice = sorted({i for i in page.ids if page.ids.count(i) > 1})
        found += [f'{name}: two places are called {i!r}' for i in twice]
        found += [f'{name}: links to a notebook: {l}' for l in page.links if '.ipynb' in l and not urlsplit(l).scheme]
    return found


def test_every_notebook_is_a_page(site):
    assert {p.relative_to(site).with_suffix('').as_posix() for p in site.rglob('*.html')} == {*PAGES, '404'}


def test_links_anchors_and_pictures(site):
    found = problems(site)
    assert not found, '\n'.join(found)


def test_lessons_open_with_what_was_measured(site):
    "On the first screen and in the card, in the process that makes all pages, where lessons define the classes anew."
    for stem in '11_precision', '12_hardware', '31_dropout', '34_averaging':
        text, names = Page(site/f'{stem}.html').text, tricks_of(stem)
        found = [e.points for n in names if (e := main_effect(n))]
        assert found and all(p in text for p in found) and f'Lesson {stem[:2]} of' in text
        assert 'Measured here' in text and max(map(text.count, found)) >= 2


def test_problems_are_found(site, tmp_path):
    "The check above sees a broken link, a missing anchor, a picture without words, and what comes from elsewhere."
    shutil.copytree(site, tmp_path/'site')
    page = tmp_path/'site'/'claims.html'
    bad = ('<a href="nowhere.html">x</a><a href="index.html#nothing">x</a><img src="styles.css">'
           '<script src="https://example.org/x.js"></script>')
    page.write_text(page.read_text(encoding='utf-8').replace('</body>', bad + '</body>'), encoding='utf-8')
    found = ' '.join(problems(tmp_path/'site'))
    for says in 'nowhere.html leads nowhere', '#nothing: no such', 'without alt text', 'loads https://example.org':
        assert says in found


def test_pages_show_their_parts(site):
    "What a reader must find, on pages of each kind."
    text = {n: Page(site/f'{n}.html').text for n in ('index', 'part_1', 'claims', 'tricks', '05_course')}
    assert 'cnn_tricks train' in text['index'] and '0 Foundations' in text['index']
    assert '15 Resolution' in text['part_1'] and 'S3-4' in text['claims'] and 'flip_shift' in text['tricks']
    assert 'Not yet: that is the sum' in re.sub(r'\s+', ' ', text['05_course'])
