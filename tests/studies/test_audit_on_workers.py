"An audit whose runs are made by workers: the runs of the serial one; its plan counts on them; what stays here stays."
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from cnn_tricks.cli.main import main
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.data.drawn_shapes import shapes
from cnn_tricks.distributed import cluster as module
from cnn_tricks.distributed.cluster import Cluster, ClusterError, keep, run_there
from cnn_tricks.studies.audit import audit
from cnn_tricks.studies.audit_boundary import FIRST
from cnn_tricks.studies.audit_plan import TooShort, make_plan
from cnn_tricks.studies.audit_result import Audit

TINY = Recipe(network='resnet', network_args={'width': 4, 'blocks': [0, 1], 'grid': 2}, optimizer='adamw', lr=0.01,
              schedule='one_cycle', batch_size=32, steps=12)


class Threads(Cluster):
    "Workers in this process, which take what a real scheduler would send them."
    name = 'threads'

    def __init__(self, n=3):
        super().__init__()
        self.n, self.pool, self.begun = n, ThreadPoolExecutor(n), []

    def begin(self, wanted, job):
        self.begun.append(job)
        return self.pool.submit(run_there, wanted, job)

    def spread(self, key, payload): keep(key, payload)
    def count(self): return self.n
    def shutdown(self, wait=True, *, cancel_futures=False): self.pool.shutdown()


@pytest.fixture(scope='module')
def data(): return shapes(n=300, size=12)


def runs(a): return {arm.name: [(r.seed, r.accuracy, r.valid, r.steps, r.diverged) for r in arm.runs] for arm in [*a.arms, *a.final]}


def test_the_same_runs_as_in_turns(data, tmp_path):
    "Rates are tuned, too; what a step costs is measured once, before the rounds, since workers' seconds do not compare."
    how = dict(tricks=['optimizer', 'label_smoothing'], minutes=60., rounds=FIRST, equal='steps', device='cpu')
    with Threads() as on:
        there = audit(data, TINY, **how, path=tmp_path/'ledger.json', on=on)
        assert len(on.begun) >= 2*9 + FIRST*3
    here = audit(data, TINY, **how)
    assert runs(there) == runs(here) and there.tuned == here.tuned and there.analysed == here.analysed and there.right == here.right
    assert there.finished and all(len(c) == 1 for c in there.costs.values()) and set(there.walls) == set(here.walls)
    again = Audit.load(tmp_path/'ledger.json')
    again.arms[1].runs.pop() # as if it had been stopped in the last round
    again.rounds, again.ended, again.finished, again.analysed = FIRST - 1, False, False, []
    again.left, again.final, again.right = {}, [], {}
    again.save(tmp_path/'ledger.json')
    with Threads() as on: assert runs(audit(data, TINY, **how, path=tmp_path/'ledger.json', on=on)) == runs(here)


def test_a_plan_counts_on_workers():
    "More of them, more tricks or rounds; a round takes as many turns as it has runs for each, and costs stay in turns."
    moves = [True, False]*10
    plans = [make_plan(10, 5., 7., .5, .2, moves, at_a_time=k) for k in (1, 2, 8)]
    assert plans[0] == make_plan(10, 5., 7., .5, .2, moves) and plans[0].tricks <= plans[1].tricks <= plans[2].tricks
    assert plans[2].tricks*plans[2].rounds*plans[2].seconds > 2*plans[0].tricks*plans[0].rounds*plans[0].seconds
    for p, k in zip(plans, (1, 2, 8)):
        tuned, n = sum(moves[:p.tricks]), p.tricks + 1
        turns = n + -(-n//k)*p.rounds + -(-9//k)*(tuned + bool(tuned)) + -(-2//k)*p.pairs
        assert turns*(p.seconds + .2) <= 600 - 5 + 1e-6
    with pytest.raises(TooShort): make_plan(.1, 2., 7., .5, .2, moves, at_a_time=2)


def test_a_worker_that_is_lost_for_good_ends_the_audit_and_keeps_it(data, tmp_path, monkeypatch, capsys):
    "The command says how it goes on; the same audit then ends."
    import cnn_tricks.cli.on_cluster as command
    monkeypatch.chdir(tmp_path)
    def ends_after(n):
        class Ending(Threads):
            def begin(self, wanted, job):
                if len(self.begun) >= n: raise ClusterError('threads: no worker is left')
                return super().begin(wanted, job)
        return lambda text, gpu: Ending()
    monkeypatch.setattr(command, 'cluster', ends_after(5))
    words = ['audit', '--on', 'dask://x:1', '--tricks', 'label_smoothing', '--minutes', '60', '--device', 'cpu', '--recipe', 'tiny.json']
    (tmp_path/'tiny.json').write_text(TINY.to_json())
    assert main(words) == 1
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'threads: no worker is left; stopped in round 3' in err and 'go on with: cnn_tricks audit --resume --on dask://x:1' in err
    kept = Audit.load(tmp_path/'cnn_tricks_audit'/'ledger.json')
    assert len(kept.base.runs) + len(kept.arms[1].runs) == 4


def test_threads_are_one_on_workers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['audit', '--on', 'dask', '--threads', '2']) == 2
    assert '--threads: workers make each run on one thread' in capsys.readouterr().err
    (tmp_path/'cnn_tricks_audit').mkdir()
    options = dict(folder=None, minutes=1, tricks=None, delta=1, size=None, seed=42, metric='accuracy', recipe={})
    note = dict(command='audit', threads=2, options=options)
    (tmp_path/'cnn_tricks_audit'/'run.json').write_text(json.dumps(note))
    assert main(['audit', '--on', 'dask', '--resume']) == 2
    assert 'it was begun with 2 threads' in capsys.readouterr().err


def test_what_is_too_large_to_send_is_told(monkeypatch):
    monkeypatch.setattr(module, 'MOST', 1000)
    with Threads() as on, pytest.raises(ClusterError, match='GiB of images are too much'): on.send(bytes(2000))


def test_a_cluster_without_workers_ends_what_waits_for_one(monkeypatch):
    monkeypatch.setenv('CNN_TRICKS_TIMEOUT', '0.01')
    monkeypatch.setattr(module, 'LOOK', 0.05)
    with Threads() as on:
        assert on.workers() == 3
        on.n = 0
        assert on.workers() == 1 # one more is given out, for when it comes
        waiting = module.Future()
        with pytest.raises(ClusterError, match='threads has had no worker for 0.01 seconds'): list(on.ended([waiting]))
