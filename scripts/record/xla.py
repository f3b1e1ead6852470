"""Train through torch_xla on the processor, beside the same training without it, and count what is compiled and read.

    python -m venv xla && xla/bin/pip install torch==2.9.1 torchvision==0.24.1 torch_xla==2.9.0   # 7 GB: CUDA's libraries
    xla/bin/pip install .
    xla/bin/python scripts/record/xla.py            # into results/bench/xla.json: about 3 minutes on a quiet core
    python scripts/record/xla.py jax                # five shapes, with jax (`pip install jax`), into the same file

torch_xla 2.9.0 is its newest release and fits torch 2.9 alone, so it wants an environment of its own, as above (`.` is
this package). There is no TPU here: `PJRT_DEVICE=CPU` has the same compiler compile for the processor. Seconds are
noted and say nothing of a TPU.
"""
import argparse, json, os, re, subprocess, sys, tempfile, time, warnings
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.update(PJRT_DEVICE='CPU', JAX_PLATFORMS='cpu')
warnings.filterwarnings('ignore')

import torch
import torch.nn.functional as F

from cnn_tricks.base.files import atomic_write
from cnn_tricks.base.machine import machine
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.run_control import Interrupted
from cnn_tricks.core.train import train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.nets.networks import networks

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {
    'resnet': Recipe(network='resnet', network_args=dict(width=8), steps=60, optimizer='sgd', lr=0.05),
    'article': Recipe(steps=60), # with dropout, whose masks the device draws by itself
}
SIZES = 64, 48, 40, 33, 20
GROUP = """
import sys
if 'late' in sys.argv: import accelerate
from cnn_tricks.distributed.process_group import process_group
try:
    with process_group(cpu=True) as (rank, size): print(f'\\nsaid: rank {rank} of {size}', flush=True)
except RuntimeError as e: print(f'\\nsaid: refused: {e}', flush=True)
"""
ALONE = "from accelerate import PartialState; s = PartialState(cpu=True); print(f'\\nsaid: {s.device}, {s.num_processes} processes')"


def counted(work):
    "-> what `work()` returns, and how often XLA compiled, ran a program, and gave numbers back"
    import torch_xla.debug.metrics as met
    met.clear_all()
    out = work()
    count = lambda name: (met.metric_data(name) or (0,))[0]
    return out, {'compiles': count('CompileTime'), 'programs run': count('ExecuteTime'),
                 'reads': count('TransferFromDeviceTime')}


def trained(recipe, data, device):
    start = time.perf_counter()
    r = train(recipe, data, 0, progress=False, device=torch.device(device))
    return {'losses': r.losses, 'history': r.history, 'seconds': time.perf_counter() - start}


def steps(batches, reads=False):
    "Plain training steps of the article's network, without dropout, on batches of these sizes"
    import torch_xla
    torch.manual_seed(0)
    device, net = torch_xla.device(), networks['article'](1, 10, 28).eval()
    net = net.to(device)
    opt = torch.optim.SGD(net.parameters(), 0.01)

    def run(sizes):
        for n in sizes:
            x, y = torch.rand(n, 1, 28, 28).to(device), (torch.arange(n) % 10).to(device)
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            if reads: loss.item()
            torch_xla.sync()

    run([64, 64])
    return counted(lambda: run(batches))[1]


def processes(source, *args, env=None):
    "-> the lines that two processes print"
    code = ROOT/'build'/'xla_group.py'
    code.parent.mkdir(exist_ok=True)
    code.write_text(source)
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2', '--master-port', '29577',
                           str(code), *args], env=os.environ | (env or {}), capture_output=True, encoding='utf-8', timeout=1200)
    return sorted(re.findall('said: (.*)', done.stdout))


def resumed(recipe, data):
    "-> the largest difference of a loss to the whole run's, after a stop in the middle"
    from fastai.callback.core import Callback

    class Stop(Callback):
        order = 90
        def after_batch(self): self.run_control.state.stop |= self.run_control.state.step == 13
    how = dict(progress=False, device=torch.device('xla'))
    recipe = recipe.replace(steps=25)
    whole = train(recipe, data, 0, **how)
    with tempfile.TemporaryDirectory() as folder:
        try: train(recipe, data, 0, out=folder, cbs=[Stop()], **how)
        except Interrupted: pass
        rest = train(recipe, data, 0, out=folder, resume=True, **how)
    return max(abs(a - b) for a, b in zip(whole.losses, rest.losses, strict=True))


def with_xla(save, names):
    import torch_xla
    torch.ones(1, device=torch_xla.device())  # before any gradient on the processor
    data = embedded().subset(1000, seed=0).subset(500, seed=0, parts=('valid',))
    def both(recipe):
        on = {'xla': dict(zip(('run', 'counts'), counted(lambda: trained(recipe, data, 'xla'))))}
        on['cpu'] = {'run': trained(recipe, data, 'cpu')}
        return on | {'gap': abs(on['xla']['run']['losses'][-1] - on['cpu']['run']['losses'][-1])}
    five = (*SIZES[1:], 16)
    parts = {name: partial(both, recipe) for name, recipe in RECIPES.items()} | {
        'one size': lambda: steps([64]*20), 'five sizes': lambda: steps(five),
        'the same five, twice': lambda: steps(five*2), 'read each step': lambda: steps([64]*20, reads=True),
        'two processes': lambda: processes(GROUP),
        'two processes, accelerate imported before': lambda: processes(GROUP, 'late'),
        'two processes, accelerate alone': lambda: processes(ALONE),
        'resumed': lambda: resumed(RECIPES['article'], data)}
    if unknown := set(names) - set(parts): sys.exit(f'unknown: {", ".join(unknown)}; one of: {"; ".join(parts)}')
    versions = {'versions': {n: version(n) for n in ('torch', 'torch_xla', 'accelerate')}}
    for name in names or parts:
        save({name: (value := parts[name]())} | versions)
        print(name, json.dumps(value)[-300:], flush=True)


def with_jax(save, names):
    import jax
    import jax.numpy as jnp
    traced = []

    @jax.jit
    def step(w, x):
        traced.append(x.shape)  # Python runs this when the function is traced, which is when it is compiled
        return w - 0.1*jax.grad(lambda w: jnp.square(x @ w).mean())(w)

    w, counts = jnp.ones((784, 10)), {}
    for name, sizes in (('first', SIZES), ('again', SIZES)):
        start, before = time.perf_counter(), len(traced)
        for n in sizes: step(w, jnp.ones((n, 784))).block_until_ready()
        counts[name] = {'compiles': len(traced) - before, 'seconds': time.perf_counter() - start}
    save({'sizes': SIZES, 'versions': {'jax': version('jax')}} | counts)
    print(counts)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', nargs='?', default='torch_xla', choices=('torch_xla', 'jax'), help='default: %(default)s')
    p.add_argument('--only', nargs='+', default=(), metavar='NAME', help='parts of torch_xla: any of those it prints')
    p.add_argument('--out', type=Path, default=ROOT/'results'/'bench'/'xla.json')
    a = p.parse_args()
    if find_spec(a.what) is None: sys.exit(f'{a.what} is not installed in this environment: see --help for what it wants')
    kept = json.loads(a.out.read_text(encoding='utf-8')) if a.out.exists() else {}

    def save(part):
        kept[a.what] = kept.get(a.what, {}) | part | {'date': time.strftime('%Y-%m-%d'), 'machine': vars(machine('cpu'))}
        a.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(a.out) as f: f.write(json.dumps(dict(sorted(kept.items())), indent=1).encode() + b'\n')

    {'torch_xla': with_xla, 'jax': with_jax}[a.what](save, a.only)


if __name__ == '__main__': main()
