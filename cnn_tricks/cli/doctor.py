"""`cnn_tricks doctor`: versions, the machine, how busy it is, and what a training step takes on it"""
import os
import platform
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.table import Table

from .. import __version__
from ..base.machine import default_device, finish_work, machine
from ..core.recipe import Recipe
from ..core.train import learner
from ..data.datasets import embedded
from ..data.cache import cache_dir
from ..nets.networks import networks
from ..tools.autotune import autotune
from .console import console
from .wait_policy import busy_cores, busy_line

__all__ = ['versions', 'cache_state', 'settings', 'measure_steps', 'fastest', 'tuned_settings', 'diagnosis',
           'show_diagnosis']


def _ranges():
    "Package -> the range of versions that cnn_tricks declares, from its metadata"
    try: about = metadata('cnn_tricks')
    except PackageNotFoundError: return {}
    needs = [Requirement(r) for r in about.get_all('Requires-Dist') or []]
    wanted = {r.name: r.specifier for r in needs if not r.marker}
    return wanted | {'python': SpecifierSet(about['Requires-Python'] or '')}


def versions()->list: # a dict each: `name`, `version`, `wanted`, `ok`
    "What is installed, and whether it lies in the range that cnn_tricks declares"
    ranges, found = _ranges(), {'cnn_tricks': __version__, 'python': platform.python_version()}
    for name in ('torch', 'torchvision', 'fastai', 'accelerate'):
        try: found[name] = version(name)
        except PackageNotFoundError: found[name] = None
    return [dict(name=n, version=v, wanted=str(ranges.get(n, '')), ok=v is not None and
                 (n not in ranges or ranges[n].contains(v.split('+')[0], prereleases=True))) for n, v in found.items()]


def cache_state()->dict: # `folder`, and `error`: the system's reason, or nothing
    "The cache folder, and why it cannot be written, if so; tried, since permissions do not tell all"
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir()) as f: f.write(b'.')
    except OSError as e: return dict(folder=str(cache_dir()), error=e.strerror)
    return dict(folder=str(cache_dir()), error='')


def settings(
    device:str # 'cpu', 'cuda', 'mps'
)->dict: # name -> (channels_last?, dtype of autocast or None); the first is what the others are held against
    """What `measure_steps` times. bfloat16 is PyTorch's own `autocast`, on the processor as on a GPU: fastai's
    `to_bf16` asks for a GPU and would quietly train in float32."""
    out = {'float32': (False, None), 'channels_last': (True, None), 'bfloat16': (False, torch.bfloat16),
           'bfloat16, channels_last': (True, torch.bfloat16)}
    if device == 'mps': return {k: v for k, v in out.items() if v[1] is None}
    return out | ({'float16, channels_last': (True, torch.float16)} if device == 'cuda' else {})


def _stepper(network, channels_last, dtype, device, batch_size):
    "A function that does one training step: forward under autocast, loss in float32, backward, Adam"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, y = torch.randn(batch_size, 1, 28, 28), torch.randint(10, (batch_size,))
    net = networks[network](1, 10, (28, 28)).to(device, memory_format=layout)
    x, y, opt = x.to(device, memory_format=layout), y.to(device), torch.optim.Adam(net.parameters())
    def step():
        with torch.autocast(device, dtype) if dtype else nullcontext(): out = net(x)
        opt.zero_grad()
        torch.nn.functional.cross_entropy(out.float(), y).backward()
        opt.step()
    return step


def _time(step, n, device):
    "Seconds of `n` steps"
    finish_work(device)
    start = time.perf_counter()
    for _ in range(n): step()
    finish_work(device)
    return (time.perf_counter() - start)/n


def measure_steps(
    device:str=None, # 'cpu', 'cuda', 'mps'; None: the default
    seconds:float=3., # about how long to measure
    batch_size:int=64 # images in a step, of 28 x 28 pixels
)->list: # a dict each: `network`, `setting`, `milliseconds` of a step, `speed` (1: as fast as plain float32)
    "Training steps under each setting, in turns so that a busy moment hits all of them; medians"
    device, rows = device or default_device(), []
    for network in ('article', 'resnet'):
        steps = {k: _stepper(network, *v, device, batch_size) for k, v in settings(device).items()}
        for step in steps.values(): _time(step, 2, device)  # the first steps set things up
        n = max(1, round(seconds/2/5/sum(_time(step, 1, device) for step in steps.values())))
        turns = [{k: _time(step, n, device) for k, step in steps.items()} for _ in range(5)]
        ms = {k: 1000*statistics.median(t[k] for t in turns) for k in steps}
        rows += [dict(network=network, setting=k, milliseconds=round(v, 3), speed=round(ms['float32']/v, 2))
                 for k, v in ms.items()]
    return rows


def fastest(
    rows:list, # of `measure_steps`
    margin:float=1.05 # what is not faster by this factor counts as equal
)->dict: # network -> setting
    "The fastest setting for each network; plain float32 where nothing is clearly faster"
    best = {}
    for r in rows:
        if r['setting'] == 'float32' or r['speed'] > max(margin, best[r['network']]['speed']): best[r['network']] = r
    return {network: r['setting'] for network, r in best.items()}


def tuned_settings(
    device:str=None, # 'cpu', 'cuda', 'mps'; None: the default
    seconds:float=7., # about how long to measure
    batch_size:int=64 # images in a step
)->list: # a dict each: `network`, `batch_size`, `chosen`, `speed` (1: as fast as it comes), `milliseconds`
    "The settings that `autotune` would choose for two networks, threads and allocator included; nothing stays set"
    rows = []
    for network in ('article', 'resnet'):
        learn = learner(Recipe(network=network, batch_size=batch_size), embedded(), device=device or default_device())
        t = autotune(learn, seconds/2, process=True, apply=False)
        chosen = str(t.chosen) if t.chosen != t.base else 'as it comes'
        rows.append(dict(network=network, batch_size=batch_size, chosen=chosen, speed=round(t.speed, 2),
                         milliseconds=round(1000*t.found.median(t.chosen), 3)))  # type: ignore[arg-type]
    return rows


def _tuned_line(t):
    "A row of `tuned_settings` as a line"
    return (f"autotune, {t['network']}: {t['chosen']} ({t['milliseconds']:.1f} ms a step of {t['batch_size']} images, "
            f"{t['speed']:.2f} x)")


_fp16 = 'float16 autocast is not tried on a processor: where we tried, it was 50 to 100 times slower than float32'


def diagnosis(
    measure:bool=True # time training steps, too?
)->dict: # plain values: what is installed, the machine, how busy it is, `problems`, and what was measured
    "What this machine has, and what trains fastest on it"
    about, busy = machine(), busy_cores(0.5)  # before this process works itself
    out: dict = dict(versions=versions(), machine=asdict(about), cache=cache_state(), busy=round(busy, 2),
                     load=round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None)
    bad = [v for v in out['versions'] if not v['ok']]
    out['problems'] = [f'{v["name"]} {v["version"] or "is missing"}: cnn_tricks wants {v["wanted"]}' for v in bad]
    if out['cache']['error']: out['problems'].append('{folder} cannot be written: {error}'.format(**out['cache']))
    if not measure: return out
    with torch.random.fork_rng(): rows = measure_steps(about.device)
    tuned = tuned_settings(about.device)
    return out | dict(steps=rows, fastest=fastest(rows), tuned=tuned, notes=[_fp16] if about.device == 'cpu' else [])


def _grid(head, rows):
    t = Table(box=None, pad_edge=False, header_style='bold', show_header=any(head))
    for i, h in enumerate(head): t.add_column(h, justify='right' if i and head[0] else None)
    for r in rows: t.add_row(*map(str, r))
    return t


def _steps_table(steps, networks):
    names = list(dict.fromkeys(r['setting'] for r in steps))
    def line(network):
        mine = {r['setting']: r for r in steps if r['network'] == network}
        return [network, f'{mine["float32"]["milliseconds"]:.1f} ms', *(f'{mine[n]["speed"]:.2f} x' for n in names[1:])]
    return _grid(['network', *names], [line(n) for n in networks])


def show_diagnosis(
    found:dict # of `diagnosis`
):
    "Print it"
    say, m = console().print, found['machine']
    say(_grid(['', '', ''], [(v['name'], v['version'] or 'missing', v['wanted'] and f'({v["wanted"]})')
                             for v in found['versions']]))
    busy = '' if found['load'] is None else f'; load {found["load"]}'
    say(f'\n{m["name"]}: {m["cores"]} cores, {m["threads"]} threads, {m["memory_gb"]:g} GiB, {m["system"]}{busy}\n'
        f'{busy_line(found["busy"], m["cores"])}\ntrains on: {m["device"]}\n'
        f'cache: {found["cache"]["folder"].replace(str(Path.home()), "~")}')
    if 'steps' in found:
        say('\nA training step of 64 images of 28 x 28 pixels: float32, and how many times as fast the others are')
        say(_steps_table(found['steps'], found['fastest']))
        for network, setting in found['fastest'].items(): say(f'fastest for {network}: {setting}')
    for t in found.get('tuned', []): say(_tuned_line(t))
    for text in found.get('notes', []) + [f'problem: {p}' for p in found['problems']]: say(text)
    if not found['problems']: say('no problem found')
