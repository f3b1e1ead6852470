"""The page of a training: recipes side by side, curves, mistakes"""
import platform
import shlex
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..base.files import atomic_write
from ..core.metrics import metrics
from ..core.recipe import Recipe
from ..core.result import Result, smoothed
from ..measure.statistics import accuracy_interval
from ..nets.layer_costs import count_params
from .charts import COLOURS, line_chart
from .pages import percent_text, render, seconds_text

__all__ = ['Entry', 'interval', 'side_by_side', 'values_by_seconds', 'curves', 'mistakes', 'confused', 'recipe_rows',
           'report_html', 'write_report']


@dataclass
class Entry:
    "One run of a report: its name, its result, and its accuracy on the test part"
    label:str # what to call it: 'baseline'
    result:Result # the run, finished or stopped
    test:float = None # accuracy on the test part in [0, 1]; None: not read
    before:float = 0. # seconds of the run that it started from
    uneven:bool = False # have the classes of the test part very different numbers of images?
    scores:dict = field(default_factory=dict) # on the test part: balanced accuracy and macro F1, in [0, 1]

    def read_test(self):
        "Look at the test part, once: accuracy, and what else its mistakes say"
        self.result.test_reads += 1
        confusion = self.result.confusion(self.result.data.test)
        self.test, self.uneven = metrics['accuracy'](confusion), _uneven(confusion)
        self.scores = {k: metrics[k](confusion) for k in ('balanced_accuracy', 'macro_f1')}

    @property
    def parameters(self): # -> int
        "Weights and biases of the network"
        return count_params(self.result.trained.model)


def _uneven(confusion): # has some class half as many images more than another?
    n = confusion.sum(1)
    return bool(n.max() > 1.5*n.min())


def interval(
    share:float, # an accuracy, in [0, 1]
    n:int # images that it was measured on
)->str: # '89.6 to 91.4'
    "The 95% interval (Wilson 1927) that goes with an accuracy on `n` images, in per cent"
    low, high = accuracy_interval(round(share*n), n)
    return f'{100*low:.1f} to {100*high:.1f}'


def side_by_side(
    entries:list # `Entry`s; the others are held against the first
)->list: # (label, a text for each entry)
    "What a reader wants to compare, a row each"
    first, results = entries[0].result, [e.result for e in entries]
    rows = [('validation accuracy', *(percent_text(r.accuracy) for r in results))]
    if any(e.test is not None for e in entries):
        spans = ('–' if e.test is None else interval(e.test, len(e.result.data.test)) for e in entries)
        rows += [('test accuracy', *(percent_text(e.test) for e in entries)), ('  its 95% interval', *spans)]
        if any(e.uneven for e in entries):
            rows += [(f'test {said}', *(percent_text(e.scores.get(k)) for e in entries))
                     for k, said in (('balanced_accuracy', 'balanced accuracy'), ('macro_f1', 'macro F1'))]
    rows += [('seconds of training', *(seconds_text(r.seconds) for r in results))]
    if any(e.before for e in entries):
        rows += [('  with those of what it starts from', *(seconds_text(e.before + e.result.seconds) for e in entries))]
    if len(entries) > 1:
        reached = ((e.before, e.result.time_to(first.accuracy)) for e in entries)
        rows += [(f'seconds until {percent_text(first.accuracy)} (validation)',
                  *('not reached' if s is None else seconds_text(before + s) for before, s in reached))]
    rows += [('steps', *(f'{r.steps:,}' for r in results))]
    return rows + [('parameters', *(f'{e.parameters:,}' for e in entries))]


def _looks(entries):
    "(entry, colour, line style) of each: the last one solid and blue"
    rest = [COLOURS[0], *COLOURS[2:]]*len(entries)
    return [(e, c, '--') for e, c in zip(entries[:-1], rest)] + [(entries[-1], COLOURS[1], '-')]


def values_by_seconds(
    r:Result,
    values:list, # a number for each step
    most:int=300 # about how many to keep: more than a chart can show are thinned out
)->tuple: # (seconds, values)
    "The second of training at which each value stood; between validations, whose seconds are known, steps are even"
    keep = range(0, len(values), max(1, len(values) // most))
    known = [(0, 0.), *((h['step'], h['seconds']) for h in r.history), (r.steps, r.seconds)]
    steps, seconds = zip(*known)
    return np.interp([i + 1 for i in keep], steps, seconds).tolist(), [values[i] for i in keep]


def _per_validation(r, key, factor=1): return [h['seconds'] for h in r.history], [factor*h[key] for h in r.history]


def _accuracy_chart(entries):
    lines = {e.label: (*_per_validation(e.result, 'accuracy', 100), dict(color=c, ls=ls, marker='o', ms=4))
             for e, c, ls in _looks(entries)}
    ends = ((e.label, e.result) for e in entries)
    said = (f'{label} ends at {percent_text(r.accuracy)} after {seconds_text(r.seconds)} seconds' for label, r in ends)
    return lines, 'accuracy (%)', f'Validation accuracy against seconds of training: {"; ".join(said)}.'


def _loss_chart(entries):
    lines = {}
    for e, c, ls in _looks(entries):
        r, dots = e.result, dict(color=c, ls='', marker='o', ms=4)
        lines[e.label] = *values_by_seconds(r, smoothed(r.losses)), dict(color=c, ls=ls)
        lines[f'_{e.label}'] = *_per_validation(r, 'valid_loss'), dots
    ends = ((e.label, [h['valid_loss'] for h in e.result.history][-1:]) for e in entries)
    said = (f'{label} ends at {loss[0]:.2f} on validation' for label, loss in ends if loss)
    return lines, 'loss (nats)', f'Loss against seconds of training: {"; ".join(said)}.'


def _lr_chart(entries):
    lines = {e.label: (*values_by_seconds(e.result, e.result.lrs), dict(color=c, ls=ls)) for e, c, ls in _looks(entries)}
    said = (f'{e.label} goes up to {max(e.result.lrs, default=0):.2g}' for e in entries)
    return lines, 'learning rate', f'Learning rate against seconds of training: {"; ".join(said)}.'


def curves(
    entries:list # `Entry`s
)->list: # (title, HTML of the chart) pairs
    "Accuracy, loss and learning rate against the seconds of training, a chart each"
    charts = (('Accuracy (validation)', _accuracy_chart), ('Loss (dots: validation)', _loss_chart),
              ('Learning rate', _lr_chart))
    drawn = ((title, *chart(entries)) for title, chart in charts)
    return [(title, line_chart(lines, 'seconds of training', ylabel, alt)) for title, lines, ylabel, alt in drawn]


def mistakes(
    result:Result, # the run whose validation images are looked at
    n:int=12 # how many at most
)->list: # a dict each: `image` uint8 (C, H, W), `true`, `predicted`, `probability`; the surest first
    "The wrong answers on the validation part of which the network was surest"
    part, names = result.data.valid, result.trained.classes
    sure, predicted = result.trained.predict(part.x).max(1)
    wrong = (predicted != part.y.cpu()).nonzero()[:, 0]
    wrong = wrong[sure[wrong].argsort(descending=True)][:n].tolist()
    return [dict(image=part.x[i], true=names[part.y[i]], predicted=names[predicted[i]], probability=sure[i].item())
            for i in wrong]

def confused(
    confusion:torch.Tensor, # counts (classes, classes): row true, column predicted
    names:list, # of the classes
    n:int=8 # how many at most
)->list: # (true, taken for, how often, of how many)
    "The classes that were mixed up most often, each direction by itself"
    wrong, k = confusion.clone().fill_diagonal_(0).flatten(), len(names)
    pairs = [(i // k, i % k) for i in wrong.argsort(descending=True, stable=True)[:n].tolist() if wrong[i] > 0]
    return [(names[i], names[j], int(confusion[i, j]), int(confusion[i].sum())) for i, j in pairs]


def _matrix(confusion, names):
    "The rows of the confusion matrix: `name` and `cells`, each (kind, count, fraction of its row as text)"
    share = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    def cell(i, j): return 'right' if i == j else 'wrong', int(confusion[i, j]), f'{share[i, j]:.2f}'
    return [dict(name=name, cells=[cell(i, j) for j in range(len(names))]) for i, name in enumerate(names)]


def _value(v):
    "A recipe's value as text"
    if isinstance(v, dict): return ', '.join(f'{k}={x}' for k, x in v.items()) or '–'
    if isinstance(v, tuple): return ', '.join(f'{t.name} ({_value(t.params())})' for t in v) or '–'
    if isinstance(v, bool) or v is None: return {None: '–', True: 'yes', False: 'no'}[v]
    return f'{v:.6g}' if isinstance(v, float) else str(v)


def recipe_rows(
    recipes:list # `Recipe`s
)->list: # (do they differ?, field, a text for each recipe)
    "Recipes field by field, the three budgets in one row"
    budgets = 'epochs', 'steps', 'seconds'
    rows = [('budget', *(next(f'{_value(getattr(r, b))} {b}' for b in budgets if getattr(r, b)) for r in recipes))]
    for f in (f.name for f in fields(Recipe) if f.name not in budgets):
        rows.append((f.replace('_', ' '), *(_value(getattr(r, f)) for r in recipes)))
    return [(len(set(row[1:])) > 1, *row) for row in rows]

def _machine(r):
    m = r.machine
    about = dict(machine=f'{m.name}, {m.cores} cores, {m.memory_gb:g} GiB, {m.system}', device=m.device,
                 threads=m.threads, seed=r.seed)
    return about | {'fingerprint of the data': r.data.fingerprint, 'Python': platform.python_version(),
                    'torch': m.torch, 'fastai': version('fastai'), 'cnn_tricks': __version__}


def _python(r, where):
    "Lines that load the network in Python"
    shape = ', '.join(map(str, (r.trained.channels, *r.trained.size)))
    return '\n'.join(['from cnn_tricks.core.result import load_trained', '', f'model = load_trained({where!r})',
                      'model.classes     # names of the outputs',
                      f'model.predict(x)  # x: uint8 (N, {shape}) -> probabilities (N, {len(r.trained.classes)})'])


def report_html(
    entries:list, # `Entry`s; the last is reported, those before it are what it is held against
    stopped:str='', # why the run did not finish and how to go on; empty where it finished
    where:str='cnn_tricks_run' # the folder of the model, for the lines that say how to use it
)->str: # one HTML page that needs nothing else
    """The report of a run. Mixed-up classes and mistakes are looked up among the validation images: to study the
    mistakes on the test images, and then to change something, would use the test to choose."""
    last, r, kind = entries[-1], entries[-1].result, 'validation' if entries[-1].test is None else 'test'
    def score(e): return percent_text(e.result.accuracy if kind == 'validation' else e.test)
    headline = f'{score(last)} of the {kind} images right'
    if score(last) == '–': headline = 'Stopped before an accuracy was measured'
    confusion, classes = r.confusion(), r.trained.classes
    return render(
        'training.html.j2', title=f'{score(last)}: {last.label} on {r.data.name}', headline=headline, stopped=stopped,
        last=last, others=entries[:-1], score=score, data=r.data, labels=[e.label for e in entries],
        rows=side_by_side(entries), curves=curves(entries), classes=classes, matrix=_matrix(confusion, classes),
        confused=confused(confusion, classes), mistakes=mistakes(r),
        recipe_rows=recipe_rows([e.result.recipe for e in entries]), machine=_machine(r),
        command=f'cnn_tricks predict {shlex.quote(where)} picture.jpg', python=_python(r, where))


def write_report(
    path:Path, # the file
    entries:list, # `Entry`s
    **kwargs # as for `report_html`
):
    "Write `report_html` to a file, whole or not at all; raises `OSError` where it cannot"
    with atomic_write(path) as f: f.write(report_html(entries, **kwargs).encode('utf-8', 'replace'))
