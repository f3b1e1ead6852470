"A busy machine: what the commands set for themselves before torch is loaded, and what `doctor` says."
import json, os, subprocess, sys

import pytest

from cnn_tricks.cli.wait_policy import busy_line, is_busy, waiting_variables

NAMES = 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS'


@pytest.mark.parametrize('busy,cores,says', [(0, 2, False), (.2, 2, False), (.5, 2, True), (1, 2, True), (2, 2, True), (.4, 16, False),
                                             (8, 16, True), (.1, 1, False), (.9, 1, True)])
def test_busy_or_quiet(busy, cores, says):
    assert is_busy(busy, cores) is says and bool(waiting_variables(busy, cores)) is says
    line = busy_line(busy, cores)
    assert line.startswith('busy: ' if says else 'quiet: ') and f'{busy:.1f} of {cores} core' in line and '\n' not in line
    assert ('measured times vary' in line) is says


def test_a_thread_for_each_core_that_is_left():
    assert [waiting_variables(busy, 2) for busy in (0, .5, 1, 2)] == [{}] + [{'OMP_NUM_THREADS': '1'}]*3
    assert waiting_variables(8, 16) == {'OMP_NUM_THREADS': '8', 'OMP_WAIT_POLICY': 'PASSIVE'}
    assert waiting_variables(.9, 1) == {'OMP_NUM_THREADS': '1'}


def environment(code, **env):
    "What stands in the environment of a fresh process after `code`; it is told that the machine is busy."
    clean = {k: v for k, v in os.environ.items() if k not in NAMES}
    code = f'''
import json, os, sys
import cnn_tricks.cli.wait_policy
cnn_tricks.cli.wait_policy.busy_cores = lambda seconds=0: float(os.environ['BUSY'])
cnn_tricks.cli.wait_policy.usable_cores = lambda: 2
{code}
print(json.dumps([{{k: os.environ[k] for k in {NAMES} if k in os.environ}}, 'torch' in sys.modules]))'''
    r = subprocess.run([sys.executable, '-c', code], env={'BUSY': '1.9', **clean, **env}, text=True, capture_output=True)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout.splitlines()[-1])


COMMANDS = [['train', '--device', 'none'], ['audit', '--device', 'none'], ['predict', '.', 'a.png'], ['doctor', '--no-measure', '--json']]


@pytest.mark.parametrize('words', COMMANDS, ids=lambda w: w[0])
def test_commands_choose_before_torch_is_loaded(words):
    call = f'''
seen = []
class Look:
    def find_spec(self, name, *args):
        if name == 'torch': seen.append(os.environ.get('OMP_NUM_THREADS'))
sys.meta_path.insert(0, Look())
from cnn_tricks.cli.main import main
main({words})
assert seen == [os.environ.get('OMP_NUM_THREADS')], seen'''
    assert environment(call) == [{'OMP_NUM_THREADS': '1'}, True]


def test_quiet_or_chosen_or_loaded():
    "Nothing is set on a quiet machine, where the user has chosen, and where torch is loaded."
    call = 'cnn_tricks.cli.wait_policy.set_waiting()'
    assert environment(call) == [{'OMP_NUM_THREADS': '1'}, False]
    assert environment(call, BUSY='0.1') == [{}, False]
    assert environment(call, OMP_WAIT_POLICY='ACTIVE') == [{'OMP_WAIT_POLICY': 'ACTIVE'}, False]
    assert environment(call, GOMP_SPINCOUNT='7') == [{'GOMP_SPINCOUNT': '7'}, False]
    assert environment(call, OMP_NUM_THREADS='2') == [{'OMP_NUM_THREADS': '2'}, False]
    assert environment('sys.modules["torch"] = None\n' + call) == [{}, True]


def test_imports_and_light_commands_choose_nothing():
    assert environment('import cnn_tricks.base.registry as r; r.import_modules()\nimport cnn_tricks.cli.train, cnn_tricks.cli.doctor, cnn_tricks.cli.audit') == [{}, True]
    assert environment('from cnn_tricks.cli.main import main\nmain(["--version"]); main(["train", "nowhere"]); main(["lessons", ""])') == [{}, False]


def test_doctor_tells(capsys):
    from cnn_tricks.cli import doctor
    found = doctor.diagnosis(measure=False)
    assert found['busy'] >= 0
    for busy, cores, word in (.1, 2, 'quiet: '), (1.9, 2, 'busy: '):
        doctor.show_diagnosis(found | dict(busy=busy, machine=found['machine'] | dict(cores=cores)))
        assert f'\n{word}other programs use {busy} of 2 cores' in capsys.readouterr().out


def test_busy_cores_sees_another_process():
    "A process that spins is seen, by more than is there without it; the most of several looks, as others may be busy too."
    from cnn_tricks.cli.wait_policy import busy_cores
    p = subprocess.Popen([sys.executable, '-c', 'while True: pass'])
    try: assert max(busy_cores(.3) for _ in range(5)) > .3
    finally:
        p.kill()
        p.wait()


def test_a_run_that_goes_on_keeps_its_threads(tmp_path, monkeypatch):
    from cnn_tricks.cli import run_options
    (tmp_path/'run.json').write_text(json.dumps(dict(command='train', options={}, threads=2)))
    used = []
    monkeypatch.setattr(run_options.torch, 'set_num_threads', used.append)
    for asked, resume in (None, False), (None, True), (3, True): run_options.use_threads(asked, tmp_path, resume)
    (tmp_path/'run.json').write_text(json.dumps(dict(command='train', options={})))  # of an older version
    run_options.use_threads(None, tmp_path, True)
    assert used == [2, 3]
