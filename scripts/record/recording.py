"""What the scripts that make recorded runs share: their command line, and what they print of each result."""
import argparse, time
from pathlib import Path

from cnn_tricks.measure.records import record

ROOT = Path(__file__).resolve().parents[2]


def say(result, indent='  '):
    "Arms, comparisons, ledgers, or a dict of them: a few lines each, with what a reader of the record must know."
    if isinstance(result, dict):
        for key, r in result.items():
            print(f'{indent}{key}:')
            say(r, indent + '  ')
        return
    if hasattr(result, 'runs'): return print(f'{indent}mean {result.mean:.4f}, spread {result.sd:.4f}, {len(result)} seeds')
    for line in repr(result).splitlines(): print(indent + line)
    pairs = getattr(result, 'comparisons', [result])
    for arm in (pairs[0].base, *(c.trick for c in pairs)):
        for note in arm.notes(): print(f'{indent}  {note}')


def main(script, about, records, prepare):
    """Make the records that the command line names, each written as soon as it is done.

    `script`: its `__file__`; `about`: its `__doc__`; `records`: name -> function that makes the result, called with what
    `prepare(quick)` gives, a tuple.
    """
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=f'any of {", ".join(records)}; none: all')
    p.add_argument('--quick', action='store_true', help='small and short, for a try; writes elsewhere')
    p.add_argument('--folder', type=Path, help='where to write; default: results/records/, with --quick build/quick/')
    a = p.parse_args()
    if unknown := set(a.names) - set(records): p.error(f'unknown: {", ".join(sorted(unknown))}')
    folder, given = a.folder or ROOT/('build/quick' if a.quick else 'results/records'), prepare(a.quick)
    for name in a.names or records:
        start = time.perf_counter()
        result = records[name](*given)
        path = record(name, result, folder, made_by=f'python scripts/record/{Path(script).name} {name}')
        print(f'{path}: {time.perf_counter() - start:.0f} s')
        say(result)
        print(end='', flush=True)
