"""Where the package finds the records and the lessons that it was installed with"""
from pathlib import Path

__all__ = ['results_path', 'records_path', 'lessons_path']


def results_path() -> Path:  # `cnn_tricks/results` once installed, `results` in a clone
    "The folder of what was recorded: runs in `records/`, benchmarks in `bench/`, the times of the lessons."
    return _beside('results', 'results')


def records_path() -> Path:
    "The folder of the recorded runs."
    return results_path()/'records'


def lessons_path() -> Path:  # `cnn_tricks/lessons` once installed, `nbs` in a clone
    "The folder of the lesson notebooks."
    return _beside('lessons', 'nbs')


_here = Path(__file__).parents[1]


def _beside(packaged, cloned):
    "A folder that the wheel keeps inside the package, under the name `packaged`, and a clone beside it, as `cloned`."
    return d if (d := _here/packaged).is_dir() else _here.parent/cloned
