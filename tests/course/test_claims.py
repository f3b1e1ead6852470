"""The course answers every claim that it took on, once for each lesson that the claim belongs to."""
import json
from collections import Counter

import pytest
from form import ROOT

from cnn_tricks.course.lesson import VERDICTS, answer, lessons, outline
from cnn_tricks.course.tables import claims_table, collect_answers

CLAIMS, LESSONS = outline()['claims'], lessons()
PAIRS = [(c['id'], l['stem']) for c in CLAIMS for l in LESSONS if l['stem'][3:] in c['lessons']]


def test_outline():
    "Ids are unique; each claim is said in words and belongs to lessons that exist or are planned."
    names, planned = {l['stem'][3:] for l in LESSONS}, [l['stem'] for p in outline()['parts'] for l in p['lessons']]
    assert len({c['id'] for c in CLAIMS}) == len(CLAIMS) == 46
    assert Counter(c['id'][:2] for c in CLAIMS) == {'S0': 12, 'S1': 14, 'S3': 8, 'S4': 12}
    assert len(set(planned)) == len(planned)
    for c in CLAIMS:
        assert len(c['claim']) > 15 and c['lessons'] and set(c['lessons']) <= names, c
        assert len(set(c['lessons'])) == len(c['lessons']), c


def test_table_has_each_claim_once_for_each_lesson():
    rows = [(r['id'].strip('`'), r['stem']) for r in claims_table().rows]
    assert Counter(rows) == Counter(PAIRS)


@pytest.mark.parametrize('row', claims_table().rows, ids=lambda r: f"{r['id'].strip('`')}-{r['stem']}")
def test_verdict(row):
    "A lesson that exists has answered its claims; one that does not is planned."
    there = next(l['there'] for l in LESSONS if l['stem'] == row['stem'])
    assert row['verdict'] != 'missing', f"nbs/{row['stem']}.ipynb does not answer claim {row['id']}"
    assert there == (row['verdict'] != 'planned')
    if there: assert row['evidence'], f"nbs/{row['stem']}.ipynb says nothing of what it found on {row['id']}"


def test_answers_are_of_known_claims():
    for a in collect_answers():
        assert (a['claim'], a['lesson']) in PAIRS, f"{a['lesson']} answers {a['claim']}, which is not one of its claims"
        assert a['asserts'], f"{a['lesson']}, cell {a['cell']}: the answer to {a['claim']} has no assertion beside it"
        answer(a['claim'], a['verdict'], a['evidence'])  # refuses what is not a verdict


def write(folder, *sources, output=None):
    "A lesson 01 with these code cells."
    outputs = [dict(output_type='execute_result', data={'text/plain': [output]})] if output else []
    cells = [dict(cell_type='code', source=[s], outputs=outputs) for s in sources]
    (folder/'01_cnn.ipynb').write_text(json.dumps(dict(cells=cells)))


def test_collect_reads_without_running(tmp_path):
    write(tmp_path, "raise SystemExit\nassert x\nanswer('S3-4', verdict='holds', evidence='as written')",
          "%time x = 1\nanswer('S0-1', 'false', 'no assertion')", "later = answer('S3-7', 'holds', 'has a name')")
    got = [(a['claim'], a['verdict'], a['evidence'], a['asserts']) for a in collect_answers(tmp_path)]
    assert got == [('S3-4', 'holds', 'as written', True), ('S0-1', 'false', 'no assertion', False)]


def test_computed_evidence_is_read_from_the_saved_output(tmp_path):
    write(tmp_path, "answer('S3-4', 'holds', f'{n} cases agree')", output='S3-4: holds. 240 cases agree')
    assert collect_answers(tmp_path)[0]['evidence'] == '240 cases agree'


def test_missing_and_planned(tmp_path):
    write(tmp_path, "assert x\nanswer('S3-4', 'holds', 'seen')")
    verdicts = {(r['id'].strip('`'), r['stem']): r['verdict'] for r in claims_table(folder=tmp_path).rows}
    assert verdicts['S3-4', '01_cnn'] == 'holds' and verdicts['S0-1', '01_cnn'] == 'missing'
    assert verdicts['S1-9', '00_data'] == 'planned'


@pytest.mark.parametrize('args,says', [
    (('S9-1', 'holds', 'x'), "unknown claim 'S9-1'"), (('S3-4', 'true', 'x'), "verdict='true'"),
    (('S3-4', 'holds when', 'x'), 'must be one of'), (('S3-4', 'no difference', 'x'), 'must be one of'),
    (('S3-4', 'holds', ''), 'what was run')])
def test_refused(args, says):
    with pytest.raises(ValueError, match=says): answer(*args)


@pytest.mark.parametrize('verdict', [*VERDICTS, 'holds when the batch is small', 'no difference beyond 1 point here'])
def test_accepted(verdict):
    shown = answer('S3-4', verdict, 'found')
    assert f'**Verdict: {verdict}.** found' in shown._repr_markdown_() and repr(shown) == f'S3-4: {verdict}. found'


def test_page_of_claims_has_every_part():
    "Each part that answers claims has a heading and a table on the page of claims."
    page = (ROOT/'nbs'/'claims.ipynb').read_text(encoding='utf-8')
    for p in outline()['parts']:
        if claims_table(p['number']).rows:
            assert f"## {p['title']}" in page and f"claims_table(part={p['number']})" in page
