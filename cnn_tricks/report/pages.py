"""Pages made from Jinja2 templates: one HTML file with everything inside, and whatever is written into it escaped"""
import base64
import io
from functools import cache

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

__all__ = ['percent_text', 'seconds_text', 'png_uri', 'render']


def percent_text(
    x:float # a fraction in [0, 1], or None
)->str: # `90.5 %`, or a dash where there is none
    "A fraction as text"
    return '–' if x is None or x != x else f'{100*x:.1f} %'


def seconds_text(
    s:float # or None
)->str: # `1.8`, `1,234`, or a dash where there are none
    "Seconds as text"
    return '–' if s is None else f'{s:.1f}' if s < 100 else f'{s:,.0f}'


def png_uri(
    image:torch.Tensor # uint8 (C, H, W), C 1 or 3
)->str: # for the `src` of an `img`
    "An image as an address that holds the image itself"
    out = io.BytesIO()
    Image.fromarray(image.cpu().permute(1, 2, 0).squeeze(-1).numpy()).save(out, 'PNG')
    return f'data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}'


@cache
def _environment():
    "Templates that escape what they are given, and refuse a name that they are not given"
    e = Environment(loader=PackageLoader('cnn_tricks.report'), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                    undefined=StrictUndefined)
    e.filters |= dict(percent=percent_text, seconds=seconds_text, png=png_uri, thousands='{:,}'.format)
    return e


def render(
    template:str, # a file in `templates`
    **values # what it shows
)->str: # the page
    "A page from a template; raises `jinja2.TemplateNotFound` and `jinja2.UndefinedError`"
    return _environment().get_template(template).render(**values)
