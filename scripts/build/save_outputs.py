"""Run notebooks as a reader would, in a real kernel, and save their outputs.

    python scripts/build/save_outputs.py nbs/00_data.ipynb [more.ipynb ...]

Runs the cells that nbdev-test runs (the others lose their outputs: nothing is shown that was not run), cleans the file
as nbdev-clean does, and notes the seconds and the machine in results/times.json. A cell that fails is named, and then
nothing is saved.
"""
import argparse, base64, io, json, os, re, sys, tempfile, time
from datetime import date
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '2')  # before any kernel starts; a lesson is timed on two threads

import nbformat
from fastcore.xtras import working_directory
from filelock import FileLock
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.test import nb_test_cells
from PIL import Image

from cnn_tricks.course.lesson import recorded_time

ROOT = Path(__file__).resolve().parents[2]
TIMES = ROOT/'results'/'times.json'
SKIP = 'skip-execution'
LARGE = 100_000  # characters of a figure in the notebook
# Figures are drawn with twice the pixels that they are shown with, at 80 pixels an inch, whatever a lesson sets
SHARP = ["--InlineBackend.figure_formats={'retina'}",
         "--InlineBackend.print_figure_kwargs={'dpi': 160, 'bbox_inches': 'tight'}"]


def tested_ids(path) -> set:
    "Ids of the cells that nbdev-test runs in the notebook at `path`."
    return {c.id for c in nb_test_cells(path, skip_flags=get_config(ROOT).tst_flags.split())}


def is_noise(output) -> bool:
    "True for what no reader needs: warnings on stderr, progress bars, widgets."
    if output.output_type == 'stream': return output.name == 'stderr'
    data = output.get('data', {})
    return '<progress' in str(data.get('text/html', '')) or 'application/vnd.jupyter.widget-view+json' in data


def say_error(path, nb, index, reason) -> str:
    "One readable message: which cell failed, its source, and why."
    cell = nb.cells[index]
    code_number = sum(c.cell_type == 'code' for c in nb.cells[:index])
    source = '\n'.join(f'    {i:3} {line}' for i, line in enumerate(cell.source.splitlines(), 1))
    trace = next((o.traceback for o in cell.outputs if o.output_type == 'error'), [])
    trace = re.sub(r'\x1b\[[0-9;]*m', '', '\n'.join(trace))
    return f'{path}: cell {index} (id {cell.id}, nbval: Cell {code_number}) failed: {reason}\n{source}\n{trace}'


def execute(path, nb, run, cell_timeout) -> float:
    "Run the cells of `nb` whose id is in `run`, in a fresh kernel; seconds from the first cell to the last."
    code = [c for c in nb.cells if c.cell_type == 'code']
    for c in code:
        c.outputs, c.execution_count = [], None
        if c.id not in run: c.metadata['tags'] = c.metadata.get('tags', []) + [SKIP]
    at, clock = {'cell': 0}, {}

    def started(cell, cell_index):
        at['cell'] = cell_index
        clock.setdefault('start', time.perf_counter())
    client = NotebookClient(nb, timeout=cell_timeout, kernel_name='python3', on_cell_start=started,
                            extra_arguments=SHARP, resources={'metadata': {'path': str(path.parent)}})
    try: client.execute()
    except CellExecutionError as e: sys.exit(say_error(path, nb, at['cell'], f'{e.ename}: {e.evalue}'))
    except CellTimeoutError: sys.exit(say_error(path, nb, at['cell'], f'not done after {cell_timeout} s'))
    except DeadKernelError: sys.exit(say_error(path, nb, at['cell'], 'the kernel died (out of memory?)'))
    for c in code:
        if c.id in run: continue
        c.metadata['tags'].remove(SKIP)
        if not c.metadata['tags']: del c.metadata['tags']
    return time.perf_counter() - clock.get('start', time.perf_counter())


def machine() -> dict:
    "What the seconds depend on."
    from importlib.metadata import version
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return dict(cores=cores, threads=int(os.environ['OMP_NUM_THREADS']), torch=version('torch').split('+')[0],
                python='.'.join(map(str, sys.version_info[:3])), date=date.today().isoformat())


def note_time(name, seconds):
    "Put the seconds of lesson `name` into results/times.json; several writers may do so at once."
    with FileLock(Path(tempfile.gettempdir())/'cnn_tricks_times.lock'):
        times = json.loads(TIMES.read_text(encoding='utf-8')) if TIMES.exists() else {}
        times[name] = dict(seconds=round(seconds, 1), **machine())
        TIMES.parent.mkdir(exist_ok=True)
        part = TIMES.with_suffix('.part')
        part.write_text(json.dumps(times, indent=1, sort_keys=True) + '\n', encoding='utf-8')
        os.replace(part, TIMES)


def replace_text(nb, old, new):
    "Put `new` for `old` in what the cells of `nb` display."
    data = [o.data for c in nb.cells if c.cell_type == 'code' for o in c.outputs if 'data' in o]
    for d in data: d.update({k: v.replace(old, new) for k, v in d.items() if isinstance(v, str)})


def smaller(png, dpi=None) -> str:
    """A figure (base64) in at most 256 colours, where that takes less room: drawn lines and grey pictures need no more.
    Noisy pictures in colour get fewer, so that a lesson stays small. `dpi` is written into the file."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    plain = encoded(image, dpi) if dpi else png
    image = image.convert('RGBA')
    if image.getextrema()[3][0] < 255: return plain  # something shines through
    for colours in 256, 128, 64:
        packed = encoded(image.convert('RGB').quantize(colours, Image.Quantize.MEDIANCUT, kmeans=2*(colours < 256),
                                                       dither=Image.Dither.NONE), dpi)  # a mean keeps greys grey
        if len(packed) < LARGE: break
    return min(plain, packed, key=len)


def encoded(image, dpi) -> str:
    "A picture as a PNG in base64."
    out = io.BytesIO()
    image.save(out, 'png', optimize=True, **dict(dpi=(dpi, dpi)) if dpi else {})
    return base64.b64encode(out.getvalue()).decode() + '\n'


def shrink_figures(nb):
    """Make the figures of `nb` smaller. Those with twice the pixels that they are shown with say 192 dots an inch: from
    this Quarto knows that it shows them with half of their pixels."""
    for c in nb.cells:
        for o in c.get('outputs', ()):
            if 'image/png' not in o.get('data', ()): continue
            o.data['image/png'] = smaller(o.data['image/png'], 192 if 'image/png' in o.metadata else None)


def save(path, cell_timeout=120):
    "Run the notebook at `path`, save its outputs, clean it, note its time."
    path = Path(path).resolve()
    run, before = tested_ids(path), path.read_bytes()
    if not run: return print(f'{path.name}: no cell to run')
    nb = nbformat.reads(before.decode('utf-8'), as_version=4)
    seconds = execute(path, nb, run, cell_timeout)
    for c in nb.cells:
        if c.cell_type == 'code': c.outputs = [o for o in c.outputs if not is_noise(o)]
    if path.read_bytes() != before: sys.exit(f'{path}: changed while it ran; nothing saved, run this again')
    last = recorded_time(path.stem)
    note_time(path.stem, seconds)
    replace_text(nb, last, recorded_time(path.stem))  # the lesson showed the time of its last run
    shrink_figures(nb)
    nbformat.write(nb, path)
    with working_directory(ROOT): nbdev_clean(str(path))  # it looks for its settings there
    print(f'{path.name}: {len(run)} cells, {seconds:.1f} s, {path.stat().st_size/1000:.0f} kB')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('notebooks', nargs='+', metavar='NB')
    parser.add_argument('--cell-timeout', type=int, default=120, help='seconds that one cell may take (default: 120)')
    args = parser.parse_args()
    for nb in args.notebooks: save(nb, args.cell_timeout)
