"Notebooks, modules and README in step: none of the tools that write them would change anything."
import difflib, sys

from common import BIN, ROOT, copy_project, run


def files_of(folder) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*'))
            if p.is_file() and not {'__pycache__', '.last_checked'} & set(p.parts)}


def differences(before, after) -> list:
    "One readable line or diff for each file that differs."
    found = [f'{n}: not there before' for n in after.keys() - before] + [f'{n}: gone' for n in before.keys() - after]
    for n in before.keys() & after:
        if before[n] == after[n]: continue
        old, new = (x.decode('utf-8', 'replace').splitlines() for x in (before[n], after[n]))
        found.append('\n'.join(list(difflib.unified_diff(old, new, n, 'fresh', n=1, lineterm=''))[:40]))
    return found


def test_export_and_clean_change_nothing(tmp_path):
    project = copy_project(tmp_path/'project')
    before = files_of(project)
    for command in 'nbdev-export', 'nbdev-clean': run(BIN/command, cwd=project)
    wrong = differences(before, files_of(project))
    assert not wrong, 'run nbdev-export and nbdev-clean; edit notebooks, never modules\n' + '\n'.join(wrong)


def test_readme_is_in_step():
    run(sys.executable, ROOT/'scripts'/'build'/'make_readme.py', '--check')


def test_readme_has_the_two_commands():
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    test = "pip install -e '.[dev]' && python scripts/test.py\n"
    main = "&& cd cnn_tricks && python -m venv .venv && . .venv/bin/activate && " \
           "pip install -e '.[course]' && cnn_tricks train\n"
    assert readme.count(main) == readme.count(test) == 1
    assert test in (ROOT/'.ci'/'run').read_text(encoding='utf-8')
