"""Build the site in a copy of the project, without Quarto: nbdev's own processing, then smalldocs in Quarto's place.

    python tests/build_site.py FOLDER      # the site is then in FOLDER/_proc/_docs
"""
import base64, io, os, re, sys
from pathlib import Path

from PIL import Image

from common import copy_project, run

STEPS = """
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
refresh_quarto_yml()
proc_nbs(n_workers=1)
"""


def sized(match) -> str:
    "A picture in a page with the size that Quarto gives it: with 192 dots an inch it is shown with half of its pixels."
    image = Image.open(io.BytesIO(base64.b64decode(match[1])))
    width, height = (n//2 for n in image.size)
    twice = [round(d) for d in image.info.get('dpi', ())] == [192, 192]
    return match[0] + f' width="{width}" height="{height}"'*twice


def set_sizes(site):
    for page in site.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        page.write_text(re.sub(r'src="data:image/png;base64,([^"]+)"', sized, text), encoding='utf-8')


def build(folder) -> Path:
    "Copy the project to `folder` and build its site there; the folder of the pages."
    copy_project(folder)
    # the copy's package, not the clone's
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get('PYTHONPATH')]))
    run(sys.executable, '-c', STEPS, cwd=folder, env=dict(PYTHONPATH=path))
    run(sys.executable, '-m', 'smalldocs.cli', 'render', '_proc', cwd=folder)
    site = folder/'_proc'/'_docs'
    set_sizes(site)
    for css in (site/'site_libs'/'themes').glob('*.css'):  # what `$web-font-path: false` says to Quarto
        text = re.sub(r'@import url\(https://fonts[^)]*\);?', '', css.read_text(encoding='utf-8'))
        css.write_text(text, encoding='utf-8')
    return site


if __name__ == '__main__': print(build(Path(sys.argv[1]).resolve()))
