"What makes a notebook a lesson: the outline, the list of lessons, how one opens, checkers, and tables."
import re, json

import pytest
from form import ROOT

from cnn_tricks.base.display import Table
from cnn_tricks.base.paths import lessons_path, records_path, results_path
from cnn_tricks.core.recipe import tricks
from cnn_tricks.course.lesson import (VERDICTS, Check, answer, before_you_start, checker, lesson_link, lessons,
                                      notebook_cells, outline, recorded_time)
from cnn_tricks.measure.effects import main_effect
from cnn_tricks.course.tables import lessons_table, tricks_table, verdicts_table


def write(folder, stem, *sources):
    "A notebook whose markdown cells are these."
    cells = [dict(cell_type='markdown', source=s.splitlines(keepends=True)) for s in sources]
    (folder/f'{stem}.ipynb').write_text(json.dumps(dict(cells=cells)))


def test_paths_of_a_clone():
    assert lessons_path() == ROOT/'nbs'
    assert results_path() == ROOT/'results' and records_path() == results_path()/'records'


# the outline and the lessons

def test_parts_are_numbered_from_0():
    assert [p['number'] for p in outline()['parts']] == list(range(7))
    assert all(p['title'] and p['question'] and p['lessons'] for p in outline()['parts'])


def test_lessons_in_order_with_their_own_titles():
    rows = lessons()
    assert [r['stem'] for r in rows] == sorted(r['stem'] for r in rows)
    for r in (r for r in rows if r['there']):
        cells = notebook_cells(ROOT/'nbs'/f"{r['stem']}.ipynb")
        assert f"# {r['title']}" in [c['source'].partition('\n')[0] for c in cells[:2]]


@pytest.mark.parametrize('stem,part,kind', [('04_new', 0, 'foundation'), ('17_new', 1, 'trick'), ('90_cli', 6, 'tool'),
                                            ('99_new', 6, 'trick')])
def test_a_new_lesson_needs_no_entry(tmp_path, stem, part, kind):
    write(tmp_path, stem, '# New\n> It helps.\n')
    assert [r for r in lessons(tmp_path) if r['there']] == [
        dict(stem=stem, part=part, title='New', about='It helps.', kind=kind, there=True)]


def test_title_and_promise_that_are_missing(tmp_path):
    write(tmp_path, '17_new', 'no heading')
    row = next(r for r in lessons(tmp_path) if r['there'])
    assert (row['title'], row['about']) == ('17_new', '')


def test_link():
    row = dict(stem='01_cnn', title='What a network costs', there=True)
    assert lesson_link(row, '#claims') == '[01 What a network costs](01_cnn.ipynb#claims)'
    assert lesson_link(row | dict(there=False)) == '01 What a network costs'


# how a lesson opens

def test_before_you_start():
    shown = before_you_start('01_cnn', needs=['00_data', 'some Python'], able=['count the weights of a network'])
    assert '](00_data.ipynb), some Python.' in shown.markdown
    assert '\n- count the weights of a network\n' in shown.markdown
    assert shown.markdown.endswith(f'**Time:** {recorded_time("01_cnn")}') and '**' not in repr(shown)
    assert 'nothing but Python' in before_you_start('00_data').markdown


@pytest.mark.parametrize('args,says', [(('01_cmn',), "unknown lesson '01_cmn'; one of: 00_data"),
                                       (('01_cnn', ['00_date']), "unknown lesson '00_date'")])
def test_lessons_that_are_not_there(args, says):
    with pytest.raises(ValueError, match=says): before_you_start(*args)


def test_recorded_time():
    assert recorded_time('no such lesson') == 'no run of this lesson is recorded yet.'
    assert ' s from top to bottom, recorded 20' in recorded_time('00_data')


# checkers

@checker
def check_mean(mean):
    if mean([1, 3]) != 2: raise AssertionError('the mean of 1 and 3 is 2')  # pytest writes more into an `assert`
    if not mean([5]): raise AssertionError


@pytest.mark.parametrize('given,hint', [
    (sum, 'the mean of 1 and 3 is 2'), (None, "your answer raised `TypeError`: 'NoneType' object is not callable"),
    (lambda v: 2 if len(v) > 1 else 0, 'an assertion without a message failed'),
    (lambda v: v[9], 'your answer raised `IndexError`: list index out of range')])
def test_checker_hints(given, hint):
    check = check_mean(given)
    assert not check.ok and check.hint == hint and repr(check) == f'Not yet: {hint}' and hint in check.markdown


def test_checker_says_right():
    check = check_mean(lambda v: sum(v)/len(v))
    assert check.ok and check.hint == '' and repr(check) == 'Right.' and isinstance(check, Check)
    assert check_mean.__name__ == 'check_mean'


def test_checker_lets_an_interrupt_through():
    def stop(v): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): check_mean(stop)


def test_each_verdict_has_a_box_of_its_own():
    colours = {answer('S3-4', v, 'found').markdown.split('border-left: 4px solid ')[1][:7] for v in VERDICTS}
    assert len(colours) == len(VERDICTS) == 7


# tables

def test_table_keeps_its_rows_and_escapes_bars():
    t = Table([dict(name='a|b', size=3)], dict(name='name', size='pixels'))
    assert t.rows[0]['size'] == 3 and repr(t) == t.markdown == '| name | pixels |\n| --- | --- |\n| a\\|b | 3 |'


def test_lessons_table(tmp_path):
    write(tmp_path, '21_batchnorm', '# Batch norm\n> It centres.')
    rows = lessons_table(2, tmp_path).rows
    assert [r['status'] for r in rows if r['stem'] == '21_batchnorm'] == ['']
    assert {r['status'] for r in rows if r['stem'] != '21_batchnorm'} == {'planned'}
    assert [r['lesson'][:4] for r in lessons_table().rows if not r['stem']] == [f'**{n} ' for n in range(7)]


def test_tricks_table():
    rows = tricks_table(tricks, part=3).rows
    found = {r['name']: r['stem'] for r in rows}
    assert found['dropout'] == '31_dropout' and found['cutmix'] == '30_augment' and all(r['tldr'] for r in rows)
    assert {r['points'] for r in rows} == {'not recorded alone'}


def test_verdicts_name_each_recorded_trick_once():
    table = verdicts_table(tricks, main_effect)
    named = [n for n in tricks if f'[{n}]' in table.markdown]
    assert named == [n for n in tricks if main_effect(n)] and table.markdown.count('[') == len(named)
    helping = next(r['tricks'] for r in table.rows if r['verdict'] == '**helps**')
    gains = [float(t.split(' ')[1]) for t in helping.split(', ')]
    assert gains == sorted(gains, reverse=True) and gains[-1] > 0
    marked = verdicts_table(tricks, main_effect, marked={'batch_norm'}).markdown
    assert marked.count('†') == 1 and re.search(r'\[batch_norm\]\(\S+\) \S+†', marked)


def test_tricks_table_says_what_was_measured():
    row = next(r for r in tricks_table(tricks, part=3, effect=main_effect).rows if r['name'] == 'weight_decay')
    effect = main_effect('weight_decay')
    assert effect.verdict in row['verdict'] and effect.points in row['points'] and effect.length in row['points']
