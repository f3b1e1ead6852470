"What an audit promises: what audits of known truth kept, and no more."
import json

import pytest

from cnn_tricks.studies import audit_promise
from cnn_tricks.studies.audit_promise import kept_promise


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_promise, 'records_path', lambda: tmp_path)
    return tmp_path


def test_nothing_is_promised_where_nothing_is_recorded(folder): assert 'no audits of known truth' in kept_promise()


def test_the_promise_is_what_was_kept(folder):
    kinds = {k: dict(audits=n, interval=[.0078, .0568]) for k, n in (('false_helps', 4), ('false_hurts', 5))}
    (folder/'audit_calibration.json').write_text(json.dumps(kinds | dict(audits=200, images=1000, data='Fashion-MNIST')))
    said = kept_promise()
    assert said.startswith('Of 200 recorded audits') and '4 said “helps”' in said and '5 said “hurts”' in said
    assert '(0.8 to 5.7%)' in said and '1,000 images of Fashion-MNIST' in said
    (folder/'audit_calibration.json').write_text(json.dumps(dict(audits=1, rows=[])))
    assert 'no audits of known truth' in kept_promise() # begun, and nothing is known of the truth yet
