"""Pages in HTML with everything inside: style, charts, pictures"""
import base64, html, io

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

__all__ = ['html_table', 'html_picture', 'line_chart', 'html_page']


def _percent(x:float): # a share in [0, 1], or None -> text
    "A share as text: `90.5 %`, or a dash where there is none"
    return '–' if x is None or x != x else f'{100*x:.1f} %'

def _esc(x): # anything -> text safe in HTML, also in an attribute
    "Text for HTML"
    return html.escape(str(x))

def _name(x): # a class, folder or file name -> HTML
    "A name that others chose, as HTML: escaped, and kept apart where it is written from right to left"
    return f'<bdi>{_esc(x)}</bdi>'

def _code(text): # -> HTML
    "Lines to copy"
    return f'<pre><code>{_esc(text)}</code></pre>'

def html_table(
    head:list, # HTML of the column heads
    rows:list, # lists of HTML, the first of a row heads it
    kind:str='' # class for the style: 'numbers', 'matrix'
)->str: # HTML
    "A table that scrolls by itself where the screen is narrower"
    top = ''.join(f'<th scope="col">{h}</th>' if h else '<td></td>' for h in head)
    body = '\n'.join(f'<tr><th scope="row">{first}</th>' + ''.join(f'<td>{c}</td>' for c in rest) + '</tr>'
                     for first, *rest in rows)
    top = f'<thead><tr>{top}</tr></thead>' if any(head) else ''
    return f'<div class="wide"><table class="{kind}">{top}\n<tbody>{body}</tbody></table></div>'


def html_picture(
    image:torch.Tensor, # uint8 (C, H, W), C 1 or 3
    alt:str # what one sees
)->str: # HTML
    "An image inside the page"
    out = io.BytesIO()
    Image.fromarray(image.cpu().permute(1, 2, 0).squeeze(-1).numpy()).save(out, 'PNG')
    return _img(alt, 'png', out.getvalue())

def _img(alt, kind, data):
    return f'<img alt="{_esc(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


_ink, _colours = '#123456', ('#c97a12', '#3f7fe8', '#2f9e6e', '#b05cc6')
_look = {'svg.fonttype': 'none', 'svg.hashsalt': 'cnn_tricks', 'font.size': 10, 'axes.spines.top': False,
         'axes.spines.right': False, 'text.color': _ink, 'xtick.color': _ink, 'ytick.color': _ink,
         'axes.labelcolor': _ink, 'axes.edgecolor': _ink}
_inks = ':root{--ink:#1c2430}@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee}}'

def _svg(fig, alt): # matplotlib's figure -> HTML
    out = io.StringIO()
    fig.savefig(out, format='svg', transparent=True, metadata={'Date': None})
    svg = out.getvalue().replace(_ink, 'var(--ink)').replace("'DejaVu Sans'", 'system-ui')
    return _img(alt, 'svg+xml', svg.replace('<defs>', f'<style>{_inks}</style><defs>', 1).encode())

def line_chart(
    lines:dict, # label -> (x values, y values, matplotlib style)
    xlabel:str, # with its unit
    ylabel:str, # with its unit
    alt:str # what one sees, in words
)->str: # HTML
    "Lines over common axes, as SVG inside the page; its ink is dark or light as the reader has it"
    with rc_context(_look):
        fig = Figure((3.7, 2.7), layout='constrained')
        ax = fig.subplots()
        for label, (x, y, style) in lines.items(): ax.plot(x, y, label=label.replace('$', r'\$'), **style)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        ax.grid(alpha=0.25, lw=0.5)
        named = {t: h for h, t in zip(*ax.get_legend_handles_labels())}
        if len(named) > 1: fig.legend(named.values(), named, loc='outside upper left', ncols=3, frameon=False)
        return _svg(fig, alt)


_style = '''
:root{color-scheme:light dark;--bg:#f7f7f5;--card:#fff;--ink:#1c2430;--soft:#566272;--line:#dcdfe4;
--blue:63,127,232;--warm:201,122,18}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1a2029;--ink:#e6e9ee;--soft:#9aa6b5;--line:#2f3844}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,sans-serif;overflow-wrap:anywhere}
main{max-width:62rem;margin:auto;padding:1.5rem 1rem 4rem}
h1{font-size:clamp(1.5rem,5vw,2.3rem);line-height:1.2;margin:.2em 0}
h2{font-size:1.25rem;margin:0 0 .6em}h3{font-size:1rem;margin:1.2em 0 .3em}p,ul{margin:.4em 0}
.kind,.note,figcaption,.lead{color:var(--soft)}.lead{font-size:1.1rem}
.kind{letter-spacing:.06em;text-transform:uppercase;font-size:.8rem;margin:0}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1.1rem;margin-top:1.2rem}
.stopped{border-left:5px solid rgb(var(--warm))}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{padding:.3em .7em;text-align:left;border-bottom:1px solid var(--line);vertical-align:bottom}
tbody th{font-weight:400;white-space:pre-wrap}.numbers td,.numbers thead th{text-align:right;white-space:nowrap}
.numbers td:last-child{font-weight:600}.differs::before{content:"\\25cf  ";color:rgb(var(--warm))}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(17rem,100%),1fr));gap:1rem}
figure{margin:0}.charts img{width:100%;height:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:1rem;margin-top:1rem}
.tiles img{width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated;border-radius:6px;background:#8882}
.tiles figcaption{font-size:.85rem;line-height:1.35}.tiles b{color:var(--ink)}
.matrix td{padding:1px;text-align:center}.matrix th{white-space:nowrap;font-weight:400}
.matrix span[style]{display:block;min-width:2.4em;padding:.25em;border-radius:4px}
.right{background:rgba(var(--blue),calc(.08 + .6*var(--p)))}.wrong{background:rgba(var(--warm),calc(1.6*var(--p)))}
.up{writing-mode:vertical-rl;transform:rotate(180deg)}
pre{background:var(--bg);border:1px solid var(--line);border-radius:6px;padding:.7em;overflow-x:auto;font-size:.9rem}
'''


def html_page(
    title:str, # plain text, for the browser's tab
    headline:str, # HTML
    lead:str, # HTML of the line under it
    sections:list, # (HTML of the title, HTML) pairs
    note:str='' # HTML of a note before all sections
)->str: # a whole HTML page
    "A page for a browser or a phone: dark or light as the reader has it, no scripts, nothing loaded from elsewhere"
    note = f'<section class="stopped">{note}</section>' if note else ''
    body = '\n'.join(f'<section><h2>{t}</h2>\n{h}</section>' for t, h in sections)
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{_esc(title)}</title><style>{_style}</style></head>\n<body><main><p class="kind">cnn_tricks</p>'
            f'<h1>{headline}</h1><p class="lead">{lead}</p>{note}\n{body}</main></body></html>\n')
