"What several test files use."
import os, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent  # where the commands of this environment are


def run(*command, cwd=None, env=None, code=0, timeout=900) -> str:
    "The stdout of `command`; fails, showing all it said, unless it exits with `code`."
    r = subprocess.run([str(c) for c in command], cwd=cwd, env={**os.environ, **(env or {})}, timeout=timeout,
                       encoding='utf-8', stdin=subprocess.DEVNULL, capture_output=True)
    assert r.returncode == code, f'{command} exited with {r.returncode}\n{r.stdout}\n{r.stderr}'
    return r.stdout


def copy_project(folder) -> Path:
    "The project as git would commit it now, without the history."
    names = run('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', cwd=ROOT).split('\0')
    for name in filter(None, names):
        if not (ROOT/name).exists(): continue
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/name, folder/name, follow_symlinks=False)
    return folder
