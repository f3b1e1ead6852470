"The folders of the package import each other as pyproject.toml says, and no folder is without a word on what it is for."
import ast, shutil

from common import BIN, ROOT, run

FOLDERS = sorted(p for p in (ROOT/'cnn_tricks').iterdir() if p.is_dir() and list(p.glob('*.py')))


def test_import_contracts():
    out = run(BIN/'lint-imports', '--no-cache', cwd=ROOT, env={'PYTHONPATH': str(ROOT)})
    assert '0 broken' in out and 'KEPT' in out


def test_a_contract_can_break(tmp_path):
    "Registries that import training: named, with the line."
    shutil.copy(ROOT/'pyproject.toml', tmp_path)
    shutil.copytree(ROOT/'cnn_tricks', tmp_path/'cnn_tricks', ignore=shutil.ignore_patterns('embedded', '__pycache__'))
    with (tmp_path/'cnn_tricks'/'base'/'registry.py').open('a') as f: f.write('\ndef f(): from ..core.train import train\n')
    out = run(BIN/'lint-imports', '--no-cache', cwd=tmp_path, env={'PYTHONPATH': str(tmp_path)}, code=1)
    assert 'cnn_tricks.base.registry -> cnn_tricks.core.train (l.' in out and '1 broken' in out


def test_every_folder_says_what_it_is_for():
    for folder in FOLDERS:
        said = ast.get_docstring(ast.parse((folder/'__init__.py').read_text(encoding='utf-8')))
        assert said and len(said.splitlines()) == 1 and len(said) > 20, folder.name


def test_every_module_says_what_it_is_for():
    "In its first line, in words of its own."
    modules = [p for p in (ROOT/'cnn_tricks').rglob('*.py') if p.name not in ('__init__.py', '_modidx.py')]
    said = {p: (ast.get_docstring(ast.parse(p.read_text(encoding='utf-8'))) or '').partition('\n')[0] for p in modules}
    assert not [str(p.relative_to(ROOT)) for p, s in said.items() if not 20 < len(s) <= 120]
    assert len(set(said.values())) == len(said)
