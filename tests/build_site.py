"""Build the site in a copy of the project, without Quarto: nbdev's own processing, then smalldocs in Quarto's place.

    python tests/build_site.py FOLDER      # the site is then in FOLDER/_proc/_docs
"""
import os, re, sys
from pathlib import Path

from common import copy_project, run

STEPS = """
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
refresh_quarto_yml()
proc_nbs(n_workers=1)
"""


def build(folder) -> Path:
    "Copy the project to `folder` and build its site there; the folder of the pages."
    copy_project(folder)
    # the copy's package, not the clone's
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get('PYTHONPATH')]))
    run(sys.executable, '-c', STEPS, cwd=folder, env=dict(PYTHONPATH=path))
    run(sys.executable, '-m', 'smalldocs.cli', 'render', '_proc', cwd=folder)
    site = folder/'_proc'/'_docs'
    for css in (site/'site_libs'/'themes').glob('*.css'):  # what `$web-font-path: false` says to Quarto
        text = re.sub(r'@import url\(https://fonts[^)]*\);?', '', css.read_text(encoding='utf-8'))
        css.write_text(text, encoding='utf-8')
    return site


if __name__ == '__main__': print(build(Path(sys.argv[1]).resolve()))
