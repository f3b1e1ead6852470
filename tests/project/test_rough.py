"Training made rougher (tests/offline/rough.py), and the script that finds with it what training decides."
import json, sys, tempfile
from pathlib import Path

import find_training_outputs as finder  # on the path through the top conftest.py
import pytest
from common import ROOT, run
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

TRAIN = '''
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
x, y = torch.randn(64, 64), torch.arange(64) % 4
opt = torch.optim.Adam(net.parameters(), 0.01)
for _ in range(30):
    nn.functional.cross_entropy(net(x), y).backward()
    opt.step()
    opt.zero_grad()
'''.strip()
SHOW = "print([p.double().abs().sum().item() for p in net.parameters()])"


def trained(rough): return json.loads(run(sys.executable, '-c', f'{TRAIN}\n{SHOW}', env=dict(CNN_TRICKS_ROUGH=rough)))


def test_rougher_training_is_repeatable_and_differs():
    plain, one, again, two = map(trained, ('', '0.001:1', '0.001:1', '0.001:2'))
    assert one == again and one != plain and two not in (one, plain)
    assert one == pytest.approx(plain, rel=0.1)  # it is the same training, roughly


def test_arithmetic_stays_exact():
    "A step on a few numbers, as lessons take it by hand, is not rougher."
    code = 'import torch\nw = torch.nn.Parameter(torch.tensor([3.]))\nw.grad = torch.tensor([1.])\n'
    code += 'torch.optim.SGD([w], lr=0.5).step()\nprint(w.item(), w.grad.item())'
    assert run(sys.executable, '-c', code, env=dict(CNN_TRICKS_ROUGH='0.1:1')) == '2.5 1.0\n'


def test_finder():
    "It lists the number that training decides and the assertion without a margin, and nothing else."
    number = '[round(p.double().abs().sum().item(), 6) for p in net.parameters()]'
    saved = run(sys.executable, '-c', f'{TRAIN}\nprint({number})').strip()
    out = lambda text: [new_output('execute_result', {'text/plain': text}, execution_count=1)]
    cells = [
        new_code_cell(TRAIN), new_markdown_cell('What it shows:'),
        new_code_cell(number, outputs=out(saved)),
        new_code_cell(number, outputs=out(saved), metadata=dict(tags=['nbval-ignore-output'])),
        new_code_cell('len(list(net.parameters()))', outputs=out('4')),
        new_code_cell(f'assert {number} == {saved}'),
        new_code_cell(f'assert torch.allclose(torch.tensor({number}), torch.tensor({saved}), rtol=1e-7)')]
    (ROOT/'.pytest_cache').mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT/'.pytest_cache') as folder:  # where the top conftest.py is in force
        write(new_notebook(cells=cells), path := Path(folder)/'00_toy.ipynb')
        found = list(finder.find(path, 1e-3, [1, 2]))
    assert [(seed, n, what) for seed, n, _, what, _ in found] == [
        (s, n, what) for s in (1, 2) for n, what in ((1, 'output'), (4, 'assertion'), (5, 'exact'))]
    assert all(cell == cells[n + (n > 0)].id for _, n, cell, *_ in found)
    assert all('AssertionError' in text for *_, what, text in found if what != 'output')
