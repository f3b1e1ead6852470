"The pages of a training and of an audit: their figures, their words, and what is escaped in them."
from dataclasses import replace
from html.parser import HTMLParser

import jinja2
import pytest
import torch

from cnn_tricks.base.paths import records_path
from cnn_tricks.core.recipe import recipes
from cnn_tricks.core.train import train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.data.drawn_shapes import shapes
from cnn_tricks.nets.layer_costs import count_params
from cnn_tricks.report.audit import audit_html, write_audit_report
from cnn_tricks.report.charts import forest_chart, line_chart
from cnn_tricks.report.pages import percent_text, png_uri, render, seconds_text
from cnn_tricks.report.training import (Entry, confused, curves, interval, mistakes, recipe_rows, report_html, side_by_side,
                                        write_report)
from cnn_tricks.studies.audit_result import Audit

EVIL = '<b>"$x$" & so on'


class Seen(HTMLParser):
    "The tags and the text of a page, without its style."

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(page)
        self.text = ' '.join(' '.join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ('meta', 'img', 'br'): self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag

    def handle_data(self, data):
        if 'style' not in self.open: self.words.append(data)

    def count(self, tag): return sum(t == tag for t, _ in self.tags)


@pytest.fixture(scope='module')
def entries():
    data = replace(shapes(n=120, size=24), name=EVIL)
    def run(name): return train(recipes[name].replace(steps=4), data, progress=False, device='cpu')
    return [Entry('baseline', run('baseline')), Entry(EVIL, run('fast'))]


@pytest.fixture(scope='module')
def audit(): return Audit.load(records_path()/'audit.json')


# parts

def test_numbers_as_text():
    assert [percent_text(x) for x in (0.905, 0., None, float('nan'))] == ['90.5 %', '0.0 %', '–', '–']
    assert [seconds_text(s) for s in (None, 1.84, 99.9, 1234.5)] == ['–', '1.8', '99.9', '1,234']


def test_interval():
    "Wilson 1927, against its closed form."
    def wilson(p, n, z=1.959964):
        middle, half = p + z*z/(2*n), z*(p*(1 - p)/n + z*z/(4*n*n))**.5
        return f'{100*(middle - half)/(1 + z*z/n):.1f} to {100*(middle + half)/(1 + z*z/n):.1f}'
    for p, n in (.9, 50), (.9, 500), (.5, 10), (1., 20): assert interval(p, n) == wilson(p, n)
    assert interval(.9, 50) == '78.6 to 95.7'


def test_picture_is_in_the_page():
    import base64, io
    import numpy as np
    from PIL import Image
    for channels in 1, 3:
        x = torch.randint(256, (channels, 5, 4), dtype=torch.uint8)
        head, data = png_uri(x).split(',')
        assert head == 'data:image/png;base64'
        back = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
        assert (torch.from_numpy(back).reshape(5, 4, channels).permute(2, 0, 1) == x).all()


def test_templates_escape_and_refuse_what_is_missing():
    with pytest.raises(jinja2.UndefinedError): render('page.html.j2', title='x')
    page = Seen(render('page.html.j2', title=EVIL, headline=EVIL, stopped=EVIL))
    assert page.count('b') == 0 and page.text.count(EVIL) == 3 and page.open == []


def test_charts_speak(audit):
    chart = line_chart({EVIL: ([1, 2], [3, 4], {})}, 'seconds', 'accuracy (%)', f'{EVIL}: rises')
    (tag, attrs), = Seen(str(chart)).tags
    assert tag == 'img' and attrs['alt'] == f'{EVIL}: rises' and attrs['src'].startswith('data:image/svg+xml;base64,')
    (_, attrs), = Seen(str(forest_chart(audit.comparisons, audit.delta))).tags
    assert all(f'{c.trick.name} {100*c.difference:+.2f} ({c.verdict})' in attrs['alt'] for c in audit.comparisons)


# a training

def test_confused():
    counts = torch.tensor([[8, 2, 0], [1, 9, 0], [0, 5, 5]])
    assert confused(counts, 'abc') == [('c', 'b', 5, 10), ('a', 'b', 2, 10), ('b', 'a', 1, 10)]
    assert confused(counts, 'abc', n=1) == [('c', 'b', 5, 10)] and confused(torch.eye(3, dtype=int), 'abc') == []


def test_mistakes_are_wrong_and_the_surest_first(entries):
    r = entries[1].result
    found, all_found = mistakes(r, n=3), mistakes(r, n=999)
    assert all(m['true'] != m['predicted'] for m in all_found)
    sure = [m['probability'] for m in all_found]
    assert [m['probability'] for m in found] == sure[:3]
    assert sure == sorted(sure, reverse=True) and len(all_found) == round((1 - r.accuracy)*len(r.data.valid))


def test_side_by_side(entries):
    rows = {label: values for label, *values in side_by_side(entries)}
    assert rows['steps'] == ['4', '4'] and 'test accuracy' not in rows
    assert rows['parameters'] == [f'{count_params(e.result.trained.model):,}' for e in entries]
    tested = {label: values for label, *values in side_by_side([replace(e, test=.5) for e in entries])}
    assert tested['test accuracy'] == ['50.0 %']*2
    assert tested['  its 95% interval'] == [interval(.5, len(e.result.data.test)) for e in entries]


def test_recipe_rows():
    rows = recipe_rows([recipes['baseline'], recipes['fast']])
    assert {'budget', 'network', 'lr'} <= {row[1] for row in rows if row[0]}
    assert all(row[0] == (row[2] != row[3]) for row in rows)
    assert recipe_rows([recipes['fast'].replace(seconds=60)])[0] == (False, 'budget', '60 seconds')


def test_page_of_a_training(entries, tmp_path):
    text = report_html(entries, stopped='stopped in the middle; go on with: cnn_tricks train --resume', where="it's here")
    page, wrong = Seen(text), mistakes(entries[1].result)
    assert page.open == [] and page.count('h1') == 1 and page.count('b') == len(wrong)
    assert page.count('img') == 3 + len(wrong) and all(a['alt'] for t, a in page.tags if t == 'img')
    assert all(a['src'].startswith('data:') for t, a in page.tags if t == 'img') and 'http' not in page.text
    for word in ('stopped in the middle', 'of the validation images right', EVIL, 'Side by side', 'Curves', 'What is mixed up',
                 'Worst mistakes', 'Recipe', 'Data', 'Machine and versions', "predict 'it'\"'\"'s here'", 'load_trained("it\'s here")'):
        assert word in page.text, word
    assert len(curves(entries)) == 3 and '@media print' in text and 'prefers-color-scheme: dark' in text
    alone = Seen(report_html([replace(entries[0], test=.75)]))
    assert '75.0 % of the test images right' in alone.text and 'Figures' in alone.text and 'can be luck' not in alone.text
    write_report(tmp_path/'r.html', entries)
    assert (tmp_path/'r.html').read_text(encoding='utf-8').startswith('<!DOCTYPE html>')


def test_page_of_many_classes(entries):
    "A matrix of more than 20 classes is left out; the pairs stay."
    r = entries[0].result
    names = [f'class {i}' for i in range(21)]
    many = replace(r, trained=replace(r.trained, classes=names))
    many.confusion = lambda: torch.full((21, 21), 2)
    page = Seen(report_html([Entry('baseline', many)]))
    assert 'taken for →' not in page.text and page.text.count('2 of 42') == 8


# an audit

def test_page_of_an_audit(audit, tmp_path):
    page = Seen(audit_html(audit, embedded(), where='a b', folder='my photos'))
    assert page.open == [] and page.count('h1') == 1 and page.count('img') == 1
    n, k = len(audit.helping), len(audit.comparisons)
    assert (f'{n} of {k} tricks' if n else 'No trick was found to help') in page.text and 'audits of known truth' in page.text
    assert "cnn_tricks train 'my photos' --recipe 'a b/recipe.json'" in page.text
    for r in audit.rows(): assert r['trick'] in page.text and r['interval'] in page.text and r['verdict'] in page.text
    for why, names in audit.reasons().items(): assert f'{why} {", ".join(names)}' in page.text
    links = [a['href'] for t, a in page.tags if t == 'a']
    assert len(links) == sum(bool(r['lesson']) for r in audit.rows()) and all(l.startswith('https://') for l in links)
    write_audit_report(tmp_path/'a.html', audit, embedded())
    audit.save(tmp_path/'ledger.json')
    assert Audit.load(tmp_path/'ledger.json').rows() == audit.rows()


def test_page_of_a_stopped_audit(audit):
    page = Seen(audit_html(replace(audit, finished=False), embedded(), stopped=f'stopped in round 4 {EVIL}'))
    assert f'stopped in round 4 {EVIL}' in page.text and 'Not finished' in page.text and 'To train it' not in page.text
    none = Seen(audit_html(replace(audit, finished=False, rounds=2, analysed=[], final=[]), embedded()))
    assert 'In figures' not in none.text and 'nothing can be said yet' in none.text and none.count('img') == 0


def test_names_of_tricks_are_text(audit):
    "A trick of the user's own may be called anything."
    arms = [replace(arm, name=EVIL) if k == 2 else arm for k, arm in enumerate(audit.arms)]
    left = {EVIL if name == audit.arms[2].name else name: n for name, n in audit.left.items()}
    page = Seen(audit_html(replace(audit, arms=arms, left=left, refused={EVIL: EVIL}), embedded()))
    plain = Seen(audit_html(audit, embedded()))
    assert page.text.count(EVIL) >= 4 and page.count('b') == plain.count('b') and page.open == []
