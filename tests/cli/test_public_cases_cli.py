"Situations that people have reported of other tools: on the command line, the right answer to each."
import json, re, subprocess, sys, threading
from pathlib import Path

import pytest
from test_cli import cnn_tricks, draw, server  # noqa: F401 (fixtures)

from cnn_tricks.cli.main import main
from cnn_tricks.cli.errors import UsageError

SMALL = dict(network='resnet', network_args=dict(width=4, blocks=[0, 1], grid=2), optimizer='adamw', lr=.01, batch_size=8, steps=3)


@pytest.fixture(scope='module')
def photos(tmp_path_factory): return draw(tmp_path_factory.mktemp('drawn')/'photos', 12, ('a', 'b', 'c'))


def write(folder, name='r.json', **fields):
    (folder/name).write_text(json.dumps(SMALL | fields))
    return folder/name


def made(folder): return sorted(p.name for p in folder.iterdir() if p.name not in ('.err', '.out'))


# 8: an empty argument is not a missing one

EMPTY = [['train', ''], ['train', '--out', ''], ['train', '--recipe', ''], ['train', '--device', ''], ['train', '--seed', ''],
         ['train', '--size', ''], ['train', '  '], ['audit', ''], ['audit', '--out', ''], ['audit', '--recipe', ''],
         ['audit', '--device', ''], ['audit', '--tricks', ''], ['audit', '--tricks', 'mixup', ''], ['audit', '--delta', ''],
         ['predict', '', 'a.png'], ['predict', 'run', ''], ['predict', 'run', 'a.png', ''], ['predict', 'run', 'a.png', '--heat', ''],
         ['lessons', ''], ['lessons', '--port', ''], ['']]


@pytest.mark.parametrize('args', EMPTY, ids=str)
def test_case_8_empty_argument(args, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    said = capsys.readouterr()
    assert said.out == '' and said.err.count('\n') == 1 and said.err.startswith('cnn_tricks') and not made(tmp_path)


def test_case_8_every_word_of_every_command():
    "No argument that takes text takes an empty one: those that a later command brings are asked, too."
    import argparse
    from cnn_tricks.cli.arguments import parser
    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    for name, p in commands.items():
        for a in p._actions:
            if a.nargs == 0 or a.choices: continue
            with pytest.raises((argparse.ArgumentTypeError, ValueError)): (a.type or str)(''), pytest.fail(f'{name}: {a.dest}')


def test_case_8_functions_and_variables(cnn_tricks):
    from cnn_tricks.cli.run_options import read_recipe, run_folder, tried_device
    for f in read_recipe, run_folder, tried_device:
        with pytest.raises(UsageError): f('')
    assert 'WORLD_SIZE' in cnn_tricks('train', code=2, lines=1, WORLD_SIZE='two').err


# 9: two commands at the same moment

def test_case_9_claims_at_the_same_moment(tmp_path, monkeypatch):
    "Sixteen threads want a folder at once, many times over: each gets its own."
    from cnn_tricks.cli.run_claim import claimed
    monkeypatch.chdir(tmp_path)
    n, claims = 16, []
    def take(k, start):
        start.wait()
        claims.append(claimed(None, Path(f'run{k}'), dict(k=k), default=f'run{k}'))
    for k in range(5):
        start = threading.Barrier(n)
        threads = [threading.Thread(target=take, args=(k, start)) for _ in range(n)]
        for t in threads: t.start()
        for t in threads: t.join()
    assert len(claims) == len({c.out for c in claims}) == 5*n
    assert {c.out.name for c in claims[:n]} == {'run0', *(f'run0_{i}' for i in range(2, n + 1))}
    for c in claims: c.free(), c.release()
    assert not made(tmp_path)


def test_case_9_one_of_two_gets_a_named_folder(tmp_path, monkeypatch):
    from cnn_tricks.cli.run_claim import claimed
    monkeypatch.chdir(tmp_path)
    (tmp_path/'mine').mkdir()
    first = claimed('mine', Path('mine'), {})
    with pytest.raises(UsageError, match='mine holds an unfinished run'): claimed('mine', Path('mine'), {})
    assert json.loads((tmp_path/'mine'/'run.json').read_text())['options'] == {}
    first.release()


def start(command, photos, folder, *more):
    return subprocess.Popen([sys.executable, '-m', 'cnn_tricks', command, str(photos), '--recipe', 'r.json', *more], cwd=folder,
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


def test_case_9_two_trainings(photos, tmp_path):
    write(tmp_path)
    both = [start('train', photos, tmp_path, '--no-baseline', '--seed', str(s)) for s in (1, 2)]
    for p in both: assert p.communicate()[1].count('Traceback') == 0 and p.returncode == 0
    seeds = {json.loads((tmp_path/f/'metrics.json').read_text())['seed'] for f in ('cnn_tricks_run', 'cnn_tricks_run_2')}
    assert seeds == {1, 2}


def test_case_9_two_audits(photos, tmp_path):
    write(tmp_path, steps=4)
    options = '--tricks', 'label_smoothing', '--size', '16', '--minutes', '5'
    both = [start('audit', photos, tmp_path, *options, '--seed', str(s)) for s in (1, 2)]
    said = [p.communicate() for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    seeds = {json.loads((tmp_path/f/'ledger.json').read_text())['asked']['seed'] for f in ('cnn_tricks_audit', 'cnn_tricks_audit_2')}
    assert seeds == {1, 2}


def test_case_9_a_run_goes_on_once(photos, tmp_path, cnn_tricks):
    "While one command works in a folder, another cannot go on there; when it has ended, it can."
    from cnn_tricks.cli.run_claim import RunClaim
    from cnn_tricks.cli.run_options import read_recipe
    write(tmp_path)
    o = dict(epochs=None, minutes=None, steps=None, size=None, seed=1, batch_size=None, lr=None, no_baseline=True,
             folder=str(photos), recipe=read_recipe(str(tmp_path/'r.json')))
    claim = RunClaim(tmp_path/'cnn_tricks_run')
    claim.take(o)
    assert 'another command is at work' in cnn_tricks('train', '--resume', code=2, lines=1).err
    claim.release()
    cnn_tricks('train', '--resume')
    assert json.loads((tmp_path/'cnn_tricks_run'/'metrics.json').read_text())['seed'] == 1


def test_case_9_pictures_of_heat(tmp_path):
    from cnn_tricks.cli.predict import new_file
    names, start = [], threading.Barrier(12)
    def take():
        start.wait()
        names.append(new_file(tmp_path, 'a.png').name)
    threads = [threading.Thread(target=take) for _ in range(12)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(set(names)) == 12 == len(made(tmp_path))


# 12: late checks, and what they leave behind

BAD = {  # what the line must name: the file, the field, the value
    '{"schedule": "one_cycle", "schedule_args": {"pct_start": 2}}': ('pct_start', '2'),
    '{"schedule": "one_cycle", "schedule_args": {"div": 0}}': ('div', '0'),
    '{"schedule": "one_cycle", "schedule_args": {"moms": [1]}}': ('moms', '1'),
    '{"schedule": "one_cycle", "schedule_args": {"pct_start": "half"}}': ('pct_start', 'half'),
    '{"loss_args": {"label_smoothing": 5}}': ('label_smoothing', '5'),
    '{"loss_args": {"label_smoothing": -0.5}}': ('label_smoothing', '-0.5'),
    '{"optimizer": "sgd", "optimizer_args": {"momentum": 2}}': ('momentum', '2'),
    '{"tricks": null}': ('tricks', 'None'), '{"tricks": [{"name": ["ema"]}]}': ('name', 'ema'), '{"tricks": "ema"}': ('tricks', 'ema'),
    '{"network": ["resnet"]}': ('network', 'resnet'), '{"network_args": {"width": -4}, "network": "resnet"}': ('width', '-4'),
    '{"optimizer_args": []}': ('optimizer_args', '[]'), '{"lr": null}': ('lr', 'None'), '{"epochs": NaN}': ('epochs', 'nan'),
    '{"batch_size": 1e400}': ('batch_size', 'inf'), '{"batch_size": true}': ('batch_size', 'True'), '{"size": 0}': ('size', '0')}


@pytest.mark.parametrize('command', ['train', 'audit'])
@pytest.mark.parametrize('text', BAD)
def test_case_12_bad_recipe(cnn_tricks, photos, tmp_path, text, command):
    (tmp_path/'r.json').write_text(text)
    short = ('--minutes', '0.001') if command == 'audit' else ('--steps', 3, '--no-baseline')
    code = 1 if 'width' in text else 2  # a network says what it takes when it is built for the images
    job = cnn_tricks(command, photos, '--recipe', 'r.json', '--size', 20, *short, code=code, lines=1)
    assert all(word in job.err for word in ('r.json', *BAD[text])), job.err
    assert made(tmp_path) == ['r.json'] and 'AssertionError' not in job.err and 'object is not' not in job.err


@pytest.mark.parametrize('text', BAD)
def test_case_12_whatever_is_wrong_leaves_nothing(cnn_tricks, photos, tmp_path, text):
    "Also where the recipe does not notice: a few steps of training do, before a folder is claimed."
    (tmp_path/'r.json').write_text(text)
    job = cnn_tricks('train', photos, '--recipe', 'r.json', '--no-baseline', '--size', 20, '--steps', 3, code=None)
    if job.code: assert job.err.count('\n') == 1 and 'r.json' in job.err and made(tmp_path) == ['r.json'], job.err


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
def test_case_12_byte_order_mark(cnn_tricks, photos, tmp_path, encoding):
    (tmp_path/'r.json').write_text(json.dumps(SMALL), encoding=encoding)
    cnn_tricks('train', photos, '--recipe', 'r.json', '--no-baseline', '--out', 'a')
    assert json.loads((tmp_path/'a'/'metrics.json').read_text())['steps'] == 3


@pytest.mark.parametrize('content', [b'\xff\xfe\xfa', b'{"lr": "\xe9"}', b'[' * 100_000, b'\x00' * 50, b'{"recipe": null}', b'{"recipe": 3}'], ids=lambda b: str(b[:9]))
def test_case_12_no_json_at_all(cnn_tricks, tmp_path, content):
    (tmp_path/'r.json').write_bytes(content)
    err = cnn_tricks('train', '--recipe', 'r.json', code=2, lines=1).err
    assert err.startswith('cnn_tricks: error: r.json: ') and made(tmp_path) == ['r.json']
    assert 'is a folder' in cnn_tricks('train', '--recipe', '.', code=2, lines=1).err


@pytest.mark.parametrize('args', [['train', '--seed', str(2**63)], ['audit', '--seed', str(2**63)], ['train', '--seed', '9'*500],
                                  ['train', '--steps', '9'*500], ['train', '--threads', '100000'], ['train', '--batch-size', str(2**64)],
                                  ['lessons', '--port', '70000'], ['train', '--device', 'meta'], ['train', '--device', 'cpu:x']], ids=lambda a: ' '.join(a)[:30])
def test_case_12_numbers_too_large(cnn_tricks, tmp_path, args):
    cnn_tricks(*args, code=2, lines=1)
    assert not made(tmp_path)


@pytest.mark.parametrize('command', ['train', 'audit'])
def test_case_12_batch_norm_of_one_value(cnn_tricks, photos, tmp_path, command):
    (tmp_path/'r.json').write_text(json.dumps(dict(network='resnet', batch_size=1, steps=3)))
    options = ['--no-baseline'] if command == 'train' else []
    err = cnn_tricks(command, photos, '--recipe', 'r.json', '--size', 8, *options, code=1, lines=1).err
    assert 'r.json' in err and 'batch_size=1' in err and '8 x 8' in err and made(tmp_path) == ['r.json']


FAILS = '''
import sys
from unittest import mock
from cnn_tricks.cli.main import main
import cnn_tricks.cli.train as runs, cnn_tricks.cli.audit as audit_runs
from fastai.callback.core import Callback
kind = {kind}
class Fails(Callback):
    def before_batch(self):
        if self.run_control.state.step >= {at}: raise kind('no more memory')
runs.RunBar.before_batch = Fails.before_batch
def fails(*args, **kwargs): raise kind('no more memory')
audit_runs.audit = fails
sys.exit(main({args}))
'''


def fail(folder, args, kind='RuntimeError', at=0, code=1):
    r = subprocess.run([sys.executable, '-c', FAILS.format(kind=kind, at=at, args=[str(a) for a in args])], cwd=folder, text=True, capture_output=True)
    assert r.returncode == code and 'Traceback' not in r.stderr, r.stderr
    return r.stderr


@pytest.mark.parametrize('kind', ['RuntimeError', 'MemoryError', 'AssertionError', 'OSError'])
def test_case_12_error_before_the_first_step(photos, tmp_path, cnn_tricks, kind):
    "The folder is free again, those made for it are gone, a folder of the user's stays; then all goes as if nothing had been."
    write(tmp_path)
    (tmp_path/'own').mkdir()
    train = 'train', photos, '--recipe', 'r.json', '--no-baseline'
    for out in [], ['--out', 'new/deep/run'], ['--out', 'own']:
        assert 'no more memory' in fail(tmp_path, [*train, *out], kind)
        assert made(tmp_path) == ['own', 'r.json'] and not made(tmp_path/'own')
    if kind == 'RuntimeError':
        fail(tmp_path, ['audit', photos, '--recipe', 'r.json'])
        assert made(tmp_path) == ['own', 'r.json']
        assert 'nothing to go on with' in cnn_tricks(*train, '--resume').out
        assert made(tmp_path) == ['cnn_tricks_run', 'own', 'r.json']


def test_case_12_error_after_the_first_step(photos, tmp_path, cnn_tricks):
    "What was trained is kept, and goes on."
    write(tmp_path)
    fail(tmp_path, ['train', photos, '--recipe', 'r.json', '--no-baseline'], at=2)
    assert 'run.json' in made(tmp_path/'cnn_tricks_run')
    cnn_tricks('train', '--resume')
    assert json.loads((tmp_path/'cnn_tricks_run'/'metrics.json').read_text())['steps'] == 3


def test_case_12_a_note_that_was_cut(photos, tmp_path, cnn_tricks):
    (tmp_path/'cnn_tricks_run').mkdir()
    for text in '', '{"options"', '[]', '{}':
        (tmp_path/'cnn_tricks_run'/'run.json').write_text(text)
        assert 'run.json cannot be read' in cnn_tricks('train', '--resume', code=2, lines=1).err


# what was seen beside the cases

def test_what_changed_in_a_recipe_is_said(photos, tmp_path, cnn_tricks):
    from cnn_tricks.cli.run_options import options_of, read_recipe
    folder = tmp_path/'run'
    folder.mkdir()
    write(tmp_path, 'my.json')
    (folder/'run.json').write_text(json.dumps(dict(command='train', options=dict(recipe=read_recipe(str(tmp_path/'my.json')), seed=1))))
    write(tmp_path, 'my.json', lr=.02)
    write(tmp_path, 'other.json', batch_size=4)
    def says(name):
        with pytest.raises(UsageError) as e: options_of(folder, dict(recipe=read_recipe(str(tmp_path/name))), True)
        return str(e.value)
    assert says('my.json').endswith('recipe my.json has changed: lr was 0.01, now 0.02')
    assert says('other.json').endswith('recipe was my.json, now other.json (batch_size was 8, now 4)')


def test_losses_stand_at_their_true_seconds():
    "A run that slowed down after its first epoch: the losses' axis is the one of the dots."
    from types import SimpleNamespace
    from cnn_tricks.report.training import values_by_seconds
    history = [dict(step=10, seconds=1.), dict(step=20, seconds=5.)]
    r = SimpleNamespace(history=history, steps=22, seconds=6., step_seconds=6/22)
    seconds, values = values_by_seconds(r, list(range(22)))
    assert seconds[9] == pytest.approx(1) and seconds[19] == pytest.approx(5) and seconds[21] == pytest.approx(6)
    assert seconds[4] == pytest.approx(.5) and values == list(range(22))


def test_commands_of_a_report_can_be_pasted(photos, tmp_path, cnn_tricks):
    import html, shlex
    write(tmp_path)
    cnn_tricks('train', photos, '--recipe', 'r.json', '--no-baseline', '--out', "it's a run; rm x")
    text = html.unescape((tmp_path/"it's a run; rm x"/'report.html').read_text(encoding='utf-8'))
    line = next(l for l in re.findall(r'cnn_tricks predict .*picture\.jpg', text))
    assert shlex.split(line) == ['cnn_tricks', 'predict', "it's a run; rm x", 'picture.jpg']
