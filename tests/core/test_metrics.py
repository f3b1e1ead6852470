"""Scores by name: against scikit-learn's, in results, in comparisons and in their files."""
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_recall_fscore_support

from cnn_tricks.core.metrics import f1_scores, metrics, precisions, recalls
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.train import train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.measure.arms import Arm, Run
from cnn_tricks.measure.comparison import Comparison
from cnn_tricks.measure.compare import compare, ledger, repeat
from cnn_tricks.tricks.flip_shift import FlipShift

THEIRS = {'accuracy': accuracy_score, 'balanced_accuracy': balanced_accuracy_score,
          'macro_f1': lambda y, p: f1_score(y, p, average='macro')}
QUICK = Recipe(network='plain', network_args=dict(widths=(4,)), steps=3, batch_size=16)


@pytest.fixture(scope='module')
def data():
    "Two common classes, and a rare one that three steps do not learn."
    d = embedded().take_classes(embedded().classes[:3])
    keep = torch.cat([(d.train.y == c).nonzero()[:n, 0] for c, n in enumerate((60, 50, 5))])
    rare = torch.cat([(d.valid.y == c).nonzero()[:n, 0] for c, n in enumerate((50, 40, 4))])
    return type(d)(d.train[keep], d.valid[rare], d.test[:60], d.classes, name='uneven')


def table(y, p, k): return torch.bincount(torch.tensor(y)*k + torch.tensor(p), minlength=k*k).view(k, k)


@pytest.mark.filterwarnings('ignore')  # scikit-learn warns of classes that are never predicted
@pytest.mark.parametrize('k,classes,seed', [(2, 2, 0), (4, 4, 1), (5, 3, 2), (10, 10, 3)])
def test_equal_scikit_learn(k, classes, seed):
    "Also where a class has no image, and where one is never predicted."
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, 200, p=np.arange(1, classes + 1)/sum(range(1, classes + 1)))
    p = np.where(rng.random(200) < .6, y, rng.integers(max(classes - 1, 1), size=200))
    for name, theirs in THEIRS.items(): assert metrics[name](table(y, p, k)) == pytest.approx(theirs(y, p)), name
    mine = precisions(table(y, p, k)), recalls(table(y, p, k)), f1_scores(table(y, p, k))
    for a, b in zip(mine, precision_recall_fscore_support(y, p, labels=range(k))):
        assert np.allclose(a.nan_to_num(), b)


def test_guessing_the_commonest_class():
    "It scores well where that class is common, and no better than chance where all classes count alike."
    t = table([0]*90 + [1]*10, [0]*100, 2)
    assert [round(metrics[m](t), 3) for m in ('accuracy', 'balanced_accuracy', 'macro_f1')] == [.9, .5, .474]


def test_results_have_every_metric(data, tmp_path):
    r = train(QUICK, data, progress=False)
    kept = r.metrics()
    y, p = data.valid.y.numpy(), r.trained.predict(data.valid.x).argmax(1).numpy()
    for name, theirs in THEIRS.items():
        assert kept[name] == r.score(name) == pytest.approx(theirs(y, p)), name
    before = r.test_reads
    y, p = data.test.y.numpy(), r.trained.predict(data.test.x).argmax(1).numpy()
    for name, theirs in THEIRS.items(): assert r.test(name) == pytest.approx(theirs(y, p))
    assert r.test_reads == before + 3
    assert r.test() == (torch.tensor(y) == torch.tensor(p)).float().mean().item()  # to the bit
    for ask in (r.score, r.test):
        with pytest.raises(ValueError, match='unknown metric.*balanced_accuracy'): ask('balanced')
    assert r.test_reads == before + 4


def test_comparisons_measure_what_was_asked_for(data):
    c = compare(QUICK, FlipShift(), data, (0, 1), metric='balanced_accuracy', progress=False)
    assert c.base.metric == c.trick.metric == 'balanced_accuracy'
    assert c.base.runs[0].accuracy == c.base.runs[0].valid == train(QUICK, data, 0, progress=False).score('balanced_accuracy')
    assert 'balanced accuracy on valid, %' in c._repr_markdown_() and 'balanced accuracy' in c.plot().get_xlabel()
    assert Comparison.from_dict(c.to_dict()).base.metric == 'balanced_accuracy'
    more = ledger(QUICK, [FlipShift()], data, (0,), metric='macro_f1', progress=False)
    assert more.comparisons[0].base.metric == 'macro_f1' and 'macro f1, %' in more._repr_markdown_()
    other = repeat(QUICK, data, (0, 1), progress=False)
    with pytest.raises(ValueError, match="metric balanced_accuracy of 'base' and accuracy"): Comparison(c.base, other)
    for ask in (lambda: compare(QUICK, FlipShift(), data, metric='f1'), lambda: repeat(QUICK, data, metric='f1')):
        with pytest.raises(ValueError, match='unknown metric'): ask()


def test_the_rate_is_chosen_by_the_metric(data):
    "Each rate's score is in the arm."
    c = compare(QUICK, FlipShift(), data, (0,), lrs=(1e-5, 3e-2), metric='balanced_accuracy', progress=False)
    want = [train(QUICK.replace(lr=lr), data, 1, progress=False).score('balanced_accuracy') for lr, _ in c.base.lrs]
    assert [v for _, v in c.base.lrs] == want


def test_a_diverged_run_guesses(data):
    run = repeat(QUICK.replace(lr=1e30, steps=6, optimizer='sgd'), data, (0,), metric='balanced_accuracy', progress=False).runs[0]
    assert run.diverged and run.accuracy == run.valid == pytest.approx(1/3)


def test_older_records_are_read():
    "An arm without a metric measured accuracy."
    d = Arm('a', {'lr': 1}, [Run(0, .5, .5, 3)]).to_dict()
    del d['metric']
    assert Arm.from_dict(d).metric == 'accuracy'
