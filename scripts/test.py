"""Run all tests: those in tests/, and every notebook through nbval.

    python scripts/test.py                            # everything
    python scripts/test.py --quick                    # the notebooks alone, through nbdev-test
    python scripts/test.py tests/test_package.py -x   # what follows goes to pytest

Two tests at a time, one thread each; a notebook's cells stay together. Exits with 0 only if something ran and all of
it passed.
"""
import os, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(args) -> int:
    "Start the tests with `args`; their exit code."
    # Threads of two processes that wait for each other by spinning make a step many times slower: one each, passive.
    os.environ.update(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE')
    if '--quick' in args:
        command = [shutil.which('nbdev-test', path=Path(sys.executable).parent) or 'nbdev-test', '--n-workers', '2']
        args = [a for a in args if a != '--quick']
    else: command = [sys.executable, '-m', 'pytest', '-n', '2', '--dist', 'loadfile']
    return subprocess.run([*command, *args], cwd=ROOT, stdin=subprocess.DEVNULL).returncode


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
