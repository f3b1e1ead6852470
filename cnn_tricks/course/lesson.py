"""What a lesson asserts and answers: verdicts, checkers, and the lessons that it builds on"""
import json
import re
from functools import cache, wraps
from importlib.resources import files
from pathlib import Path
from ..base.display import Shown
from ..base.paths import lessons_path, results_path

__all__ = ['VERDICTS', 'outline', 'lessons', 'before_you_start', 'Check', 'checker', 'answer',
           'notebook_cells', 'lesson_link', 'recorded_time']


@cache
def outline()->dict: # `parts` (number, title, question, text, lessons) and `claims` (id, claim, lessons, correct)
    "The outline of the course: its parts, its lessons, and the claims that they answer."
    return json.loads((files('cnn_tricks.course')/'course.json').read_text(encoding='utf-8'))


def notebook_cells(
    path:str|Path, # of a notebook
)->list: # its cells as dicts
    "The cells of a notebook, each source as one string."
    nb = json.loads(Path(path).read_text(encoding='utf-8'))
    return [dict(c, source=''.join(c['source'])) for c in nb['cells']]


def _title(path):
    "A notebook's title and its promise."
    md = next((c['source'] for c in notebook_cells(path) if c['cell_type'] == 'markdown'), '')
    title, promise = (re.search(p, md, re.M) for p in (r'^# +(.+)', r'^> *(.+)'))
    return title[1].strip() if title else Path(path).stem, promise[1].strip() if promise else ''


def _kind(stem):
    "What a lesson's number says about its form."
    n = int(stem[:2])
    return 'tool' if n in (5, 60, 80, 90) else 'foundation' if n < 5 else 'trick'


def lessons(
    folder:str|Path=None, # where the notebooks are; default: `lessons_path()`
)->list: # a dict each: `stem`, `title`, `about`, `part`, `kind`, `there`; in the order of their numbers
    "All lessons: those that exist, with their own title and promise, and those that are planned."
    folder = Path(folder or lessons_path())
    found = {p.stem: p for p in folder.glob('[0-9][0-9]_*.ipynb')}
    rows = {l['stem']: dict(l, part=p['number']) for p in outline()['parts'] for l in p['lessons']}
    for stem in found.keys() - rows.keys(): rows[stem] = dict(stem=stem, part=min(int(stem[0]), 6))
    for stem, row in rows.items():
        if stem in found: row['title'], row['about'] = _title(found[stem])
        row.update(kind=_kind(stem), there=stem in found)
    return [rows[stem] for stem in sorted(rows)]


def _lesson(name, folder=None):
    "The lesson called `name`: its number and name, or the name alone."
    rows = lessons(folder)
    for row in rows:
        if name in (row['stem'], row['stem'][3:]): return row
    raise ValueError(f"unknown lesson {name!r}; one of: {', '.join(r['stem'] for r in rows)}")


def lesson_link(
    row:dict, # one of `lessons()`
    anchor:str='', # `#heading` within it
)->str: # markdown
    "A lesson's number and title, as a link where there is a notebook."
    label = f"{row['stem'][:2]} {row['title']}"
    return f"[{label}]({row['stem']}.ipynb{anchor})" if row['there'] else label


def _box(kind, colour, text):
    "`text` in a box with a coloured edge: JupyterLab and the site draw it, a terminal has the plain text."
    return (f'<div class="ct-box ct-{kind}" style="border-left: 4px solid {colour}; padding: 0.1em 1em;">\n\n'
            f'{text}\n\n</div>')


def recorded_time(
    stem:str, # number and name of a lesson: `00_data`
)->str: # `... s from top to bottom, recorded ...`
    "One sentence on the recorded run of a lesson."
    p = results_path()/'times.json'
    t = json.loads(p.read_text(encoding='utf-8')).get(stem) if p.exists() else None
    if not t: return 'no run of this lesson is recorded yet.'
    return (f"{t['seconds']:.0f} s from top to bottom, recorded {t['date']} "
            f"on {t['cores']} CPU cores with {t['threads']} thread{'s'*(t['threads'] > 1)} and torch {t['torch']}.")


def before_you_start(
    lesson:str, # number and name of this lesson: `00_data`
    needs:list=(), # lessons that come first (`01_cnn`), or other things needed, in words
    able:list=(), # what the reader will be able to do: each completes "you can ..."
)->Shown: # shows itself at the end of a cell
    "What a lesson needs, what it gives, and how long it takes; `ValueError` for a lesson that is not there."
    stem = _lesson(lesson)['stem']
    needs = [lesson_link(_lesson(n)) if re.match(r'\d\d_', n) else n for n in needs] or ['nothing but Python']
    lines = ['**You need:** ' + ', '.join(needs) + '.', '', '**After it you can:**', '']
    lines += [f'- {a}' for a in able] + ['', f'**Time:** {recorded_time(stem)}']
    return Shown('\n'.join(lines), '\n'.join(lines).replace('**', ''))


class Check(Shown):
    "The outcome of a checker: `ok`, and the `hint` where it is not."
    def __init__(self,
        hint:str='', # what to try; empty: right
    ):
        self.ok, self.hint = not hint, hint
        if self.ok: super().__init__(_box('right', '#2e7d32', '**Right.**'), 'Right.')
        else: super().__init__(_box('notyet', '#b26a00', f'**Not yet:** {hint}'), f'Not yet: {hint}')


def checker(
    f, # asserts what an answer must do; the message of each assertion is a hint
): # `f`, which now returns a `Check` and never raises
    "Turn assertions into hints: the first that fails is shown, and nothing is raised."
    @wraps(f)
    def check(*args, **kwargs):
        try: f(*args, **kwargs)
        except AssertionError as e: return Check(str(e) or 'an assertion without a message failed')
        except Exception as e: return Check(f'your answer raised `{type(e).__name__}`: {e}')
        return Check()
    return check


_colours = {'holds': '#2e7d32', 'holds when ...': '#00695c', 'no difference beyond δ here': '#1565c0',
            'undecided here': '#6d6d6d', 'not here': '#a04000', 'false': '#b71c1c', 'not runnable here': '#6a1b9a'}
VERDICTS = tuple(_colours)


def _check_verdict(verdict):
    "The member of `VERDICTS` that `verdict` belongs to: dots and δ may be filled in."
    if verdict in _colours: return verdict
    if re.fullmatch(r'holds when \S.*', verdict): return 'holds when ...'
    if re.fullmatch(r'no difference beyond \S.* here', verdict): return 'no difference beyond δ here'
    raise ValueError(f"verdict={verdict!r}: must be one of: {'; '.join(VERDICTS)}")


def _claim(claim_id):
    "The claim with this id."
    claims = {c['id']: c for c in outline()['claims']}
    if claim_id in claims: return claims[claim_id]
    raise ValueError(f"unknown claim {claim_id!r}; one of: {', '.join(claims)}")


def answer(
    claim_id:str, # the claim: `S3-7`
    verdict:str, # one of `VERDICTS`, written out, not in a variable
    evidence:str, # what was run and found, in a sentence or two
)->Shown: # shows itself at the end of a cell
    """Answer a claim. The assertion that holds the verdict up stands before it in the same cell.

    `ValueError` for a claim that is not in the outline, a verdict of another wording, and empty evidence."""
    claim, colour = _claim(claim_id), _colours[_check_verdict(verdict)]
    if not str(evidence).strip(): raise ValueError(f'evidence={evidence!r}: must say what was run and found')
    text = f"**Claim {claim_id}.** {claim['claim']}\n\n**Verdict: {verdict}.** {evidence}"
    if 'correct' in claim: text += f"\n\n**To correct.** {claim['correct']}"
    return Shown(_box('verdict', colour, text), f'{claim_id}: {verdict}. {evidence}')
