"Verdicts and the order of callbacks: words and numbers that files and fastai read"
import json

import pytest
from fastai.callback.core import Callback

from cnn_tricks.base.registry import import_modules
from cnn_tricks.core.fitting import Order
from cnn_tricks.measure.verdict import Verdict


@pytest.mark.parametrize('low, high, verdict', [
    (-.01, .01, 'no difference beyond δ'), (.001, .01, 'helps, by less than δ'), (0., .01, 'no difference beyond δ'), (.001, .011, 'helps'),
    (-.011, -.001, 'hurts'), (-.011, .001, 'undecided'), (0., .02, 'undecided'), (-float('inf'), float('inf'), 'undecided')])
def test_a_verdict_is_its_text(low, high, verdict):
    v = Verdict.of(low, high, .01)
    assert v == verdict and {v: 1}[verdict] == 1 and v in (verdict,)
    assert f'{v}' == str(v) == verdict and repr(v) == repr(verdict) and f'{v:>30}' == f'{verdict:>30}'
    assert json.loads(json.dumps({'verdict': v})) == {'verdict': verdict} and Verdict(verdict) is v
    assert v.sure == (verdict in ('helps', 'hurts'))


def test_every_callback_of_the_package_takes_its_place_by_name():
    import cnn_tricks.distributed.train_together, cnn_tricks.cli.train, cnn_tricks.tools.gradcam, cnn_tricks.tools.step_probe  # noqa
    import cnn_tricks.measure.bench_run, cnn_tricks.tools.static_shapes  # noqa
    import_modules()
    def below(cls): return {cls}.union(*map(below, cls.__subclasses__()))
    ours = [c for c in below(Callback) if c.__module__.startswith('cnn_tricks.') and 'order' in vars(c)]
    assert len(ours) == 21 and all(isinstance(c.order, Order) for c in ours), ours
