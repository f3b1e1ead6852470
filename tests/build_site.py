"""Build the site in a copy of the project, without Quarto: nbdev's own processing, then smalldocs in Quarto's place.

    python tests/build_site.py FOLDER      # the site is then in FOLDER/_proc/_docs
"""
import json, os, re, sys
from pathlib import Path

from common import copy_project, run

STEPS = """
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
refresh_quarto_yml()
proc_nbs(n_workers=1)
"""


def sizes(proc) -> dict:
    "The size with which each figure in the notebooks of `proc` is shown, by its data: what Quarto reads, too."
    notebooks = [json.loads(p.read_text(encoding='utf-8')) for p in proc.rglob('*.ipynb')]
    outputs = [o for nb in notebooks for c in nb['cells'] for o in c.get('outputs', ())]
    return {''.join(o['data']['image/png']).strip(): s for o in outputs if (s := o.get('metadata', {}).get('image/png'))}


def set_sizes(site):
    "Write those sizes into the pages of `site`, as Quarto does."
    found = sizes(site.parent)
    def sized(match):
        size = found.get(match[1])
        return match[0] + (f' width="{size["width"]}" height="{size["height"]}"' if size else '')
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
