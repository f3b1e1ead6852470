"""Where the package finds the records and the lessons that it was installed with"""
import re, sys
from pathlib import Path

__all__ = ['results_path', 'records_path', 'lessons_path', 'lesson_of_module']


def results_path() -> Path:  # `cnn_tricks/results` once installed, `results` in a clone
    "The folder of what was recorded: runs in `records/`, benchmarks in `bench/`, the times of the lessons."
    return _beside('results', 'results')


def records_path() -> Path:
    "The folder of the recorded runs."
    return results_path()/'records'


def lessons_path() -> Path:  # `cnn_tricks/lessons` once installed, `nbs` in a clone
    "The folder of the lesson notebooks."
    return _beside('lessons', 'nbs')


def lesson_of_module(module: str,  # The name of one that is imported: 'cnn_tricks.tricks.schedule'
                     ) -> str:  # '23_schedule'; '' for a plain module, and where there is no file
    "The lesson that exports a module, from the header of its file"
    source = Path(getattr(sys.modules.get(module), '__file__', '') or '')
    header = source.read_text(encoding='utf-8')[:1000] if source.is_file() else ''
    found = re.search(r'nbs/(\d\d_\w+)\.ipynb', header)
    return found[1] if found else ''


_here = Path(__file__).parents[1]


def _beside(packaged, cloned):
    "A folder that the wheel keeps inside the package, under the name `packaged`, and a clone beside it, as `cloned`."
    return d if (d := _here/packaged).is_dir() else _here.parent/cloned
