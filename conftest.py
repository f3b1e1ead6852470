"""Lets pytest run the notebooks through nbval as nbdev-test does, with the network off.

nbval reads none of nbdev's directives and refuses notebooks that nbdev-clean has cleaned. Here it runs just the cells
that nbdev-test runs, skips the others with their reason, and compares outputs without the noise that
scripts/build/save_outputs.py leaves out.
"""
import atexit, os, runpy, shutil, sys, tempfile
from functools import cache
from pathlib import Path

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT/'scripts'/'build'))
from save_outputs import is_noise, tested_ids

OFFLINE = ROOT/'tests'/'offline'
runpy.run_path(str(OFFLINE/'sitecustomize.py'))

if 'PYTEST_XDIST_WORKER' not in os.environ:  # workers, kernels and commands inherit these
    scratch = tempfile.mkdtemp(prefix='cnn_tricks_tests_')
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    os.environ['PYTHONPATH'] = str(OFFLINE)
    for name in 'CNN_TRICKS_CACHE', 'IPYTHONDIR', 'JUPYTER_RUNTIME_DIR', 'KERAS_HOME':
        os.environ[name] = str(Path(scratch)/name.lower())
    os.environ.pop('CNN_TRICKS_DATA', None)

compare = IPyNbCell.compare_outputs


def compare_without_noise(self, test, ref, skip_compare=None):
    return compare(self, *([o for o in outs if not is_noise(o)] for outs in (test, ref)), skip_compare)


def execute(self, source, allow_stdin=None):
    "As nbval's own, but with history, without which IPython shows what a final `;` should hide."
    return self.kc.execute(source, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


IPyNbCell.compare_outputs, RunningKernel.execute_cell_input = compare_without_noise, execute
tested = cache(tested_ids)


def pytest_collection_modifyitems(items):
    for item in items:
        if not isinstance(item, IPyNbCell): continue
        cell = item.cell
        if cell.id not in tested(item.path):
            first = next((line for line in cell.source.splitlines() if line.startswith('#|')), 'skip_exec: true')
            item.add_marker(pytest.mark.skip(reason=f'nbdev-test leaves this cell out ({first})'))
        cell.execution_count = 0  # cleaned, yet run


def pytest_sessionfinish(session, exitstatus):
    "A run in which nothing passed is no success."
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    if reporter and exitstatus == 0 and not reporter.stats.get('passed') and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
