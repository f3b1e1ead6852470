"Lessons from the installed wheel, opened in JupyterLab by a browser and run from its menu."
import json, os, socket, subprocess, sys, time
from urllib.request import urlopen

import pytest
from cnn_tricks.course.lesson import lessons
from common import ROOT, run

STATE = '''() => {
    const {content, sessionContext} = window.jupyterapp.shell.currentWidget
    const code = content.model.toJSON().cells.filter(c => c.cell_type == 'code' && [c.source].flat().join('').trim())
    return {idle: sessionContext.session?.kernel?.status == 'idle', cells: code.length,
            run: code.filter(c => c.execution_count).length,
            errors: code.flatMap(c => c.outputs).filter(o => o.output_type == 'error').map(o => o.evalue)}
}'''


def shortest_lessons() -> list:
    "The lesson of each part with the fewest recorded seconds, the shortest of them all first."
    times, parts = json.loads((ROOT/'results'/'times.json').read_text(encoding='utf-8')), {}
    for l in lessons():
        if l['stem'] in times: parts.setdefault(l['part'], []).append((times[l['stem']]['seconds'], l['stem']))
    return [stem for _, stem in sorted(map(min, parts.values()))]


shortest, *others = shortest_lessons()


@pytest.fixture
def lab(installed, tmp_path):
    "The address of a JupyterLab of the installed wheel, its settings and its lessons in `tmp_path`."
    run(installed/'cnn_tricks', 'lessons', tmp_path/'course', '--no-open', cwd=tmp_path)
    settings = tmp_path/'settings'/'@jupyterlab'/'apputils-extension'
    settings.mkdir(parents=True)
    (settings/'notification.jupyterlab-settings').write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    share = f'{sys.prefix}/share/jupyter'  # JupyterLab itself is not in the fresh environment
    env = dict(os.environ, JUPYTERLAB_DIR=f'{share}/lab', JUPYTER_PATH=share, JUPYTER_CONFIG_DIR=str(tmp_path/'config'),
               JUPYTERLAB_SETTINGS_DIR=str(tmp_path/'settings'), JUPYTERLAB_WORKSPACES_DIR=str(tmp_path/'workspaces'))
    log = (tmp_path/'lab.log').open('w')
    server = subprocess.Popen(
        [installed/'python', '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1',
         f'--ServerApp.port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=',
         f'--ServerApp.root_dir={tmp_path/"course"}', '--LabApp.expose_app_in_browser=True'],
        env=env, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(1200):
            try: urlopen(f'{url}/api', timeout=60).close()
            except OSError: time.sleep(.5)
            else: break
            assert server.poll() is None, (tmp_path/'lab.log').read_text()
        yield url
    finally:
        server.terminate()
        server.wait(300)
        log.close()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize('name', [shortest, *(pytest.param(o, marks=pytest.mark.every_part) for o in others)])
def test_lesson_runs_in_jupyterlab(browser, lab, name):
    page = browser.new_page()
    page.set_default_timeout(600_000)  # a busy machine is slow, not wrong
    try:
        page.goto(f'{lab}/lab/tree/{name}.ipynb')
        page.wait_for_selector('.jp-NotebookPanel .jp-CodeCell')
        page.wait_for_function(f'({STATE})().idle')
        before = page.evaluate(STATE)
        assert before['cells'] > 0 and before['run'] == 0, before
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        done = f'(() => {{ const s = ({STATE})(); return s.idle && (s.run == s.cells || s.errors.length) }})()'
        page.wait_for_function(done, timeout=1_500_000)
        after = page.evaluate(STATE)
        assert after['run'] == after['cells'] and not after['errors'], after
    finally: page.close()
