"How often real audits of known truth erred: the promise that an audit makes, and no more"
import json

from ..base.paths import records_path

__all__ = ['kept_promise']


def kept_promise()->str: # one sentence or two
    "What `scripts/record/audit_calibration.py` has found, in words; says so where nothing is recorded yet"
    path = records_path()/'audit_calibration.json'
    d = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    if 'false_helps' not in d:
        return 'How often an audit errs was simulated; no audits of known truth are recorded yet.'
    def said(kind, word):
        low, high = (f'{100*v:.1f}' for v in d[kind]['interval'])
        return f'{d[kind]["audits"]} said {word} of a trick of which it is not true ({low} to {high}%)'
    return (f'Of {d["audits"]} recorded audits of known truth, {said("false_helps", "“helps”")}, '
            f'{said("false_hurts", "“hurts”")}. Each had {d["images"]:,} images of {d["data"]}.')
