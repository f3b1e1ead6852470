"""Charts for the pages: matplotlib's, as SVG inside an image, whose ink is dark or light as the reader has it"""
import base64
import io
import math

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..measure.verdict import Verdict

__all__ = ['COLOURS', 'line_chart', 'forest_chart']

COLOURS = '#c97a12', '#3f7fe8', '#2f9e6e', '#b05cc6'
_ink = '#123456'  # stands for the ink until the SVG is written
_look: dict = {'svg.fonttype': 'none', 'svg.hashsalt': 'cnn_tricks', 'font.size': 10, 'axes.spines.top': False,
         'axes.spines.right': False, 'text.color': _ink, 'xtick.color': _ink, 'ytick.color': _ink,
         'axes.labelcolor': _ink, 'axes.edgecolor': _ink}
_style = '<style>:root{--ink:#1c2430}@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee}}</style>'


def _svg_image(fig, alt):
    "matplotlib's figure as an `img` that holds it"
    out = io.StringIO()
    fig.savefig(out, format='svg', transparent=True, metadata={'Date': None})
    svg = out.getvalue().replace(_ink, 'var(--ink)').replace("'DejaVu Sans'", 'system-ui')
    data = base64.b64encode(svg.replace('<defs>', f'{_style}<defs>', 1).encode()).decode()
    return Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(alt, data)


def _text(label): return label.replace('$', r'\$')  # which matplotlib would read as mathematics


def line_chart(
    lines:dict, # label -> (x values, y values, matplotlib style)
    xlabel:str, # with its unit
    ylabel:str, # with its unit
    alt:str # what one sees, in words
)->Markup: # HTML
    "Lines over common axes"
    with rc_context(_look):
        fig = Figure((3.7, 2.7), layout='constrained')
        ax = fig.subplots()
        for label, (x, y, style) in lines.items(): ax.plot(x, y, label=_text(label), **style)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.grid(alpha=0.25, lw=0.5)
        named = {t: h for h, t in zip(*ax.get_legend_handles_labels())}
        if len(named) > 1: fig.legend(named.values(), named, loc='outside upper left', ncols=3, frameon=False)
        return _svg_image(fig, alt)


def forest_chart(
    comparisons:list, # `Comparison`s or `Audited`s, from top to bottom
    delta:float # the smallest difference that matters, in accuracy
)->Markup: # HTML
    "Differences with their intervals, in points, and the band of ±δ; a filled mark says helps or hurts"
    with rc_context(_look):
        fig = Figure((6.8, 0.9 + 0.36*len(comparisons)), layout='constrained')
        ax = fig.subplots()
        ax.axvspan(-100*delta, 100*delta, color='#888888', alpha=0.18, lw=0)
        ax.axvline(0, color='#888888', lw=1)
        for i, c in enumerate(comparisons):
            colour = COLOURS[{Verdict.HELPS: 1, Verdict.HURTS: 0}.get(c.verdict, 3)]
            if math.isfinite(c.interval[0]): ax.plot([100*v for v in c.interval], [i, i], color=colour, lw=2.5)
            sure = c.verdict.sure
            ax.plot(100*c.difference, i, 'D' if sure else 'o', color=colour, mfc=colour if sure else 'none', ms=7)
        ax.set(yticks=range(len(comparisons)), yticklabels=[_text(c.trick.name) for c in comparisons],
               ylim=(len(comparisons) - 0.5, -0.5), xlabel='difference of accuracy (points); the band is ±δ')
        said = (f'{c.trick.name} {100*c.difference:+.2f} ({c.verdict})' for c in comparisons)
        return _svg_image(fig, f'Differences of accuracy in points, with intervals: {"; ".join(said)}.')
