"""What `autotune` is worth: images a second of training after it, against the machine's defaults.

    python scripts/bench/autotune.py                                       # all: about 12 minutes on 2 quiet cores
    python scripts/bench/autotune.py --network resnet --batch 64           # one case; the others' figures are kept
    python scripts/bench/autotune.py --settings                            # single settings, explained in lesson 12

Each figure comes from a process of its own, which sees no OMP_* and MALLOC_* variable. The processes of one turn are
forked from one that has imported and not computed; the next turn starts anew, since the state of the heap after the
imports, which differs from start to start, decides how many page faults the default has. Three arms run in turns: the
default (plain PyTorch), `autotune(learn)`, and `autotune(learn, process=True)`, which may set threads and allocator.
Training itself is then timed with fastai's `Learner` on the embedded images, without validation: 4 seconds of it, since
the first dozen steps after a change of memory still touch new pages. Reports the medians of the ratios of the pairs.
Bars: with `process=True` at least 1.5 at batch 1024 and 1.2 at batch 64; never below 0.97.
Let nothing else run beside it.
"""
import argparse, json, os, subprocess, sys, tempfile, time, warnings
from datetime import date
from pathlib import Path
from statistics import median

warnings.filterwarnings('ignore')
ROOT = Path(__file__).resolve().parents[2]
BARS = {1024: 1.5, 64: 1.2}  # with process=True
FLOOR = 0.97
ARMS = {'default': None, 'autotune': False, 'autotune, process': True}
# name -> environment of a fresh process, and what is set in it
SETTINGS = {
    'as it comes': ({}, {}), 'channels_last': ({}, dict(channels_last=True)), 'memory keep': ({}, dict(memory='keep')),
    'channels_last, memory keep': ({}, dict(channels_last=True, memory='keep')),
    'channels_last, memory huge': ({}, dict(channels_last=True, memory='huge')),
    'one thread': ({}, dict(threads=1)), 'threads that sleep': ({'OMP_WAIT_POLICY': 'PASSIVE'}, {}),
    'compiled': ({}, dict(compile=True))}


def clean_environment(**more):
    "This process's environment without what would change threads or memory"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'MALLOC_', 'GOMP_', 'KMP_', 'MKL_', 'GLIBC_'))}
    return kept | more


def child(job):
    "In a fresh process: tune as the job says, train for some seconds, say what came out"
    import torch
    from fastai.callback.core import Callback, CancelFitException
    from cnn_tricks.tools.memory_allocator import page_faults, set_memory
    from cnn_tricks.measure.machine_counters import peak_bytes
    from cnn_tricks.data.datasets import embedded
    from cnn_tricks.tricks.hardware import lay_out
    from cnn_tricks.core.recipe import Recipe
    from cnn_tricks.core.train import learner

    class Clock(Callback):
        "Seconds of each step after the first three; ends the fit"
        def before_fit(self): self.marks, self.faults = [], 0
        def after_batch(self):
            self.marks.append(time.perf_counter())
            if len(self.marks) == 3: self.faults = page_faults()
            if len(self.marks) > 8 and self.marks[-1] - self.marks[3] > job['seconds']: raise CancelFitException

    data = embedded()
    learn = learner(Recipe(network=job['network'], batch_size=job['batch']), data, device='cpu')
    learn.dls.loaders[1] = learn.dls.valid.new(data.valid[:0])  # nothing to validate on
    out = {}
    if job.get('process') is not None:
        from cnn_tricks.tools.autotune import autotune
        tuned = autotune(learn, job['tune_seconds'], process=job['process'])
        out = dict(chosen=str(tuned.chosen), tuned_seconds=round(tuned.seconds, 2))
    if job.get('threads'): torch.set_num_threads(job['threads'])
    if job.get('memory'): set_memory(job['memory'])
    lay_out(learn, True) if job.get('channels_last') else None
    if job.get('compile'):
        os.environ['TORCHINDUCTOR_CACHE_DIR'] = tempfile.mkdtemp()  # nothing compiled before is used again
        learn.model.forward = torch.compile(learn.model.forward, dynamic=False)
    clock, start = Clock(), time.perf_counter()
    with learn.no_bar(), learn.no_logging(): learn.fit(1000, cbs=clock)
    steps = sorted(b - a for a, b in zip(clock.marks[3:], clock.marks[4:]))
    n = len(clock.marks)
    print(json.dumps(out | dict(
        images_per_second=round((n - 4)*job['batch']/(clock.marks[-1] - clock.marks[3]), 1), step_seconds=median(steps),
        first_step_seconds=clock.marks[0] - start, faults_per_step=round((page_faults() - clock.faults)/(n - 3)),
        peak_mib=round((peak_bytes() or 0)/2**20))))


def serve():
    "Do each job from stdin in a fork of this process, which has imported all that is needed and computed nothing"
    import torch, fastai.learner, cnn_tricks.tools.autotune, cnn_tricks.data.datasets, cnn_tricks.core.train  # noqa
    for line in sys.stdin:
        sys.stdout.flush()
        if not (pid := os.fork()):
            try: child(json.loads(line))
            except BaseException as e: print(json.dumps(dict(error=f'{type(e).__name__}: {e}')))
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)


class Fresh:
    "Fresh processes: forks of one that only imported, so that the imports are paid for once until `end`"
    servers = {}

    def __call__(self, job, env=None):
        "What `child` says of the job"
        key = json.dumps(env or {})
        if key not in self.servers:
            self.servers[key] = subprocess.Popen([sys.executable, __file__, '--serve'], stdin=subprocess.PIPE, text=True,
                                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=1,
                                                 env=clean_environment(**env or {}))
        server = self.servers[key]
        print(json.dumps(job), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        said = json.loads(answer) if answer else dict(error='no answer')
        if 'error' in said: raise RuntimeError(f'{job} failed: {said["error"]}')
        return said

    def end(self):
        for server in self.servers.values():
            server.stdin.close()
            server.wait()
        self.servers.clear()


run = Fresh()


def case(network, batch, pairs, seconds, tune_seconds):
    "All arms in turns; the order changes from turn to turn"
    turns = []
    for i in range(pairs):
        arms = list(ARMS)[::1 if i % 2 == 0 else -1]
        turn = {a: run(dict(network=network, batch=batch, process=ARMS[a], seconds=seconds,
                            tune_seconds=tune_seconds)) for a in arms}
        turns.append({a: turn[a] for a in ARMS})
        run.end()
        print(f'  turn {i + 1}: ' + '; '.join(f"{a} {t['images_per_second']:,.0f}/s {t.get('chosen', '')}"
                                              for a, t in turns[-1].items()), flush=True)
    speed = {a: [t[a]['images_per_second']/t['default']['images_per_second'] for t in turns] for a in list(ARMS)[1:]}
    row = dict(network=network, batch=batch, speed={a: round(median(r), 3) for a, r in speed.items()},
               ratios={a: [round(v, 3) for v in r] for a, r in speed.items()},
               images_per_second={a: median(t[a]['images_per_second'] for t in turns) for a in ARMS},
               bar=BARS.get(batch), floor=FLOOR, turns=turns)
    row['reached'] = row['speed']['autotune, process'] >= BARS.get(batch, 1) and min(row['speed'].values()) >= FLOOR
    print(f"{network}, batch {batch}: " + '; '.join(f'{a} {v:.2f} times' for a, v in row['speed'].items())
          + f" (bar {BARS.get(batch)}, never below {FLOOR}): {'reached' if row['reached'] else 'NOT reached'}", flush=True)
    return row


def settings(network, batch, seconds, names):
    "Each single setting once, in a fresh process; compiled for a network once, since it takes long"
    rows = []
    for name in names:
        env, what = SETTINGS[name]
        try: said = run(dict(network=network, batch=batch, seconds=seconds, **what), env)
        except RuntimeError as e:  # compiling needs a C++ compiler
            print(f'{network}, batch {batch}, {name}: left out, {e}', flush=True)
            continue
        rows.append(dict(network=network, batch=batch, setting=name, **said))
        print(f"{network}, batch {batch}, {name}: {rows[-1]['images_per_second']:,.0f}/s, "
              f"{rows[-1]['faults_per_step']:,} page faults a step, "
              f"first step {rows[-1]['first_step_seconds']:.1f} s", flush=True)
    return rows


def merged(old, new, keys):
    "Rows of an earlier call that this one did not measure, and the new ones, in order"
    key = lambda r: tuple(r[k] for k in keys)
    return sorted({key(r): r for r in old + new}.values(), key=key)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--network', nargs='+', default=['article', 'resnet'])
    p.add_argument('--batch', type=int, nargs='+', default=[64, 1024])
    p.add_argument('--pairs', type=int, default=5)
    p.add_argument('--seconds', type=float, default=4., help='of training that are timed, in each process')
    p.add_argument('--tune-seconds', type=float, default=10., help='given to autotune')
    p.add_argument('--settings', nargs='*', choices=SETTINGS, help='these single settings instead; none named: all')
    p.add_argument('--out', type=Path, default=ROOT/'results'/'bench'/'autotune.json')
    p.add_argument('--serve', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.serve: return serve()
    kept = json.loads(a.out.read_text(encoding='utf-8')) if a.out.exists() else {}
    cases, single = kept.get('cases', []), kept.get('settings', [])
    for network in a.network:
        for batch in a.batch:
            if a.settings is None:
                row = case(network, batch, a.pairs, a.seconds, a.tune_seconds)
                cases = merged(cases, [row], ('network', 'batch'))
            else:
                rows = settings(network, batch, a.seconds, a.settings or SETTINGS)
                single = merged(single, rows, ('network', 'batch', 'setting'))
            save(a, cases, single)
    run.end()


def save(a, cases, single):
    import torch
    from cnn_tricks.base.machine import machine
    about = dict(date=date.today().isoformat(), machine=vars(machine()), torch=torch.__version__.split('+')[0],
                 cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
                 made_by='python scripts/bench/autotune.py')
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_text(json.dumps(dict(cases=cases, settings=single, **about), indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
