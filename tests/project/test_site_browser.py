"""The site in a browser: on a desktop and on a telephone, in light and in dark; nothing comes from elsewhere."""
import contextlib, functools, http.server, re, threading
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from form import ROOT

PAGES = sorted(p.relative_to(ROOT/'nbs').with_suffix('').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb')
               if '_proc' not in p.parts)
AUDITED = 'index', 'tricks', 'claims', '01_cnn', '80_audit'


@contextlib.contextmanager
def served(folder):
    "The address of a server of `folder` on this machine."
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        server.server_close()


WIDE = '''() => { // what hangs over the edge of the window, and the blocks that scroll sideways by themselves
    const edge = document.documentElement.clientWidth, style = e => getComputedStyle(e).overflowX;
    const all = [...document.querySelectorAll('main *')], name = e => `${e.tagName}: ${e.innerText?.slice(0, 60)}`;
    const held = e => e.tagName !== 'MAIN' && (style(e) !== 'visible' || held(e.parentElement));
    const over = all.filter(e => e.getBoundingClientRect().right > edge + 1 && !held(e.parentElement));
    const blocks = all.filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1);
    return {over: over.map(name), blocks: blocks.filter(e => ['auto', 'scroll'].includes(style(e))).map(name),
            wide: document.documentElement.scrollWidth - edge}}'''


def look(browser, address, mode='light', width=1280, narrow=390):
    """Open a page; its console errors, failed requests and requests to elsewhere (but those for formulas), and what the
    page says of itself, also when the window has become narrow."""
    context = browser.new_context(viewport=dict(width=width, height=900), color_scheme=mode)
    page, errors = context.new_page(), []
    page.set_default_timeout(300_000)
    def note(what, text, where=''):
        if not re.search('katex|renderMathInElement', f'{text} {where}'): errors.append(f'{what}: {text}')
    page.on('pageerror', lambda e: note('error', e))
    page.on('request', lambda r: note('asks', r.url) if urlsplit(r.url).hostname not in ('127.0.0.1', None) else None)
    page.on('requestfailed', lambda r: note('failed', r.url))
    page.on('response', lambda r: note(r.status, r.url) if r.status >= 400 else None)
    page.on('console', lambda m: note('console', m.text, m.location) if m.type == 'error' else None)
    page.goto(address, wait_until='load')
    state = page.evaluate('''() => {
        const style = getComputedStyle(document.body);
        const brightness = c => c.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3;
        return {title: document.querySelector('h1').innerText,
                paper: brightness(style.backgroundColor), ink: brightness(style.color),
                broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src.slice(0, 80))}}''')
    state.update(page.evaluate(WIDE))
    page.set_viewport_size(dict(width=narrow, height=844))
    state['narrow'] = page.evaluate(WIDE)
    context.close()
    return errors, state


@pytest.mark.parametrize('name', PAGES)
def test_page_opens(site, browser, name):
    """No error, no picture missing, in light and in dark. On a desktop neither the page nor anything in it scrolls
    sideways; on a telephone the page does not."""
    with served(site) as address:
        for mode in 'light', 'dark':
            errors, state = look(browser, f'{address}/{name}.html', mode)
            assert not errors and not state['broken'], (errors, state['broken'])
            for window in state, state['narrow']: assert window['wide'] <= 0 and not window['over'], window
            assert state['title']
            assert not state['blocks'], state['blocks']
            light = state['paper'] > state['ink']
            assert light == (mode == 'light') and abs(state['paper'] - state['ink']) > 100, f'{mode}: {state}'


def findings(page) -> list:
    "What axe-core finds serious or critical, with everything unfolded: 'rule: html'."
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = Axe().run(page, options=dict(resultTypes=['violations'])).response['violations']
    return [f"{v['id']}: {n['html'][:150]}" for v in found if v['impact'] in ('serious', 'critical') for n in v['nodes']]


@contextlib.contextmanager
def opened(browser, address, mode='light', width=1280):
    context = browser.new_context(viewport=dict(width=width, height=844), color_scheme=mode)
    page = context.new_page()
    page.set_default_timeout(300_000)
    page.goto(address, wait_until='load')
    try: yield page
    finally: context.close()


@pytest.mark.parametrize('name,width', [(n, 1280) for n in AUDITED] + [('tricks', 390), ('31_dropout', 390)])
def test_everybody_can_read_it(site, browser, name, width):
    "Contrast, names of buttons and links, what a keyboard reaches: nothing serious, in light and in dark."
    with served(site) as address:
        for mode in 'light', 'dark':
            with opened(browser, f'{address}/{name}.html', mode, width) as page: found = findings(page)
            assert not found, '\n'.join([mode, *found])


def test_faults_of_a_page_are_found(site, browser):
    "The checks above see grey on grey in an answer, a block that scrolls, and a page that hangs over the edge."
    with served(site) as address, opened(browser, f'{address}/part_4.html', 'dark') as page:
        assert not findings(page) and not page.evaluate(WIDE)['blocks']
        page.evaluate("""() => { const put = html => document.querySelector('main').insertAdjacentHTML('beforeend', html);
            put('<details><summary>Answer</summary><code style="color: #eee; background: #fff">an answer</code></details>');
            put(`<div style="overflow-x: auto"><div style="width: 2000px">wide</div></div>`) }""")
        assert any(f.startswith('color-contrast: <code') for f in findings(page)) and len(page.evaluate(WIDE)['blocks']) == 1
        page.evaluate("""document.querySelector('main').insertAdjacentHTML('beforeend', '<div style="width: 2000px">too wide</div>')""")
        assert page.evaluate(WIDE)['over'] == ['DIV: too wide']


def test_what_quarto_writes_fits_a_telephone(site, browser):
    "A long formula in MathML scrolls by itself; long code, a long name and a raw `<code>` in the dark are readable."
    with served(site) as address, opened(browser, f'{address}/part_4.html', 'dark', 390) as page:
        page.evaluate("""() => { const put = html => document.querySelector('main').insertAdjacentHTML('beforeend', html);
            const sum = Array(80).fill('<mi>x</mi><mo>+</mo>').join('');
            put(`<p><math display="block" xmlns="http://www.w3.org/1998/Math/MathML">${sum}<mn>1</mn></math></p>`);
            put(`<h3>${'a_long_name'.repeat(9)}</h3><pre><code>${'x'.repeat(300)}</code></pre>`);
            put('<details open><summary>Answer</summary><code>an answer</code></details>') }""")
        state = page.evaluate(WIDE)
        assert not state['over'] and len(state['blocks']) == 1 and state['blocks'][0].startswith('P: '), state
        assert not [f for f in findings(page) if f.startswith('color-contrast')]


def test_browser_sees_errors(site, browser, tmp_path):
    "The check of the pages notices a script that fails and a picture that is not there."
    (tmp_path/'bad.html').write_text('<h1>x</h1><script>throw Error("no")</script><img src="gone.png" alt="x">')
    with served(tmp_path) as address: errors, state = look(browser, f'{address}/bad.html')
    assert any('no' in e for e in errors) and any('404' in e and 'gone.png' in e for e in errors) and state['broken']


def test_sidebar_leads_to_the_lessons(site, browser):
    "A reader who clicks in the sidebar gets to the lesson."
    with served(site) as address:
        page = browser.new_page(viewport=dict(width=1280, height=900))
        page.set_default_timeout(300_000)
        page.goto(f'{address}/index.html')
        page.click('#quarto-sidebar >> text=01 ')
        page.wait_for_url('**/01_cnn.html')
        assert page.locator('h1').first.is_visible()
        page.close()


def test_contents_are_a_click_away_on_a_telephone(site, browser):
    "The list that stands beside a page on a desktop is under the title on a telephone, and leads to the sections."
    with served(site) as address, opened(browser, f'{address}/claims.html', width=390) as page:
        box = page.locator('details.ct-contents')
        assert box.is_visible() and not box.locator('a').first.is_visible()
        box.locator('summary').click()
        link = box.locator('a').first
        link.click()
        place = link.get_attribute('href')
        assert page.url.endswith(place) and page.locator(place).bounding_box()['y'] < 844
        page.set_viewport_size(dict(width=1280, height=900))
        assert not box.is_visible()
