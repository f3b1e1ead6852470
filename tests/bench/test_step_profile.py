"The profile of a step: its parts add up, and its table has a row for each case"
import json, sys, time

import pytest

from cnn_tricks.core.recipe import Recipe
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tools.memory_allocator import memory_setting, memory_settings
from tests.common import ROOT

sys.path.insert(0, str(ROOT/'scripts'/'bench'))
import memory, step_profile  # noqa: E402

sys.path.pop(0)

TINY = Recipe(network='plain', network_args={'widths': [4]}, optimizer='adamw', schedule='one_cycle')


@pytest.fixture
def tiny(monkeypatch):
    for module in (step_profile, memory): monkeypatch.setattr(module, 'embedded', lambda: embedded().subset(160))
    monkeypatch.setitem(step_profile.CASES, 'fast', TINY)


def test_a_row_for_each_case_and_old_ones_are_kept(tiny, monkeypatch, tmp_path, capsys):
    out = tmp_path/'profile.json'
    for batch_size in '8', '16':
        monkeypatch.setattr(sys, 'argv', ['', '--recipe', 'fast', '--batch', batch_size, '--turns', '2', '--seconds', '0.1',
                                          '--clock', 'cpu', '--operations', '--out', str(out)])
        step_profile.main()
    said, rows = capsys.readouterr().out, json.loads(out.read_text())['rows']
    assert [r['batch_size'] for r in rows] == [8, 16] and '| fast, 16 |' in said and '% |' in said
    for r in rows:
        assert all(r['ms'][part] > 0 for part in step_profile.PARTS) and len(r['overs']) == 2
        assert r['calls']['run'] > r['calls']['plain'] > 0 and abs(sum(r['operations'].values()) - 1) < 1e-6
    assert rows[1]['flops'] == 2*rows[0]['flops']


def test_both_loops_take_the_same_steps(tiny):
    data = step_profile.embedded()
    ticks = iter(range(10_000))
    assert step_profile.run(TINY.replace(batch_size=16), data, 6, lambda: next(ticks)) == 1/4  # asked at the two ends
    parts = step_profile.plain(TINY.replace(batch_size=16), data, 6, lambda: next(ticks))
    assert parts == dict.fromkeys(step_profile.PARTS, 1.0)


@pytest.mark.skipif('keep' not in memory_settings(), reason='the allocator is not glibc')
def test_settings_of_memory_take_turns_and_are_put_back(tiny):
    before = memory_setting()
    row = memory.case('fast', 16, step_profile.embedded(), 2, 3)
    assert set(row['ms']) == set(memory_settings()) and row['times_as_fast']['default'] == 1
    assert memory_setting() == before == 'default'


def test_the_best_speed_is_of_the_clock_given():
    assert 1e6 < step_profile.best_speed(time.process_time, 0.05, 64)
