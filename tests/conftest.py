"Made once for all tests: the wheel, an environment with it installed, the site, and a browser."
import os, shutil, sys
from pathlib import Path

import pytest
from build_site import build
from common import copy_project, run
from filelock import FileLock


def once(tmp_path_factory, name, make) -> Path:
    "A folder filled by `make(folder)`, made once for all the workers of a run."
    top = tmp_path_factory.getbasetemp()
    top = top.parent if 'PYTEST_XDIST_WORKER' in os.environ else top
    folder = top/name
    with FileLock(f'{folder}.lock'):
        if not (folder/'.made').exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder/'.made').touch()
    return folder


@pytest.fixture(scope='session')
def dist(tmp_path_factory) -> Path:
    "A folder with the sdist, the wheel made from it, and in `direct/` the wheel made without it."
    def make(folder):
        project = copy_project(folder/'project')
        build = sys.executable, '-m', 'build', '--no-isolation', '--outdir'
        run(*build, folder/'direct', '--wheel', project)
        shutil.rmtree(project)
        run(*build, folder, copy_project(folder/'project'))
    return once(tmp_path_factory, 'dist', make)


@pytest.fixture(scope='session')
def installed(tmp_path_factory, dist) -> Path:
    "The bin folder of a fresh environment in which only the wheel is new: it sees the packages installed here."
    def make(folder):
        run(sys.executable, '-m', 'venv', '--without-pip', folder)
        python = next(folder.glob('[bS]*/python*'))
        site = run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip()
        # A plain path in a .pth file is not searched for further .pth files, so the clone stays out of sight.
        (Path(site)/'here.pth').write_text('\n'.join(p for p in sys.path if Path(p).name.endswith('-packages')))
        run(sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-index', '--no-deps',
            next(dist.glob('*.whl')))
    folder = once(tmp_path_factory, 'installed', make)
    return next(folder.glob('[bS]*/python*')).parent


@pytest.fixture(scope='session')
def site(tmp_path_factory) -> Path:
    "The folder of the site's pages."
    return once(tmp_path_factory, 'site', lambda folder: build(folder/'copy'))/'copy'/'_proc'/'_docs'


@pytest.fixture(scope='module')
def browser():
    "Headless Chromium (Debian's or another on PATH; Playwright downloads none) that reaches 127.0.0.1 alone."
    path = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if path is None: pytest.skip('no Chromium on PATH (Debian: apt-get install chromium)')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:  # closed after each file: its event loop would be in nbval's way
        browser = p.chromium.launch(executable_path=path, args=[
            '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-sync',
            '--disable-component-update', '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'])
        yield browser
        browser.close()
