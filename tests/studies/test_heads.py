"Heads on frozen features: every image is where it belongs, what truly helps or hurts a head is found, and it is plain values"
import json

import pytest
import torch

from cnn_tricks.core.recipe import Recipe
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.verdict import Verdict
from cnn_tricks.report.audit import audit_html
from cnn_tricks.studies import audit_heads
from cnn_tricks.studies.audit import Audit, audit
from cnn_tricks.studies.audit_splits import Splits

TUNED = Recipe.from_dict(dict(steps=1, tricks=[dict(name='fine_tune', weights='fashion')]))


@pytest.fixture(scope='module')
def data(): return embedded().subset(600, parts=('train',)).subset(200, parts=('valid', 'test'))


def test_numbers_survive_a_split(data):
    pool = data.train.join(data.valid)
    split = Splits(audit_heads._numbered(pool, data)).round(3)
    ids = [audit_heads._numbers(p) for p in (split.train, split.valid)]
    assert sorted(torch.cat(ids).tolist()) == list(range(len(pool)))
    for part, i in zip((split.train, split.valid), ids): assert (part.y == pool.y[i]).all()
    assert audit_heads._numbers(audit_heads._numbered(pool, data).valid).tolist() == list(range(len(data.train), len(pool)))


def test_heads(data):
    said = []
    found = audit_heads.try_heads(TUNED, data, 1., tell=said.append)
    rows = {r['what']: r for r in found['rows']}
    assert set(rows) == {'21 x 21 pixels', 'cropped', 'decay 0.003', 'decay 0.3'} # classes are even: nothing to weigh
    assert 4 <= found['splits'] <= audit_heads.MOST and .7 < found['base'] < 1 and len(said) > 6
    assert json.loads(json.dumps(found)) == found and all(r['low'] <= r['difference'] <= r['high'] for r in rows.values())
    shown = audit_heads.head_rows(found, .01)
    assert [r['what'] for r in shown] == list(rows) and {r['verdict'] for r in shown} <= set(Verdict)


def test_an_audit_of_a_recipe_that_fine_tunes(data, tmp_path):
    "Heads first, then rounds; what would spoil the pretrained weights is refused with that reason; the page shows both"
    said = []
    a = audit(data.subset(200), TUNED.replace(steps=20, lr=.01), ['label_smoothing', 'activation', 'head_start'], 60., rounds=4,
              equal='steps', path=tmp_path/'l.json', tell=lambda what, a: said.append(what))
    assert a.finished and {r['what'] for r in a.heads['rows']} >= {'cropped', 'decay 0.3'} and a.plan['last_steps'] == 20
    assert {arm.name for arm in a.arms} == {'base', 'label_smoothing', 'head_start'}
    assert 'pretrained layers compute' in a.refused['activation']
    assert said.index('heads on frozen features, split 1') < said.index('round 1')
    page = audit_html(a, data)
    assert 'Head only' in page and 'Heads on frozen features' in page and '--size 28 --recipe' in page
    assert Audit.load(tmp_path/'l.json') == a
