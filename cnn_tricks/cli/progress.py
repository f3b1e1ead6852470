"""How far a training run is: a fastai callback that watches it and changes nothing"""
import time
from types import SimpleNamespace

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ..core.fitting import FitCallback, Order

__all__ = ['RunBar']


class RunBar(FitCallback):
    "How far a run is: a bar on a terminal (epoch, loss, accuracy, time left), else a line now and then"
    order = Order.STEP

    def __init__(self,
        label:str, # what is trained
        console:Console # where to show it
    ):
        self.label, self.console, self.shown, self.told, self.scored = label, console, 0., 0., ''
        columns = TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[now]}'), TimeRemainingColumn()
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task(label, total=None, now='starting')

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *args): self.bar.stop()

    def __getstate__(self): return dict(label=self.label, learn=self.learn)  # a console cannot be pickled

    def __setstate__(self, s):
        self.__init__(s['label'], Console(quiet=True))
        self.learn = s['learn']

    def after_batch(self):
        "Move the bar, five times a second at most"
        if not self.training or time.monotonic() - self.shown < 0.2: return
        s, self.shown = self._state(), time.monotonic()
        self.bar.update(self.task, total=s.total, completed=s.step, now=self._now())

    def after_epoch(self):
        "Without a terminal: a line when a tenth of the steps is done, and at the end"
        s = self._state()
        if not self.fitting or s.pending: return  # steps that a checkpoint has done already
        if s.history: self.scored = f'  accuracy {100*s.history[-1]["accuracy"]:.1f} %'
        if self.console.is_terminal or s.step < self.told + s.total/10 and s.step < s.total: return
        self.told = s.step
        self.console.print(f'{self.label}: {self._now()}')

    def _state(self):
        "Steps done and to do: those of the run, or what any `Learner` knows of its fit"
        if hasattr(self, 'run_control'): return self.run_control.state
        return SimpleNamespace(step=self.train_iter, total=self.n_epoch*len(self.dls.train), pending=None, history=[])

    def _now(self):
        s, n = self._state(), len(self.dls.train)
        loss = f'loss {float(self.recorder.smooth_loss.value):.3f}' if self.recorder.smooth_loss.count else ''
        return f'epoch {s.step/n:.1f} of {s.total/n:.1f}  {loss}{self.scored}'
