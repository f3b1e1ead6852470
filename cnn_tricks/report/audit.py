"""The page of an audit: verdicts, intervals, costs, and what was not tried"""
import math, shlex
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..studies.audit import Audit
from ..studies.audit_result import lesson_of
from ..data.images import ImageData
from .._modidx import d as _index
from .html import _code, _colours, _esc, _look, _name, _svg, html_page, html_table
from ..core.recipe import Recipe, recipes
from ..base.files import atomic_write
from .training import _data, recipe_rows

__all__ = ['forest_chart', 'audit_html', 'write_audit_report']


def forest_chart(
    comparisons:list, # `Comparison`s or `Audited`s, from top to bottom
    delta:float # the smallest difference that matters, in accuracy
)->str: # HTML
    "Differences with their intervals, in points, and the band of ±δ; a filled mark says helps or hurts"
    with rc_context(_look):
        fig = Figure((6.8, 0.9 + 0.36*len(comparisons)), layout='constrained')
        ax = fig.subplots()
        ax.axvspan(-100*delta, 100*delta, color='#888888', alpha=0.18, lw=0)
        ax.axvline(0, color='#888888', lw=1)
        for i, c in enumerate(comparisons):
            colour = _colours[{'helps': 1, 'hurts': 0}.get(c.verdict, 3)]
            if math.isfinite(c.interval[0]): ax.plot([100*v for v in c.interval], [i, i], color=colour, lw=2.5)
            sure = c.verdict in ('helps', 'hurts')
            ax.plot(100*c.difference, i, 'D' if sure else 'o', color=colour, mfc=colour if sure else 'none', ms=7)
        names = [c.trick.name.replace('$', r'\$') for c in comparisons]
        ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5),
               xlabel='difference of accuracy (points); the band is ±δ')
        said = (f'{c.trick.name} {100*c.difference:+.2f} ({c.verdict})' for c in comparisons)
        return _svg(fig, f'Differences of accuracy in points, with intervals: {"; ".join(said)}.')


_site = _index['settings']['doc_host'] + _index['settings']['doc_baseurl']

def _lesson(name): # of a trick -> HTML: its lesson, as a link
    stem = lesson_of(name)
    return f'<a href="{_site}/{stem[3:]}.html">lesson {stem[:2]}</a>' if stem else ''

def _results(a):
    head = ['', 'points', 'interval', 'verdict', 'seeds', 'a step costs', 'lesson']
    cells = [[_esc(r['trick']), r['difference'], r['interval'], f'<b>{r["verdict"]}</b>', r['seeds'], f'× {r["step"]}',
              _lesson(r['trick'])] for r in a.rows()]
    note = (f'Accuracy on the {a.base.data["valid"]:,} validation images with the trick, minus that without, at equal '
            f'seconds of training. The smallest difference that matters, δ, was set to {100*a.delta:g} beforehand. '
            'The intervals are made to hold all together and at every look: in 95 of 100 simulated audits none of '
            'them misses the truth; where half of the tricks vary twice as much from seed to seed as the others, in '
            'about 92. "A step costs" compares seconds a step with those of the recipe alone.')
    notes = ''.join(f'<li>{_esc(n)}</li>' for arm in a.arms for n in arm.notes())
    return html_table(head, cells, 'numbers') + f'<p class="note">{note}</p>' + (f'<ul>{notes}</ul>' if notes else '')

def _control(a):
    c = a.control
    text = (f'One more "trick" ran with the others: the recipe itself, on other seeds. What it shows is luck: '
            f'{100*c.difference:+.2f} points over {len(c.base)} seeds, {_esc(c.verdict)}. ')
    wrong = c.verdict in ('helps', 'hurts')
    return (f'<p>{text}' + ('That must not happen: do not trust the other verdicts either; run it again with another '
                           '--seed.' if wrong else 'The tricks share the seeds of the recipe and usually vary less.')
            + '</p>')


def _check(a):
    if not a.helping: return '<p>Nothing helped, so there was nothing to check, and the test images were not read.</p>'
    if not (c := a.check): return '<p>Not made yet.</p>'
    tricks = ', '.join(t['name'] for t in c.trick.recipe['tricks'] if t not in c.base.recipe['tricks'])
    rows = [[_esc(arm.name), f'{100*arm.mean:.2f} %', f'{100*arm.sd:.2f}', len(arm)] for arm in (c.base, c.trick)]
    low, high = (f'{100*v:+.2f}' for v in c.interval)
    text = (f'<p>The recipe, and the recipe with {_esc(tricks)}, on {len(c.base)} fresh seeds, at equal seconds. Only '
            f'this comparison reads the test images. Difference: {100*c.difference:+.2f} points, 95% interval {low} to '
            f'{high}: <b>{c.verdict}</b>.</p>')
    out = ''.join(f'<li>{_esc(n)} could not be joined to the others: {_esc(why)}</li>' for n, why in a.clash.items())
    table = html_table(['', 'accuracy on test', 'spread between seeds', 'seeds'], rows, 'numbers')
    return (text + table + (f'<ul>{out}</ul>' if out else '')
            + '<p class="note">The differences in the first table are a little too large for what helped: it '
              'was picked because it was large. This one was picked before it was measured.</p>')

def _not_tried(a):
    if not a.refused: return '<p>Nothing was left out.</p>'
    return html_table(['', 'why'], [[_esc(', '.join(names)), _esc(why)] for why, names in a.reasons().items()])


def _limits(a):
    p, images = a.plan, a.base.data['train']
    epochs = a.base.steps*min(a.base.recipe['batch_size'], images)/images
    short = p['seconds'] < 0.9*p['full']
    lines = [f'Each run trained for {p["seconds"]:.1f} seconds ({epochs:.1f} epochs). '
             + (f'The recipe itself asks for {p["full"]:.1f}. Tricks that need long runs (augmentation, dropout) '
                'look worse in short ones; more --minutes make the runs longer.' if short else
                'That is the budget of the recipe itself; in longer runs other tricks may help.'),
             'All tricks ran at the recipe\'s learning rate, with their default settings. One that needs another rate '
             'is sold short.',
             'Each trick was tried alone, on this one recipe. What helps another network is another question.',
             'The intervals speak of other seeds, on these validation images. The last check adds other images of the '
             'same collection; images from elsewhere were not asked.',
             '"Undecided" means that the time was too short, not that there is no difference.',
             'Seconds are those of this machine, measured while it did whatever else it was doing.']
    return '<ul>' + ''.join(f'<li>{t}</li>' for t in lines) + '</ul>'

def _facts(a):
    m, p = a.base.machine, a.plan
    rows = {'machine': f'{m["name"]}, {m["cores"]} cores, {m["memory_gb"]:g} GiB, {m["system"]}', 'device': m['device'],
            'threads': m['threads'], 'date': a.about.get('date', ''), **a.about.get('versions', {}),
            'minutes asked for': f'{a.asked["minutes"]:g}', 'minutes used': f'{a.spent/60:.1f}',
            'first seed': a.asked['seed'], 'seeds planned': f'{p["rounds"]}, at most {p["most"]}',
            'fingerprint of the data': a.base.data['fingerprint']}
    return html_table(['', ''], [[_esc(k), _esc(v)] for k, v in rows.items()])


def _recipes(a):
    r = [Recipe.from_dict(a.asked['base']), a.recipe]
    rows = [[f'<span class="differs">{f}</span>' if differs else f, *map(_esc, texts)]
            for differs, f, *texts in recipe_rows(r) if set(texts) != {'–'}]
    return html_table(['', 'the recipe', 'with what helped'], rows)

def _sections(a, data, where, folder):
    if a.rounds:
        chart = forest_chart([*a.comparisons, a.control], a.delta)
        yield 'What each trick is worth here', f'<div class="wide">{chart}</div>'
        yield 'In figures', _results(a)
        yield 'The control', _control(a)
    yield 'The last check', _check(a)
    yield 'What was not tried, and why', _not_tried(a)
    yield 'What this does not say', _limits(a)
    use = shlex.join(['cnn_tricks', 'train', *[folder]*bool(folder), '--recipe', f'{where}/recipe.json'])
    yield 'The recipe', _recipes(a) + ('<p>To train it:</p>' + _code(use) if a.finished else '')
    yield 'Data', _data(data)
    yield 'Machine, time and versions', _facts(a)


def audit_html(
    a:Audit, # finished or stopped, with its plan made
    data:ImageData, # what it ran on
    where:str='cnn_tricks_audit', # the folder of the results, for the lines that say how to use them
    folder:str='', # the folder of the images, for the same
    stopped:str='' # why it did not finish and how to go on; empty where it finished
)->str: # one HTML page that needs nothing else
    "The report of an audit"
    n, k = len(a.helping), len(a.arms) - 2
    headline = f'{n} of {k} trick{"s" * (k != 1)} help{"s" * (n == 1)}' if n else 'No trick was found to help'
    if not a.finished: headline = f'Not finished: {headline[0].lower()}{headline[1:]} so far'
    def same(r): return {k: v for k, v in r.items() if k not in ('epochs', 'steps', 'seconds')}
    base = next((n for n in recipes if same(recipes[n].to_dict()) == same(a.asked['base'])), 'your recipe')
    lead = f'{a.answer("<b>{}</b>")} (Audit of {_name(data.name or "images")} with {_esc(base)} as the recipe.)'
    note = f'<p>{_esc(stopped)}</p>' if stopped else ''
    return html_page(f'Audit: {headline}', _esc(headline), lead, _sections(a, data, where, folder), note)

def write_audit_report(
    path:Path, # the file
    a:Audit, data:ImageData, # as for `audit_html`
    **kwargs): # as for `audit_html`
    "Write `audit_html` to a file, whole or not at all"
    with atomic_write(path) as f: f.write(audit_html(a, data, **kwargs).encode('utf-8', 'replace'))
