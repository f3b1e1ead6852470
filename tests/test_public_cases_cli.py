"Situations that people have reported of other tools: on the command line, the right answer to each."
import json, os, re, subprocess, sys, threading
from pathlib import Path

import pytest
from test_cli import cnn_tricks, draw, server  # noqa: F401 (fixtures)

from cnn_tricks.cli import main
from cnn_tricks.complaints import UsageError

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
    from cnn_tricks.cli import parser
    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    for name, p in commands.items():
        for a in p._actions:
            if a.nargs == 0 or a.choices: continue
            with pytest.raises((argparse.ArgumentTypeError, ValueError)): (a.type or str)(''), pytest.fail(f'{name}: {a.dest}')


def test_case_8_functions_and_variables(cnn_tricks):
    from cnn_tricks.options import read_recipe, run_folder, tried_device
    for f in read_recipe, run_folder, tried_device:
        with pytest.raises(UsageError): f('')
    assert 'WORLD_SIZE' in cnn_tricks('train', code=2, lines=1, WORLD_SIZE='two').err


# what was seen beside the cases

def test_what_changed_in_a_recipe_is_said(photos, tmp_path, cnn_tricks):
    from cnn_tricks.options import options_of, read_recipe
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
    from cnn_tricks.report import _per_step
    history = [dict(step=10, seconds=1.), dict(step=20, seconds=5.)]
    r = SimpleNamespace(history=history, steps=22, seconds=6., step_seconds=6/22)
    seconds, values = _per_step(r, list(range(22)))
    assert seconds[9] == pytest.approx(1) and seconds[19] == pytest.approx(5) and seconds[21] == pytest.approx(6)
    assert seconds[4] == pytest.approx(.5) and values == list(range(22))


def test_commands_of_a_report_can_be_pasted(photos, tmp_path, cnn_tricks):
    import html, shlex
    write(tmp_path)
    cnn_tricks('train', photos, '--recipe', 'r.json', '--no-baseline', '--out', "it's a run; rm x")
    text = html.unescape((tmp_path/"it's a run; rm x"/'report.html').read_text(encoding='utf-8'))
    line = next(l for l in re.findall(r'cnn_tricks predict .*picture\.jpg', text))
    assert shlex.split(line) == ['cnn_tricks', 'predict', "it's a run; rm x", 'picture.jpg']
