"""Killed with `kill -9` in the middle of an epoch and resumed, a run ends with the weights of one that was never stopped:
for every registered trick, and for one with state of its own. And a trick needs no edit outside its module."""
import inspect, json, subprocess, sys, textwrap
from dataclasses import replace

import pytest
import torch
from common import run

from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.arm_names import refusal
from cnn_tricks.core.recipe import Recipe, tricks


def uneven():
    "96 images to train on, 100 to validate on; of the first class there are five times as many as of any other"
    data = embedded().subset(1000).subset(100, parts=('valid',))
    y = data.train.y
    return replace(data, train=data.train[torch.cat([(y == c).nonzero()[:33 if c == 0 else 7, 0] for c in range(10)])])


STEPS, PER_EPOCH, KILL_AT = 14, 6, 9  # three epochs, the last one short; killed in the middle of the second

# A trick with state that lives outside network and optimiser: an average of the weights, put in their place at the end.
TOY = '''
import torch
from fastai.callback.core import Callback
from cnn_tricks.core.recipe import Card, Trick, trick
from cnn_tricks.base.fields import bounded

class Average(Callback):
    def __init__(self, decay): self.decay, self.kept = decay, None
    def after_batch(self):
        if not self.training: return
        now = [p.detach().clone() for p in self.model.parameters()]
        self.kept = now if self.kept is None else [self.decay*k + (1 - self.decay)*p for k, p in zip(self.kept, now)]
    def after_fit(self):
        with torch.no_grad():
            for p, k in zip(self.model.parameters(), self.kept): p.copy_(k)
    def state_dict(self): return dict(kept=self.kept)
    def load_state_dict(self, state): self.kept = state['kept']

@trick('toy_average', Card(tldr='Averages the weights.', when='In this test.', when_not='Elsewhere.', cost='A copy.',
                           suggested='decay=0.9', sources=('none',)))
class ToyAverage(Trick):
    "Averages the weights over the steps"
    decay: float = bounded(0.9, ge=0, lt=1) # weight of what was kept
    def callbacks(self): return [Average(self.decay)]
'''

# Reads jobs from stdin and runs each in a fork of itself. A job trains; a job that is to be killed holds still at a given
# step, says so, and waits for the signal.
SERVER = TOY + '''
import json, os, signal, sys, time, warnings
warnings.simplefilter('ignore')
from cnn_tricks.data.datasets import embedded
from cnn_tricks.core.recipe import Recipe, tricks
from cnn_tricks.core.result import load_trained
from cnn_tricks.core.train import train
from dataclasses import replace
tricks.names()
torch.optim.Adam([torch.zeros(1)])
''' + inspect.getsource(uneven) + '''
DATA = uneven()

class Hold(Callback):
    order = 100
    def __init__(self, at, file): self.at, self.file = at, file
    def after_batch(self):
        if self.training and self.run_control.state.step == self.at:
            with open(self.file, 'w') as f: f.write('here')
            time.sleep(600)

def job(name, folder, hold=0, resume=False, every=1e9, tuned=False):
    base = Recipe(steps=STEPS, batch_size=16, optimizer='adamw', lr=3e-3, schedule='one_cycle')
    if tuned: base += tricks['fine_tune']()
    recipe = base + tricks[name]() if name else base.replace(network='resnet', network_args=dict(width=4))
    cbs = [Hold(hold, folder + '/at')] if hold else []
    r = train(recipe, DATA, 7, out=folder, resume=resume, checkpoint_every=every, progress=False, cbs=cbs)
    r.trained.save(folder)
    history = [{k: v for k, v in h.items() if k != 'seconds'} for h in r.history]
    with open(folder + '/record.json', 'w') as f: json.dump([r.losses, r.lrs, history, r.steps], f)

for line in sys.stdin:
    args = json.loads(line)
    pid = os.fork()
    if not pid:
        try:
            job(**args)
            os._exit(0)
        except BaseException as e:
            with open(args['folder'] + '/error.txt', 'w') as f: f.write(f'{type(e).__name__}: {e}')
            os._exit(1)
    if args.get('hold'):
        while not os.path.exists(args['folder'] + '/at') and not os.waitpid(pid, os.WNOHANG)[0]: time.sleep(.002)
        os.kill(pid, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
'''


@pytest.fixture(scope='module')
def train():
    "`train(name, folder, hold=..., resume=...)` in a process of its own -> its exit code, -9 where it was killed."
    numbers = f'STEPS, PER_EPOCH = {STEPS}, {PER_EPOCH}\n'
    with subprocess.Popen([sys.executable, '-c', numbers + SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        def call(name, folder, **kwargs):
            "Its exit code; an error stands in `error.txt`."
            folder.mkdir(exist_ok=True)
            p.stdin.write(json.dumps(dict(name=name, folder=str(folder), **kwargs)) + '\n')
            p.stdin.flush()
            return int(p.stdout.readline())
        yield call
        p.stdin.close()


def base_of(name):
    "(why the trick `name` cannot be tried here, '' if it can; does it need `fine_tune` in the recipe?)"
    found = []
    for base in (Recipe(), Recipe() + tricks['fine_tune']()):
        try: found.append(refusal(base + tricks[name](), uneven(), 'cpu'))
        except ValueError as e: found.append(str(e))
    return (found[0], False) if all(found) else ('', bool(found[0]))


def compare(straight, resumed):
    "Everything but the clock is the same, bit for bit."
    other = [n for n in ('model.safetensors', 'record.json') if (straight/n).read_bytes() != (resumed/n).read_bytes()]
    assert not other, f'{straight} and {resumed} differ in {other}'  # names alone: a diff of the bytes takes minutes


@pytest.mark.parametrize('name', [None, 'toy_average', *tricks.names()], ids=lambda n: n or 'no_trick')
def test_killed_and_resumed(train, tmp_path, name):
    why, tuned = base_of(name) if name in tricks else ('', False)
    if why: pytest.skip(f'{name}: {why}')
    straight, killed = tmp_path/'straight', tmp_path/'killed'
    assert train(name, straight, tuned=tuned) == 0
    assert train(name, killed, hold=KILL_AT, every=0, tuned=tuned) == -9
    assert (killed/'checkpoint.pt').exists() and not (killed/'model.safetensors').exists()
    assert step_of(killed) == KILL_AT - 1 and step_of(killed) % PER_EPOCH  # whole steps, in the middle of an epoch
    assert train(name, killed, resume=True, tuned=tuned) == 0
    compare(straight, killed)


def step_of(folder) -> int:
    "The step that the checkpoint in `folder` holds."
    return torch.load(folder/'checkpoint.pt', weights_only=True)['run']['step']


def test_killed_twice(train, tmp_path):
    "The second time in another epoch, by the second process."
    straight, killed = tmp_path/'straight', tmp_path/'killed'
    assert train('toy_average', straight) == 0
    assert train('toy_average', killed, hold=3, every=0) == -9
    (killed/'at').unlink()
    assert train('toy_average', killed, hold=10, every=0, resume=True) == -9 and step_of(killed) == 9
    assert train('toy_average', killed, resume=True) == 0
    compare(straight, killed)


def test_comparison_can_fail(train, tmp_path):
    "A checkpoint that lost the callback's state gives other weights, and the comparison sees it."
    straight, killed = tmp_path/'straight', tmp_path/'killed'
    assert train('toy_average', straight) == 0
    assert train('toy_average', killed, hold=KILL_AT, every=0) == -9
    checkpoint = torch.load(killed/'checkpoint.pt', weights_only=True)
    checkpoint['callbacks']['average']['kept'] = None
    torch.save(checkpoint, killed/'checkpoint.pt')
    assert train('toy_average', killed, resume=True) == 0
    with pytest.raises(AssertionError): compare(straight, killed)


def test_other_settings_are_not_resumed(train, tmp_path):
    folder = tmp_path/'run'
    assert train(None, folder, hold=KILL_AT, every=0) == -9
    assert train('toy_average', folder, resume=True) == 1
    assert 'cannot resume' in (folder/'error.txt').read_text() and 'network was' in (folder/'error.txt').read_text()
    (folder/'checkpoint.pt').write_bytes(b'half a file')
    assert train(None, folder, resume=True) == 1
    assert 'cannot be read as a checkpoint' in (folder/'error.txt').read_text()


def test_a_trick_is_one_module(tmp_path):
    "In one new module it reaches training, comparisons, JSON and the table, in a fresh process and with no edit elsewhere."
    (tmp_path/'toy.py').write_text('"A trick of one module"\n' + TOY)
    lesson = {'cells': [{'cell_type': 'markdown', 'source': '# Toy\n> It averages.'}]}
    (tmp_path/'99_toy.ipynb').write_text(json.dumps(lesson))
    code = textwrap.dedent(f'''
        import json, sys, warnings
        warnings.simplefilter('ignore')
        import cnn_tricks
        cnn_tricks.tricks.__path__.append({str(tmp_path)!r})
        from cnn_tricks.core.recipe import Recipe
        recipe = Recipe.from_json('{{"steps": 4, "batch_size": 16, "tricks": [{{"name": "toy_average", "decay": 0.5}}]}}')
        assert 'cnn_tricks.tricks.toy' in sys.modules
        from cnn_tricks.data.datasets import embedded
        from cnn_tricks.measure.compare import compare
        from cnn_tricks.course.tables import tricks_table
        from cnn_tricks.core.recipe import tricks
        from cnn_tricks.core.train import train
        data = embedded().subset(64).subset(50, parts=('valid',))
        result, plain = (train(r, data, progress=False) for r in (recipe, recipe.replace(tricks=())))
        differs = any((a != b).any() for a, b in zip(*(r.trained.model.parameters() for r in (result, plain))))
        c = compare(recipe.replace(tricks=()), tricks['toy_average'](), data, seeds=(0, 1), progress=False)
        rows = [r for r in tricks_table(tricks, folder={str(tmp_path)!r}).rows if r['name'] == 'toy_average']
        print()
        print(json.dumps([recipe == Recipe.from_json(recipe.to_json()), bool(differs), c.verdict, rows]))''')
    same, differs, verdict, rows = json.loads(run(sys.executable, '-c', code, cwd=tmp_path).splitlines()[-1])
    assert same and differs and verdict in ('helps', 'hurts', 'no difference beyond δ', 'undecided')
    assert len(rows) == 1 and rows[0]['tldr'] == 'Averages the weights.' and rows[0]['stem'] == '99_toy'
