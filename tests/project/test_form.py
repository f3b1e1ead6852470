"""Every notebook has the form of its kind (rules: form.py), and every rule can fail."""
import copy, json, textwrap

import pytest
from form import RULES, ROOT, Notebook, complaints, rules_for

from cnn_tricks.course.lesson import lessons

NOTEBOOKS = [Notebook(p) for p in sorted((ROOT/'nbs').glob('*.ipynb'))]


CASES = [pytest.param(nb, r, id=f'{nb.stem}-{r}') for nb in NOTEBOOKS for r in rules_for(nb.kind)]


@pytest.mark.parametrize('nb,rule', CASES)
def test_form(nb, rule):
    found = complaints(rule, nb)
    assert not found, RULES[rule][0].__doc__ + '\n' + '\n'.join(found)


def test_all_lessons_are_there():
    "The list above is not empty by accident, and every number is used once."
    stems = [nb.stem for nb in NOTEBOOKS]
    assert {'00_data', '01_cnn', '02_recipe', '03_measure', '05_course', '90_cli', 'index'} <= set(stems)
    numbers = [l['stem'][:2] for l in lessons()]
    assert len(set(numbers)) == len(numbers)


# A small lesson that follows every rule, and one change for each rule that breaks it

def md(text, **kw): return dict(cell_type='markdown', metadata={}, source=textwrap.dedent(text).strip('\n'), **kw)


def code(text, out=None, tags=(), hidden=False, image=False, markdown=None):
    meta = ({'tags': list(tags)} if tags else {}) | ({'jupyter': {'source_hidden': True}} if hidden else {})
    data = {'text/plain': [out] if out else None, 'text/markdown': [markdown] if markdown else None,
            'image/png': 'iVBORw0KGgo=' if image else None}
    data = {k: v for k, v in data.items() if v}
    outputs = [dict(output_type='display_data', metadata={}, data=data)] if data else []
    return dict(cell_type='code', metadata=meta, execution_count=None, outputs=outputs,
                source=textwrap.dedent(text).strip('\n'))


def exercise(n):
    return [md(f'### Exercise {n}: double it'), md('Write `double()`.'),
            code('def double(x): return x'),
            code('''
                @checker
                def check_double(f): assert f(3) == 6, 'twice three is six'
                check_double(double)''', 'Not yet: twice three is six'),
            code('''
                #| code-fold: true
                #| code-summary: "Worked answer"
                def doubled(x): return 2*x''', hidden=True),
            code('''
                #| hide
                assert not check_double(double).ok and check_double(doubled).ok''')]


CARD = 'TL;DR', 'When', 'When not', 'Cost', 'Suggested', 'Plays well', 'Plays badly', 'Sources'


def good():
    "A lesson of the kind with the most rules."
    cells = [
        code('#| default_exp pooling'),
        md('# Pooling\n> Halving a feature map costs nothing to compute and a little accuracy.'),
        code('''
            #| echo: false
            tricks['pool'].card''', markdown='\n'.join(f'| **{f}** | x |' for f in CARD)),
        md('## Before you start'),
        code('''
            #| echo: false
            before_you_start('13_pooling', needs=['01_cnn'], able=['halve a feature map'])''', 'You need: 01',
             tags=['nbval-ignore-output']),
        code('import torch\nfrom cnn_tricks.course.lesson import checker, answer'),
        md('## Halving'), md('Two by two becomes one, as `max()` says; `halve(x)` does it.'),
        code('#| export\ndef halve(x): return x[::2]'),
        code('x = torch.arange(4.)\nassert x.max() == 3\nx.max()', 'tensor(3.)'),
        code('#| fig-alt: a line that falls from left to right\nplot(x);', 'plot', image=True),
        code("c = compare(base, trick, data, seeds=(0, 1, 2))\nassert len(c.seeds) == 3"),
        code("r = recorded('pooling')\nassert r.verdict"),
        md('## Claims'),
        code('assert x.max() == 3\nanswer("S3-3", "holds", "the largest of four")', 'S3-3: holds. the largest of four'),
        md('## Pitfalls'), md('- one\n- two\n- three'),
        md('## Exercises'), *exercise(1), *exercise(2), *exercise(3),
        md('## Questions'), md('<details>\n<summary>Why?</summary>\nSo.\n</details>\n' * 3),
        md('## Read on'), md('- [A paper](https://example.org), section 2'),
    ]
    return dict(cells=[dict(c, id=f'cell-{i}') for i, c in enumerate(cells)], nbformat=4, nbformat_minor=5, metadata={})


def write(folder, nb, times=True, name='13_pooling', first=True):
    "Save `nb` as a notebook in `folder`, with a time and a recorded run beside it."
    nb = copy.deepcopy(nb)
    for c in nb['cells']: c['source'] = c['source'].splitlines(keepends=True)
    (folder/'results'/'records').mkdir(parents=True, exist_ok=True)
    (folder/'results'/'records'/'pooling.json').write_text('{}')
    (folder/'results'/'times.json').write_text(json.dumps({name: dict(seconds=12)} if times is True else times))
    if first: (folder/'01_cnn.ipynb').write_text(json.dumps(dict(nb, cells=[nb['cells'][1]])))
    (folder/f'{name}.ipynb').write_text(json.dumps(nb))
    return Notebook(folder/f'{name}.ipynb', results=folder/'results')


def find(nb, text): return next(c for c in nb['cells'] if text in c['source'])


def swap(old, new):
    "A change: the first cell with `old` gets `new` in its place."
    def change(nb):
        cell = find(nb, old)
        cell['source'] = cell['source'].replace(old, new)
    return change


def drop(text):
    def change(nb): nb['cells'].remove(find(nb, text))
    return change


def put(text, **fields):
    def change(nb): find(nb, text).update(fields)
    return change


def repeat_id(nb): nb['cells'][1]['id'] = nb['cells'][0]['id']
def pad(nb): nb['cells'].append(dict(md('x'*400_000), id='long'))


BREAKS = [
    ('title', swap('> Halving a feature', 'Halving a feature')), ('title', swap('# Pooling', '## Pooling')),
    ('default_exp', swap('default_exp pooling', 'default_exp pools')),
    ('default_exp', swap('default_exp pooling', 'default_exp tricks.pools')),
    ('default_exp', drop('def halve(x)')), ('exports_named', swap('; `halve(x)` does it', '; halve it')),
    ('card', drop("tricks['pool'].card")), ('card', put("tricks['pool'].card", outputs=[])),
    ('before_you_start', drop('before_you_start(')), ('before_you_start', swap("'01_cnn'", "'12_hardware'")),
    ('before_you_start', swap("'13_pooling'", "'14_depthwise'")),
    ('before_you_start', put('before_you_start(', metadata={})),
    ('imports_alone', swap('import torch', 'import torch\ntorch.manual_seed(0)')),
    ('headings', swap('## Halving', '## Halving\nTwo by two becomes one.')),
    ('training_outputs', put('x = torch.arange(4.)', metadata={'tags': ['nbval-ignore-output']})),
    ('cell_sizes', swap('x = torch.arange(4.)', 'x = 1\n'*20)),
    ('cell_sizes', swap('x = torch', f'y = "{"y"*120}"\nx = torch')),
    ('assertions', lambda nb: nb['cells'].extend(dict(code('x = 1\nassert True'), id=f'more-{i}') for i in range(60))),
    ('alt_text', swap('#| fig-alt: a line that falls from left to right\n', '')),
    ('alt_text', swap('Two by two', '![](x.png) Two by two')),
    ('alt_text', swap('Two by two', '<img src="x.png"> Two by two')),
    ('names_resolve', swap('`max()`', '`largest_of_all()`')),
    ('sections', drop('## Pitfalls')), ('sections', drop('- one\n- two')),
    ('sections', swap('## Claims', '## The claims')),
    ('pitfalls', swap('- two\n', '')), ('exercises', drop('### Exercise 3')),
    ('exercises', swap('Exercise 2: double it', 'Exercise 4: double it')),
    ('exercises', swap('@checker\n', '')), ('exercises', put('@checker', outputs=[])),
    ('exercises', drop('def double(x)')),
    ('exercises', drop('#| code-fold')),
    ('exercises', swap('#| code-fold: true', '#| code-fold: true\n#| eval: false')),
    ('exercises', swap('#| code-summary: "Worked answer"\n', '')),
    ('exercises', put('#| code-fold', metadata={})), ('exercises', swap('#| hide', '')),
    ('exercises', swap('not check_double(double).ok and ', '')), ('exercises', drop('Write `double()`')),
    ('questions', swap('</summary>\nSo.', '\nSo.')), ('questions', swap('[A paper](https://example.org)', 'A paper')),
    ('comparison', swap('seeds=(0, 1, 2)', 'seeds=(0, 1)')), ('comparison', swap('seeds=(0, 1, 2)', 'seeds=range(2)')),
    ('comparison', drop('compare(')), ('comparison', drop('recorded(')), ('comparison', swap("'pooling')", "'pools')")),
    ('saved_outputs', put('assert x.max() == 3\nx.max()', outputs=[], source='x')),
    ('saved_outputs', put('answer(', outputs=[])), ('saved_outputs', swap('x = torch', '#| eval: false\nx = torch')),
    ('clean_outputs', put('x = torch', outputs=[
        dict(output_type='error', ename='ValueError', evalue='', traceback=[])])),
    ('clean_outputs', put('x = torch', outputs=[dict(output_type='stream', name='stderr', text=['Warning'])])),
    ('no_paths', put('x = torch', outputs=[dict(output_type='stream', name='stdout', text=['saved /home/me/run'])])),
    ('no_paths', swap('x = torch', 'p = "/root/data"\nx = torch')),
    ('eval_false', swap('x = torch', '#| eval: false\nx = torch')),
    ('no_nbdev_export', swap('x = torch', 'nbdev_export()\nx = torch')),
    ('file_size', pad), ('valid', repeat_id),
    ('claims', drop('answer("S3-3"')), ('claims', swap('assert x.max() == 3\nanswer', 'answer')),
    ('claims', swap('"S3-3"', '"S3-4"')), ('claims', swap('"holds"', 'found')), ('claims', drop('## Claims')),
    ('claims', lambda nb: nb['cells'].insert(15, dict(find(nb, 'answer('), id='again'))),
]


@pytest.fixture
def lesson(tmp_path): return lambda nb, **kw: write(tmp_path, nb, **kw)


def test_good_lesson_passes(lesson):
    nb = lesson(good())
    assert {r: c for r in rules_for('trick') if (c := complaints(r, nb))} == {}


@pytest.mark.parametrize('rule,change', BREAKS, ids=[f'{r}-{i}' for i, (r, _) in enumerate(BREAKS)])
def test_rule_can_fail(lesson, rule, change):
    before, after = good(), good()
    change(after)
    assert before != after, 'the change must change something'
    found = complaints(rule, lesson(after))
    assert found and all('13_pooling.ipynb: ' in c for c in found)


@pytest.mark.parametrize('name', ['tricks.pooling', 'core.components'])
def test_module_in_a_folder(lesson, name):
    nb = good()
    swap('default_exp pooling', f'default_exp {name}')(nb)
    assert complaints('default_exp', lesson(nb)) == []


@pytest.mark.parametrize('times', [{}, {'13_pooling': dict(seconds=61)}])
def test_time_rule_can_fail(lesson, times):
    assert complaints('time_recorded', lesson(good(), times=times))


def test_needs_an_existing_lesson(lesson):
    assert 'which is not there' in complaints('before_you_start', lesson(good(), first=False))[0]


def test_every_rule_is_proved():
    assert {r for r, _ in BREAKS} | {'time_recorded'} == set(RULES)
