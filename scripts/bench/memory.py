"""What a step takes under each setting of the memory allocator, by batch size: processor time and page faults.

    python scripts/bench/memory.py          # into results/bench/memory.json: about 3 minutes

Settings take turns within one process. Nothing that is computed changes. Memory that was given back to the system is
cleared by it before it is given again; the larger the batch, the more of it there is, and the more that costs.
"""
import argparse, json, time, warnings
from datetime import date
from pathlib import Path
from statistics import median

warnings.filterwarnings('ignore')
import torch

from cnn_tricks.base.machine import machine
from cnn_tricks.data.datasets import embedded
from cnn_tricks.tools.memory_allocator import memory_settings, page_faults, set_memory
from step_profile import CASES, plain

ROOT = Path(__file__).resolve().parents[2]


def case(name, batch_size, data, turns, steps):
    "A row: milliseconds of processor time and page faults of a step under each setting"
    recipe, took = CASES[name].replace(batch_size=batch_size), {how: [] for how in memory_settings()}
    for _ in range(turns):
        for how in took:
            set_memory(how)
            before = page_faults()
            seconds = sum(plain(recipe, data, steps, time.process_time).values())
            took[how].append((1000*seconds, (page_faults() - before)//steps))
    set_memory('default')
    ms, faults = ({how: median(v[i] for v in t) for how, t in took.items()} for i in (0, 1))
    faster = {how: median(a[0]/b[0] for a, b in zip(took['default'], took[how])) for how in took}
    print(f'{name}, batch {batch_size}: ' + '; '.join(
        f'{how} {ms[how]:.1f} ms, {faults[how]:,.0f} faults, {faster[how]:.2f} times as fast' for how in took), flush=True)
    return dict(recipe=name, batch_size=batch_size, ms=ms, faults=faults, times_as_fast=faster)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--recipe', nargs='+', choices=CASES, default=list(CASES))
    p.add_argument('--batch', type=int, nargs='+', default=[64, 256, 1024])
    p.add_argument('--turns', type=int, default=3)
    p.add_argument('--steps', type=int, default=8, help='in a turn')
    p.add_argument('--out', type=Path, default=ROOT/'results'/'bench'/'memory.json')
    a = p.parse_args()
    data = embedded()
    rows = [case(name, b, data, a.turns, min(a.steps, len(data.train)//b)) for name in a.recipe for b in a.batch]
    about = dict(date=date.today().isoformat(), machine=vars(machine('cpu')), torch=torch.__version__.split('+')[0],
                 threads=torch.get_num_threads(), turns=a.turns)
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text(json.dumps(dict(rows=rows, **about), indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
