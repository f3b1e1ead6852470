"The rule that refuses a tag nbval-ignore-output without a reason (form_training.py)."
from types import SimpleNamespace

import pytest
from form import Cell
from form_training import training_outputs

TAG = dict(tags=['nbval-ignore-output'])


def refused(*sources):
    "What the rule says of a notebook with these code cells, of which the last is tagged."
    cells = [dict(cell_type='code', source=s, id=f'c{i}', metadata=TAG if s is sources[-1] else {}, outputs=[])
             for i, s in enumerate(sources)]
    return list(training_outputs(SimpleNamespace(code=[Cell(i, c) for i, c in enumerate(cells)])))


WITH_REASON = [
    ['run = train(recipe, data)', 'run.accuracy'],
    ['kept = [train(r, data) for r in recipes]', 'best = max(kept)', 'best'],
    ['def shifted(r): return train(r, data).losses', 'both = {n: shifted(r) for n, r in todo.items()}', 'both["a"]'],
    ['net = plain()', 'def right(x): return net(x)', 'fit(net)', 'right(images)'],  # the function sees what net is now
    ['net = plain()\nopt = SGD(net.parameters())', 'for x in batches: opt.step()', 'net(images)'],
    ['w = start()\nfor _ in range(9):\n    (loss := f(w)).backward()\n    w -= w.grad', 'w'],
    ['seen = []\nfor s in seeds: seen.append(repeat(r, s))', 'len(seen[0])'],
    ['rows = {}\nrows["a"] = compare(a, b)', 'a, *rest = rows.values()', 'rest'],
    ['learn.fit_one_cycle(2)', 'round(learn.final_record[-1], 2)'],
    ['with timer() as t: t.add(perf_counter())', 't'], ['time_in_turns(work)'],
    ['!cnn_tricks train', 'json.loads(Path("metrics.json").read_text())'], ['%timeit f(x)'],
    ['code = main(["train"])', 'open("metrics.json").read()'],
    ["gap = (a - b).max()\nf'apart by {gap:.0e}'"], ["before_you_start('00_data')"], ['torch.get_num_threads()']]

WITHOUT = [
    ['conv_out(28, 3)'], ["recorded('flip_shift').line()"], ['run = train(recipe, data)', 'len(data.train)'],
    ['run = train(recipe, data)', 'run = 3', 'run'],                                 # a new value
    ['kept = [train(x, data) for x in recipes]', 'x = torch.arange(4.)', 'x + 1'],   # a name of the comprehension's own
    ['def scores(x):\n    y = train(x, data)\n    return y', 'y = 2', 'y*2'], ["f'{0.5:.1%} and {2:.3f}'"],
    ['import torch\nopt = torch.optim.SGD(net.parameters())', 'opt.step()', 'torch.arange(3)'],
    ['json.loads(Path("course.json").read_text())'],
    ['x = torch.randn(3)\nx.grad = torch.autograd.grad(f(x), x)[0]\nx.grad']]


@pytest.mark.parametrize('sources', WITH_REASON, ids=lambda s: s[0].splitlines()[0][:40])
def test_a_tag_with_a_reason_stays(sources): assert not refused(*sources)


@pytest.mark.parametrize('sources', WITHOUT, ids=lambda s: s[0].splitlines()[0][:40])
def test_a_tag_without_a_reason_is_refused(sources):
    said, = refused(*sources)
    assert said.startswith(f'cell {len(sources) - 1} (id c{len(sources) - 1}): nbval-ignore-output, but')
