"""The race: seconds of training to a stated accuracy, this package's recipes against published ones, in one run.

    python scripts/bench/race.py --dry-run                     # arms, seeds, hours
    python scripts/bench/race.py                               # all of it, into results/bench/race.json; resumable
    python scripts/bench/race.py --data fashion --hours 2      # what two hours are enough for, then the table
    python scripts/bench/race.py --table                       # the table of what there is
    python scripts/bench/race.py --held-out                    # judge on 5,000 training images: to choose recipes by
    python scripts/bench/race.py --data fashion cifar10 --device cuda --dtype float16   # the same race on a GPU

Every run stands in the file under its arm and seed as soon as it is done; a run that is there is not made again, and
all arms take turns, seed by seed. A slow arm is timed for one epoch five times and run whole with one seed. The test
images (or the held-out ones) are looked at after each epoch of a rival and at the end of a recipe, outside the clock.
'Reached' is the shortest of a recipe's schedules, planned below, whose mean over the seeds meets the target. CIFAR-10
comes from torchvision's files, or with `--cifar FOLDER` from class folders. Let nothing else run beside it.
"""
import argparse, json, math, time, warnings
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import mean, median

warnings.filterwarnings('ignore')
import torch

from cnn_tricks.base.files import atomic_write
from cnn_tricks.base.machine import default_device, machine
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.core.result import build_network
from cnn_tricks.core.train import train
from cnn_tricks.data.datasets import cifar10, fashion_mnist
from cnn_tricks.data.image_folder import read_folder
from cnn_tricks.measure.statistics import paired_t
from cnn_tricks.nets.layer_costs import count_macs
from cnn_tricks.tools.memory_allocator import kept_memory
from cnn_tricks.tricks.hardware import measured_peak
import rivals
from step_profile import best_speed

ROOT = Path(__file__).resolve().parents[2]
SEEDS, EPOCH_TIMES, HELD_OUT = 5, 5, 5000
DTYPES = {n: getattr(torch, n) for n in ('float32', 'bfloat16', 'float16')}


@dataclass
class Arm:
    "One way to train on one data set, at one length"
    data: str
    family: str  # arms of one family differ in their length alone
    epochs: float
    fn: object  # function of (run, data, seed) for a rival; a `Recipe` for ours
    args: dict = field(default_factory=dict)
    slow: bool = False  # one seed whole, and five times one epoch
    rival: bool = False  # its accuracy is a target

    @property
    def name(self): return f'{self.data}, {self.family}, {self.epochs:g} epochs'


def ours(data, family, epochs, **fields):
    "The arms of a recipe at several lengths"
    return [Arm(data, family, e, recipes['fast'].replace(epochs=e, **fields)) for e in epochs]


def small(width): return dict(network='plain', network_args={'widths': [width*2**i for i in range(3)]})


def bench(data, width, epochs):
    "Candidates: airbench94's network and training in another width and length; whitening, light augmentation, average"
    return [Arm(data, f'airbench, width {width}', e, rivals.airbench, {'width': width}) for e in epochs]


ARMS = [
    Arm('fashion', 'the article', 10, rivals.article, rival=True),
    Arm('fashion', 'fast.ai', 5, rivals.fastai, slow=True, rival=True),
    Arm('fashion', "fast.ai, this package's machine settings", 5, rivals.fastai, {'tuned': True}, slow=True, rival=True),
    *ours('fashion', 'fast', (1, 2, 3, 5)),
    *ours('fashion', 'fast, widths 32, 64', (1, 2, 3), network_args={'widths': [32, 64]}),
    *ours('fashion', 'fast, widths 32, 64, 128', (2, 3, 4, 6, 9), **small(32)),
    *ours('fashion', 'fast, widths 32, 64, 128, Muon', (2, 3, 4), optimizer='muon', lr=0.01, **small(32)),
    *bench('fashion', 8, (2, 3, 4)), *bench('fashion', 16, (4, 6, 9.9)), *bench('fashion', 32, (9.9, 16)),
    Arm('cifar10', 'airbench94', 9.9, rivals.airbench, slow=True, rival=True),
    *bench('cifar10', 32, (9.9, 16)),
]
TARGETS = {'fashion': (0.94, 0.95), 'cifar10': (0.94,)}


def load(name, a):
    "The images: all official training images to train on, or all but the held-out ones; and those to be judged on"
    valid = HELD_OUT if not a.images else a.images//5
    if name == 'fashion': data = fashion_mnist(valid=HELD_OUT)
    elif a.cifar:
        data = read_folder(a.cifar, size=32)
        data = data.split(min(HELD_OUT, (len(data.train) + len(data.valid))//5))
    else: data = cifar10(valid=HELD_OUT)
    if a.images: data = data.subset(a.images).subset(valid, parts=('valid', 'test'))
    if a.held_out: return data, data.valid
    return type(data)(data.train.join(data.valid), data.valid[:0], data.test, data.classes, data.name), data.test


def one_run(arm, data, judged, seed, kind, a):
    "What is recorded of a run; `kind`: 'whole', or 'epoch' for the first epoch of the schedule"
    peak = measured_peak(0.3, device=a.device)
    only = 1 if kind == 'epoch' else None
    if isinstance(arm.fn, Recipe):
        with kept_memory(): res = train(arm.fn, type(data)(data.train, data.valid[:0], judged, data.classes, data.name), seed,
                    progress=False, device=a.device)
        return dict(seconds=res.seconds, steps=res.steps, history=[[arm.epochs, res.seconds, res.test()]], peak=peak)
    run = rivals.Run(judged, arm.epochs, a.device, DTYPES[a.dtype], only)
    arm.fn(run, data, seed, **arm.args)
    return dict(seconds=run.seconds, steps=run.steps, history=run.history, peak=peak)


def jobs(arms, seeds):
    "(arm, seed, kind) of all runs, in turns over the arms"
    turns = [[(arm, s, 'whole') for arm in arms if not arm.slow or s == 0] for s in range(seeds)]
    timed = [[(arm, s, 'epoch') for arm in arms if arm.slow] for s in range(EPOCH_TIMES)]
    for i in range(max(len(turns), len(timed))):
        yield from (turns[i] if i < len(turns) else []) + (timed[i] if i < len(timed) else [])


def key(arm, seed, kind): return f'{arm.name} | seed {seed} | {kind}'


def best(run):
    "(accuracy, seconds until then) of the best epoch"
    epoch = max(run['history'], key=lambda h: h[2])
    return epoch[2], epoch[1]


def found(arm, runs):
    "What is known of an arm: its accuracies and seconds by seed; None where nothing is"
    whole = [r for k, r in runs.items() if k.startswith(arm.name + ' |') and k.endswith('whole')]
    if not whole: return None
    pairs = [best(r) if arm.rival and not arm.slow else (r['history'][-1][2], r['seconds']) for r in whole]
    accuracy, seconds = map(list, zip(*pairs))
    epochs = [r['seconds'] for k, r in runs.items() if k.startswith(arm.name + ' |') and k.endswith('epoch')]
    if epochs: seconds = [median(epochs)*arm.epochs]
    return dict(accuracy=mean(accuracy), accuracies=accuracy, seconds=median(seconds), seeds=len(whole))


def reached(arms, runs, target, seeds):
    "For each family the shortest arm whose mean over all seeds meets the target: (arm, what is known of it)"
    out = {}
    for arm in sorted(arms, key=lambda x: x.epochs):
        known = found(arm, runs)
        if known and known['seeds'] >= seeds and known['accuracy'] >= target: out.setdefault(arm.family, (arm, known))
    return sorted(out.values(), key=lambda v: v[1]['seconds'])


def interval(accuracies, images):
    if len(accuracies) < 2: return 'one seed'
    low, high = paired_t(accuracies, 1/images)[1:3]
    return f'{100*low:.2f} to {100*high:.2f}'


def table(arms, kept, seeds):
    "Lines: what each arm gave, and for each target who reached it first"
    runs = kept['runs']
    for name in dict.fromkeys(arm.data for arm in arms):
        here = [arm for arm in arms if arm.data == name]
        yield f'\n{name}\n\n| arm | seeds | accuracy, % | 95% interval | seconds of training |\n|---|---|---|---|---|'
        for arm in here:
            if known := found(arm, runs):
                yield (f"| {arm.family}, {arm.epochs:g} epochs | {known['seeds']} | {100*known['accuracy']:.2f} | "
                       f"{interval(known['accuracies'], kept['judged'][name])} | {known['seconds']:.1f} |")
        rivals_known = [(f'{arm.family}, {100*k["accuracy"]:.2f}%', k['accuracy'], k['seconds'])
                        for arm in here if arm.rival and (k := found(arm, runs))]
        targets = rivals_known + [(f'{t:.0%}', t, None) for t in TARGETS[name]]
        yield '\n| target | reached first by | seconds | times sooner |\n|---|---|---|---|'
        for label, accuracy, seconds in targets:
            first = next(iter(reached([arm for arm in here if not arm.rival], runs, accuracy, seeds)), None)
            if not first: yield f'| {label} | nobody | | |'
            else:
                arm, known = first
                sooner = f"{seconds/known['seconds']:.1f}" if seconds else ''
                yield f"| {label} | {arm.family}, {arm.epochs:g} epochs | {known['seconds']:.1f} | {sooner} |"


def estimate(arm, data, kind, peak):
    "Seconds of a run at a third of the peak: three times the forward operations"
    if isinstance(arm.fn, Recipe): net = build_network(arm.fn, data.channels, data.n_classes, data.size)
    elif arm.fn is rivals.article: net = build_network(Recipe(), data.channels, data.n_classes, data.size)
    elif arm.fn is rivals.fastai: net = rivals.fastai_net(data.channels, data.n_classes)
    else: net = rivals.airbench_net(data.channels, data.n_classes, arm.args.get('width', 64))
    epochs = 1 if kind == 'epoch' else arm.epochs
    return 6*count_macs(net, (data.channels, *data.size))*len(data.train)*epochs/(peak/3)


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', nargs='+', choices=TARGETS, default=['fashion'])
    p.add_argument('--arms', nargs='+', default=[''], help='only arms whose name has one of these texts in it')
    p.add_argument('--seeds', type=int, default=SEEDS)
    p.add_argument('--hours', type=float, default=math.inf, help='begin no run after so long')
    p.add_argument('--held-out', action='store_true', help='judge on training images that are held out')
    p.add_argument('--cifar', type=Path, help="a folder with CIFAR-10's class folders in train and test")
    p.add_argument('--images', type=int, help='train on so few: to try the script')
    p.add_argument('--device', default=str(default_device()))
    p.add_argument('--dtype', choices=DTYPES, default='float32', help="of airbench94's network")
    p.add_argument('--dry-run', action='store_true', help='print arms, seeds and hours')
    p.add_argument('--table', action='store_true', help='print the table of what there is')
    p.add_argument('--out', type=Path)
    a = p.parse_args(args)
    a.out = a.out or ROOT/'results'/'bench'/f"race{'_held_out' if a.held_out else ''}.json"
    arms = [arm for arm in ARMS if arm.data in a.data and any(text in arm.name for text in a.arms)]
    if not arms: p.error(f'--arms: none of these is part of a name; names: {"; ".join(arm.name for arm in ARMS)}')
    kept = json.loads(a.out.read_text(encoding='utf-8')) if a.out.exists() else dict(runs={}, judged={})
    if a.table: return print(*table(arms, kept, a.seeds), sep='\n')
    loaded = {name: load(name, a) for name in a.data}
    todo = [j for j in jobs(arms, a.seeds) if key(*j) not in kept['runs']]
    if a.dry_run: return dry_run(arms, todo, loaded, a)
    race(todo, loaded, kept, a)
    print(*table(arms, kept, a.seeds), sep='\n')


def dry_run(arms, todo, loaded, a):
    "Print each arm with its seeds and its hours, and the sum"
    # processor time counts each thread's, and other programs' not at all
    quiet = a.device == 'cpu'
    peak = best_speed(time.process_time)*torch.get_num_threads() if quiet else measured_peak(0.5, device=a.device)
    total = 0.
    for arm in arms:
        own = [kind for other, _, kind in todo if other is arm]
        hours = sum(estimate(arm, loaded[arm.data][0], kind, peak) for kind in own)/3600
        total += hours
        what = f"{own.count('whole')} whole" + f", {own.count('epoch')} of one epoch"*('epoch' in own)
        print(f'{arm.name}: {what}; about {hours:.2f} hours')
    print(f'{len(todo)} runs to do, about {total:.1f} hours at a third of {peak/1e9:.0f} GFLOP/s, the peak'
          + ' of this many threads on a quiet machine'*quiet)


def race(todo, loaded, kept, a):
    "Make the runs that are missing, and save each at once"
    begun = time.monotonic()
    about = dict(date=date.today().isoformat(), machine=vars(machine(a.device)), torch=torch.__version__.split('+')[0],
                 threads=torch.get_num_threads(), dtype=a.dtype, held_out=a.held_out)
    for n, (arm, seed, kind) in enumerate(todo):
        if (spent := time.monotonic() - begun) > 3600*a.hours: return print(f'{len(todo) - n} runs left for another time')
        data, judged = loaded[arm.data]
        kept['judged'][arm.data] = len(judged)
        run = one_run(arm, data, judged, seed, kind, a)
        kept['runs'][key(arm, seed, kind)] = run
        kept['about'] = about
        a.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(a.out) as f: f.write((json.dumps(kept, indent=1) + '\n').encode())
        left = (time.monotonic() - begun)/(n + 1)*(len(todo) - n - 1)
        print(f"{n + 1}/{len(todo)} {key(arm, seed, kind)}: {run['seconds']:.1f} s, {100*run['history'][-1][2]:.2f}%; "
              f'{spent/60:.0f} min so far, about {left/60:.0f} to come', flush=True)


if __name__ == '__main__': main()
