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
