"""Run all tests: those in tests/, and every notebook through nbval.

    python scripts/test.py                            # everything
    python scripts/test.py --quick                    # the notebooks alone, through nbdev-test
    python scripts/test.py --processor sse41          # the notebooks, as another processor would compute them
    python scripts/test.py --processor other          # the same, with the fastest setting that changes anything here
    python scripts/test.py --busy                     # everything, beside a process that spins on each core
    python scripts/test.py tests/project/test_package.py -x   # what follows goes to pytest

Two tests at a time, one thread each; a notebook's cells stay together. Exits with 0 only if something ran and all of
it passed.

The same convolution rounds differently on another processor, with another number of threads and in another version of
torch, and after 60 steps of training accuracies differ by some tenths of a point. `--processor` sets what makes torch
round as elsewhere. A setting can be without effect on some processor, so 60 steps are trained with and without it
first: where the weights are equal, nothing would be tested, and the script says so and fails.
"""
import argparse, os, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROCESSORS = {  # the fastest first
    'onednn_avx2': dict(ONEDNN_MAX_CPU_ISA='AVX2'),
    'avx2': dict(ATEN_CPU_CAPABILITY='avx2'),
    'threads': dict(OMP_NUM_THREADS='2'),
    'sse41': dict(ATEN_CPU_CAPABILITY='default', ONEDNN_MAX_CPU_ISA='SSE41', MKL_CBWR='COMPATIBLE')}
# Threads of two processes that wait for each other by spinning make a step many times slower: one each, passive.
PLAIN = dict(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE')
TRAIN = '''
import hashlib, torch
from cnn_tricks.data.datasets import embedded
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.train import train
net = train(Recipe(steps=60), embedded().subset(2000), seed=0, progress=False).trained.model
print(hashlib.blake2b(b''.join(p.detach().numpy().tobytes() for p in net.parameters())).hexdigest())
'''


def weights_after_60_steps(setting) -> str:
    "A hash of the weights that 60 steps of training give under the environment `setting`."
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', TRAIN], env={**os.environ, **PLAIN, **setting},
                       cwd=ROOT/'tests', stdout=subprocess.PIPE, text=True, check=True)
    return r.stdout.split()[-1]


def other_processor(name) -> dict:
    "The environment that makes torch compute as processor `name` does; exits where that changes no weight here."
    here = weights_after_60_steps({})
    tried = list(PROCESSORS) if name == 'other' else [name]
    for t in tried:
        if weights_after_60_steps(PROCESSORS[t]) != here:
            print(f'processor {t!r}: after 60 steps the weights differ from those of this processor', flush=True)
            return PROCESSORS[t]
    sys.exit(f'processor {" and ".join(map(repr, tried))}: 60 steps give the same weights as without the setting, '
             'so nothing would be tested; choose another: ' + ', '.join(PROCESSORS))


def command_of(args, rest, setting) -> list:
    "What to run: `rest` goes to pytest, which without it takes the notebooks of another processor, or everything."
    if args.quick: return [shutil.which('nbdev-test', path=Path(sys.executable).parent) or 'nbdev-test', '--n-workers', '2']
    workers = 2 // int(setting.get('OMP_NUM_THREADS', 1))
    if setting and not any((ROOT/a.split('::')[0]).exists() for a in rest): rest = ['nbs', *rest]
    return [sys.executable, '-m', 'pytest', '-n', str(workers), '--dist', 'loadfile', *rest]


def main(argv) -> int:
    "Start the tests; their exit code."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument('--quick', action='store_true', help='the notebooks alone, through nbdev-test')
    parser.add_argument('--processor', choices=[*PROCESSORS, 'other'], help='compute as another processor does')
    parser.add_argument('--busy', action='store_true', help='beside a process that spins on each core')
    args, rest = parser.parse_known_args(argv)
    setting = other_processor(args.processor) if args.processor else {}
    os.environ.update(PLAIN | setting)
    spin = [sys.executable, '-c', 'while True: pass']
    spinning = [subprocess.Popen(spin) for _ in range(os.cpu_count() if args.busy else 0)]
    try: return subprocess.run(command_of(args, rest, setting), cwd=ROOT, stdin=subprocess.DEVNULL).returncode
    finally:
        for p in spinning: p.kill()


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
