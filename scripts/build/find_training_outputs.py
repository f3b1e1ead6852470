"""Find the cells of notebooks whose outputs and assertions depend on how training went.

    python scripts/build/find_training_outputs.py nbs/33_stopping.ipynb [more.ipynb ...] [--seeds 1 2] [--eps 0.001]

Runs each notebook through nbval with rougher gradients (tests/offline/rough.py), once for each seed, and lists the
cells that fail then:

- output: what it shows differs from what is saved, and it has no tag nbval-ignore-output
- assertion: what it says about training does not hold; it needs a margin
- exact: it compares within rounding (allclose and the like); often a step written by hand, which is not rougher,
  with the library's: look before you change it

What the cells below a failed one say may come from the failure. Exits with 1 if it lists anything.
"""
import argparse, json, os, re, subprocess, sys, tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXACT = re.compile(r'allclose|torch\.equal|test_close|isclose|approx|state_dict')


def run(path, rough, folder) -> dict:
    "Code cell number -> what nbval says of it, for the cells that fail with CNN_TRICKS_ROUGH=`rough`."
    report = Path(folder)/'report.xml'
    command = [sys.executable, '-m', 'pytest', '-q', '--color=no', '-p', 'no:cacheprovider', '-o', 'timeout=900',
               '--tb=short', f'--junitxml={report}', str(path)]
    env = os.environ | dict(CNN_TRICKS_ROUGH=rough)
    done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, encoding='utf-8')
    if done.returncode not in (0, 1): sys.exit(f'{" ".join(command)}\n{done.stdout}{done.stderr}')
    cells = {c.get('name'): c.find('failure') for c in ET.parse(report).iter('testcase')}
    return {int(name.split()[-1]): strip(bad.text or bad.get('message')) for name, bad in cells.items()
            if bad is not None}


def strip(text): return re.sub(r'#x1B\[[0-9;]*m|\x1b\[[0-9;]*m', '', text)


def kind(source, said) -> str:
    "`output`, `assertion` or `exact`, from the cell's source and what nbval says of it."
    if 'outputs differ' in said: return 'output'
    return 'exact' if EXACT.search(source) else 'assertion'


def shorten(said) -> str:
    "The lines that matter: the two texts that differ, or the error."
    if 'outputs differ' in said: lines = said.split('Traceback:')[-1].splitlines()[:14]
    else: lines = [l for l in said.splitlines() if re.match(r'---->|\w*(Error|Exception)\b', l)]
    return '\n'.join(f'    {l[:160]}' for l in lines if l.strip())


def find(path, eps, seeds):
    "Yield (seed, cell number, id, kind, text) for the cells of the notebook at `path` that fail."
    code = [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder: bad = run(path, f'{eps}:{seed}', folder)
        for n, said in bad.items(): yield seed, n, code[n]['id'], kind(''.join(code[n]['source']), said), shorten(said)


def main(args) -> int:
    "List what is found; how many cells."
    found = 0
    for path in map(Path, args.notebooks):
        for seed, n, cell, what, text in find(path.resolve(), args.eps, args.seeds):
            found += 1
            print(f'{path.name} cell {n} (id {cell}), seed {seed}: {what}\n{text}', flush=True)
    return int(found > 0)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='+', metavar='NB')
    parser.add_argument('--eps', type=float, default=1e-3, help='how much rougher (default: 0.001)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1], help='which ways (default: 1)')
    sys.exit(main(parser.parse_args()))
