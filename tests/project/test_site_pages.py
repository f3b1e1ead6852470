"What a page of the site has beyond its lesson: the line under the title, folds, tables, links, the card's row."
from types import SimpleNamespace

import pytest

from cnn_tricks import _site as site
from cnn_tricks.core.trick import tricks
from cnn_tricks.course.lesson import lessons
from cnn_tricks.course.tables import tricks_table
from cnn_tricks.measure import bench_effects, bench_matrix
from cnn_tricks.measure.effects import main_effect, measured_row

HTML = '''<div><style scoped>.dataframe { }</style><table border="1" class="dataframe"><thead><tr><th></th><th>a|b</th>
<th>n</th></tr></thead><tbody><tr><th>x</th><td>1.5</td><td>2</td></tr></tbody></table></div>'''


def cell(source, outputs=(), kind='code'): return SimpleNamespace(cell_type=kind, source=source, outputs=list(outputs),
                                                                  get=dict(outputs=list(outputs)).get)
def shown(**data): return dict(data={k.replace('_', '/'): v for k, v in data.items()})


def test_frames_become_markdown():
    "Quarto loads jQuery and RequireJS from elsewhere for a page that has an HTML output."
    assert site.html_markdown(HTML) == '|  | a\\|b | n |\n| --- | ---: | ---: |\n| x | 1.5 | 2 |'
    assert site.html_markdown('<img alt="x">') == '```{=html}\n<img alt="x">\n```'


def test_long_tables_are_folded():
    def table(n): return '\n'.join(['| a |', '| --- |', *[f'| {i} |' for i in range(n)]])
    assert site.folded(table(60)) == table(60)
    text = site.folded('before\n\n' + table(61))
    assert text.startswith('before\n\n<details><summary>All 61 rows</summary>\n\n| a |') and text.endswith('| 60 |\n\n</details>')


def test_columns_are_as_wide_as_their_words():
    "Pandoc gives a column the share of the dashes under its head, once a row is long."
    short = '| a | b |\n|---|---|\n| c | d |'
    assert site.proportioned(short) == short
    card = f'| | |\n|---|---|\n| **TL;DR** | {"many words "*20}|\n'
    name, text = site.proportioned('before\n\n' + card + '\nafter').split('\n')[3].strip('|').split('|')
    assert 4*len(name) < len(text) and len(name) >= len('TL;DR')
    right = site.proportioned(f'| a | b |\n|:--|--:|\n| {"words "*20}| 1 |').split('\n')[1]
    assert right.startswith('|:-') and right.endswith('-:|')


def test_tables_of_words_are_stacked_on_a_telephone():
    words = f'| a | b | c |\n|---|---|---|\n| 1 | {"words "*20} | 2 |'
    assert site.stacked(words) == f'::: {{.ct-stack}}\n\n{words}\n\n:::'
    numbers = '| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |'
    assert site.stacked(numbers) == numbers


@pytest.mark.parametrize('text,says', [
    ('Zhang 2019, arXiv 1904.11486, section 3', 'Zhang 2019, [arXiv 1904.11486](https://arxiv.org/abs/1904.11486), section 3'),
    ('arXiv:1904.11486', '[arXiv 1904.11486](https://arxiv.org/abs/1904.11486)'),
    ('[arXiv 1904.11486](https://arxiv.org/abs/1904.11486)',) * 2, ('https://arxiv.org/abs/1904.11486',) * 2])
def test_sources_are_linked(text, says): assert site.linked(text) == says


def test_dead_links_are_words():
    here = 'https://cnn-tricks.github.io/cnn_tricks'
    good = f'[`Recipe`]({here}/recipe.html#recipe) [`train`]({here}/recipe.html#train)'
    assert site.without_dead_links(good) == good
    assert site.without_dead_links(good, commands=True) == good.replace(f'[`train`]({here}/recipe.html#train)', '`train`')
    for bad in 'resolution.html#_pool_to', 'recipe.html#result.accuracy':
        assert site.without_dead_links(f'the [`name`]({here}/{bad})') == 'the `name`'


@pytest.mark.parametrize('source,says', [
    ('@checker\ndef check(f): assert f\ncheck(try_it)', 'The checker'), ("assert x\nanswer('S3-4', 'holds', 'seen')", 'The code behind'),
    ('assert x == 1\nassert y', 'What is asserted'), ('x = 1\nassert x', ''), ('x', '')])
def test_code_that_only_checks_is_folded(source, says):
    c = cell(source)
    site.fold(c)
    assert site.summary(cell(source)).startswith(says) and c.source.endswith(source)
    assert c.source.startswith('#| code-fold: true') == bool(says)


def test_hints_for_stubs_are_for_those_who_run_the_lesson():
    hint = [shown(text_markdown='Not yet')]
    for hints in False, True:
        c = cell('@checker\ndef check(f): assert f\ncheck(try_it)', hint)
        site.fold(c, hints)
        assert c.outputs == hint*hints


def test_figures_fold_and_measurements_do_not():
    picture = [shown(image_png='x')]
    assert site.summary(cell('ax.plot(x)', picture)) == 'The code of this figure'
    assert site.summary(cell('compare(r, t).plot()', picture)) == site.summary(cell('ax.plot(x)')) == ''
    chosen = cell('#| echo: false\nassert x')
    site.fold(chosen)
    assert chosen.source == '#| echo: false\nassert x'


def test_stubs_of_functions_are_left_out():
    def doc(text): return cell('#| echo: false\nshow_doc(f)', [shown(text_markdown=text)])
    assert site.is_stub(doc('### f\n\n```python\ndef f(\n    x\n):\n```\n'))
    assert not site.is_stub(doc('### f\n\n```python\ndef f(\n    x, # a number\n):\n```\n'))
    assert not site.is_stub(doc('### f\n\n```python\ndef f(x):\n```\n\n*Does it*'))
    assert not site.is_stub(cell('f'))


def test_cards_say_what_was_measured():
    "Each trick whose card names a record of it gets the row, alone or beside others in one table."
    card, row = tricks['dropout'].card._repr_markdown_(), site.found_of('dropout', 3)
    assert measured_row('dropout') in row and f'\n| **Measured here** | {row} |\n' in site.with_measured(card)
    linked = card.replace('a random', '[`a`](x) random')
    assert site.with_measured(linked) == linked  # another text is another card
    two = f'| | a | b |\n|---|---|---|\n| **TL;DR** | {tricks["dropout"].card.tldr} | {tricks["l1"].card.tldr} |'
    assert site.with_measured(two).endswith(f'| **Measured here** | {site.found_of("dropout", 1)} | {site.found_of("l1", 1)} |')
    assert site.with_measured('| a |') == '| a |'


def test_tricks_of_a_lesson():
    "As the page of tricks has them."
    rows = [(r['stem'], r['name']) for r in tricks_table(tricks).rows if r['name']]
    found = [(l['stem'], n) for l in lessons() for n in site.tricks_of(l['stem'])]
    assert sorted(found) == sorted(rows)


def test_first_screen_of_a_lesson():
    names = site.tricks_of('31_dropout')
    text, effect = site.lead('31_dropout', names), main_effect('dropout')
    assert set(names) == {'dropout', 'stochastic_depth'} and 'Lesson 31 of a free course' in text
    for says in ('cnn_tricks lessons', '/31_dropout.ipynb)', effect.verdict, effect.points, effect.setting): assert says in text
    plain = site.lead('01_cnn', site.tricks_of('01_cnn'))
    assert 'Lesson 01' in plain and 'points' not in plain


def test_benches_come_first(monkeypatch):
    "On the first screen of a lesson, in its card, and on the page of tricks, with the length and a link to the matrix."
    cell = bench_matrix.Cell('clothes', 'dropout', 4., .8, .02, .01, .03, .001, 8, .01, holm=.01)
    monkeypatch.setattr(bench_effects, 'recorded_benches', lambda folder: {'clothes': SimpleNamespace(about={'dropout': 'dropout'})})
    monkeypatch.setattr(bench_effects, 'cells_of', lambda record: [cell])
    first = next(l for l in site.lead('31_dropout', ['dropout']).splitlines() if l.startswith('| `dropout`'))
    assert first == ('| `dropout` | <span class="ct-word ct-helps">helps</span> | +2.0 [+1.0 to +3.0] | bench '
                     '[clothes](matrix.ipynb#clothes), 4 epochs, 8 seeds |')
    card = site.with_measured(tricks['dropout'].card._repr_markdown_())
    assert '| **Measured here** | **helps**: +2.0 [+1.0 to +3.0] percentage points; bench [clothes]' in card
    assert measured_row('dropout') in card
    shown = {r['name']: r for r in tricks_table(tricks, part=3, benches=bench_effects.bench_cells).rows}
    line = '[clothes](matrix.ipynb#clothes), 4 epochs: <span class="ct-word ct-helps">+2.00 ▲</span>'
    assert shown['dropout']['points'] == line and 'helps' in shown['dropout']['verdict']
    assert shown['cutmix']['points'] == 'not recorded alone'
