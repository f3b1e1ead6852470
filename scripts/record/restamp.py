"""Stamp recorded runs anew after a change of code that changes no run: modules that moved, another rule of hashing.

    python scripts/record/restamp.py COMMIT [NAME ...]           # stamp all records (or those named) that were fresh at COMMIT
    python scripts/record/restamp.py COMMIT [NAME ...] --check   # write nothing; exit 1 if one was not

A record was fresh at COMMIT if each hash in its file was, by the rule of COMMIT, that of the module there. Then the code
that ran is the code of COMMIT, and the record gets the hashes of the present code. Whoever runs this says that the
runs would be the same today; a record that was stale at COMMIT is named and left as it is.
"""
import argparse, io, json, os, subprocess, sys, tarfile, tempfile, warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# in a process of its own, since the package of that commit is another: the hashes, there, of the modules named on stdin
THERE = 'import json, sys; from cnn_tricks.measure.records import code_hashes; ' \
        'print(json.dumps({k: code_hashes(set(v)) for k, v in json.load(sys.stdin).items()}))'


def stamp(d) -> dict:
    "The hashes that the file of a record or of an audit holds: module -> hash."
    return (d['about'] if 'about' in d else d)['code']


def hashes_at(commit, stamps) -> dict:
    "Name of a record -> the hashes that its modules had at `commit`."
    tar = subprocess.run(['git', 'archive', commit, 'cnn_tricks'], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        tarfile.open(fileobj=io.BytesIO(tar)).extractall(folder, filter='data')
        r = subprocess.run([sys.executable, '-W', 'ignore', '-c', THERE], cwd=folder, input=json.dumps(stamps), text=True,
                           env={**os.environ, 'PYTHONPATH': folder}, check=True, stdout=subprocess.PIPE)
    return json.loads(r.stdout.splitlines()[-1])


def hashes_now(path) -> dict:
    "What the record would hold, were it made by the present code."
    from cnn_tricks.studies.audit_result import Audit
    from cnn_tricks.measure.records import code_hashes, modules_used, recorded
    d = json.loads(path.read_text(encoding='utf-8'))
    result = {a.name: a for a in Audit.from_dict(d).arms} if 'about' in d else recorded(path.stem, path.parent).result
    try: used = modules_used(result)
    except ValueError: used = set(stamp(d))  # the script of the record registers something of its own: a network, say
    return code_hashes(used)


def still_called_stale(names, notebooks=ROOT/'nbs') -> list:
    "Notebooks whose saved outputs call one of the records `names` stale, though it is fresh."
    said = [f' {name}` again.' for name in names]
    return [p for p in sorted(notebooks.glob('*.ipynb'))
            if any('**Stale:**' in line and any(s in line for s in said)
                   for line in p.read_text(encoding='utf-8').splitlines())]


def main(args=None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('commit', help='where the records were fresh')
    p.add_argument('names', nargs='*', help='records; without: all')
    p.add_argument('--check', action='store_true', help='write nothing, exit 1 if a record was not fresh at COMMIT')
    p.add_argument('--folder', type=Path, default=ROOT/'results'/'records', help='where the records are')
    a = p.parse_args(args)
    found = {}
    for path in sorted(a.folder.glob('*.json')):
        d = json.loads(path.read_text(encoding='utf-8'))
        if not a.names or path.stem in a.names:
            if 'code' in d or 'code' in d.get('about', {}): found[path.stem] = d
    missing = set(a.names) - set(found)
    if missing: p.error(f'no records: {", ".join(sorted(missing))}')
    then = hashes_at(a.commit, {name: stamp(d) for name, d in found.items()})
    changed = {n: [m for m, h in stamp(d).items() if then[n].get(m) != h] for n, d in found.items()}
    for name, modules in changed.items():
        if modules: print(f'{name}: stale at {a.commit} ({", ".join(modules)})')
    fresh, written = [n for n, modules in changed.items() if not modules], 0
    for name in fresh if not a.check else ():
        path, code = a.folder/f'{name}.json', hashes_now(a.folder/f'{name}.json')
        if code == stamp(found[name]): continue
        end = '\n'*path.read_text(encoding='utf-8').endswith('\n')
        stamp(found[name]).clear()
        stamp(found[name]).update(code)
        path.write_text(json.dumps(found[name], indent=1) + end, encoding='utf-8')
        written += 1
    print(f'{len(fresh)} of {len(found)} records were fresh at {a.commit}' + f'; {written} stamped anew'*(not a.check))
    for nb in still_called_stale(fresh): print(f'{nb.name} calls a fresh record stale; run save_outputs.py on it')
    return int(a.check and len(fresh) < len(found))


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    sys.exit(main())
