"""The page of an audit: verdicts, intervals, costs, and what was not tried"""
import shlex
from pathlib import Path

from markupsafe import Markup, escape

from .._modidx import d as _index
from ..base.files import atomic_write
from ..core.recipe import Recipe, recipes
from ..data.images import ImageData
from ..studies.audit_heads import head_rows
from ..studies.audit_promise import kept_promise
from ..studies.audit_result import Audit
from .charts import forest_chart
from .pages import render
from .training import recipe_rows

__all__ = ['audit_html', 'write_audit_report']

_settings: dict = _index['settings']
_site = _settings['doc_host'] + _settings['doc_baseurl']


def _headline(a):
    n, k = len(a.helping), max(len(a.arms) - 1, 0)
    text = f'{n} of {k} trick{"s" * (k != 1)} help{"s" * (n == 1)}' if n else 'No trick was found to help'
    return text if a.finished else f'Not finished: {text[0].lower()}{text[1:]} so far'


def _answer(a):
    "What was found, the tricks in bold, everything else escaped"
    return Markup(escape(a.answer('\1{}\2')).replace('\1', Markup('<b>')).replace('\2', Markup('</b>')))


def _base_name(a):
    "The registered recipe that the tricks were added to, whatever its budget"
    def same(r): return {k: v for k, v in r.items() if k not in ('epochs', 'steps', 'seconds')}
    return next((n for n in recipes if same(recipes[n].to_dict()) == same(a.asked['base'])), 'your recipe')


def _machine(a):
    m, p = a.base.machine, a.plan
    return {'machine': f'{m["name"]}, {m["cores"]} cores, {m["memory_gb"]:g} GiB, {m["system"]}', 'device': m['device'],
            'threads': m['threads'], 'date': a.about.get('date', ''), **a.about.get('versions', {}),
            'minutes asked for': f'{a.asked["minutes"]:g}', 'minutes used': f'{a.spent/60:.1f}',
            'first seed': a.asked['seed'], 'seeds planned': f'{p["rounds"]}, at most {p["most"]}',
            'fingerprint of the data': a.base.data['fingerprint']}


def _check_values(check):
    "The tricks that the last check added, and a row for each side"
    if not check: return dict(added=[], check_rows=[])
    added = [t['name'] for t in check.trick.recipe['tricks'] if t not in check.base.recipe['tricks']]
    rows = [(arm.name, f'{100*arm.mean:.2f} %', f'{100*arm.sd:.2f}', len(arm)) for arm in (check.base, check.trick)]
    return dict(added=added, check_rows=rows)


def audit_html(
    a:Audit, # finished or stopped, with its plan made
    data:ImageData, # what it ran on
    where:str='cnn_tricks_audit', # the folder of the results, for the lines that say how to use them
    folder:str='', # the folder of the images, for the same
    stopped:str='' # why it did not finish and how to go on; empty where it finished
)->str: # one HTML page that needs nothing else
    "The report of an audit"
    images, command = a.base.data['train'], ['cnn_tricks', 'train', *[folder]*bool(folder)]
    if a.heads: command += ['--size', str(data.size[0])] # photographs larger than `train` reads them for a recipe
    return render(
        'audit.html.j2', audit=a, data=data, stopped=stopped, title=f'Audit: {_headline(a)}', headline=_headline(a),
        answer=_answer(a), base=_base_name(a), promise=kept_promise(), heads=head_rows(a.heads, a.delta),
        chart=forest_chart(a.comparisons, a.delta) if a.analysed else '', site=_site, notes=a.notes(), check=a.check,
        measured=a.base.measured, adopted=a.recipe != Recipe.from_dict(a.asked['base']), tuned=sorted(a.tuned),
        **_check_values(a.check), epochs=a.base.steps*min(a.base.recipe['batch_size'], images)/images,
        recipe_rows=recipe_rows([Recipe.from_dict(a.asked['base']), a.recipe]), machine=_machine(a),
        command=shlex.join([*command, '--recipe', f'{where}/recipe.json']))


def write_audit_report(
    path:Path, # the file
    a:Audit, data:ImageData, # as for `audit_html`
    **kwargs # as for `audit_html`
):
    "Write `audit_html` to a file, whole or not at all; raises `OSError` where it cannot"
    with atomic_write(path) as f: f.write(audit_html(a, data, **kwargs).encode('utf-8', 'replace'))
