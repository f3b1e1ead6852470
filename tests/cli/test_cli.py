"The commands as a user runs them: in processes of their own, on small folders of drawn photographs."
import json, os, pty, re, shlex, signal, subprocess, sys, threading
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from common import BIN, run
from PIL import Image

from cnn_tricks.cli.argument_types import number
from cnn_tricks.cli.arguments import parser
from cnn_tricks.cli.errors import UsageError, complain, one_line
from cnn_tricks.cli.main import main
from cnn_tricks.base.paths import lessons_path
from cnn_tricks.measure.test_reads import log_beside

CLASSES = ('<b>bold & "so on"', 'Köln $x$ 猫', 'plain')  # names that a web page or a chart could trip over
COMMANDS = 'train', 'predict', 'export', 'audit', 'bench', 'lessons', 'doctor'

# Reads jobs from stdin and runs each in a fork of itself: a process of its own without seconds of imports.
SERVER = '''
import json, os, resource, signal, sys, warnings
warnings.simplefilter('ignore')
import torch, cnn_tricks.cli.audit, cnn_tricks.cli.train, cnn_tricks.cli.doctor, cnn_tricks.data.decode
from cnn_tricks.studies.audit_boundary import simulate_audits
from cnn_tricks.cli.main import main
from cnn_tricks.report.charts import line_chart
torch.optim.Adam([torch.zeros(1)])  # the first optimiser and the first chart import more
line_chart({'a': ([0], [0], {})}, 'x', 'y', 'warm')

class Signals:
    "A stderr that sends this process a signal as soon as some text was written: stops come at an event, not by the clock."
    def __init__(self, stream, text, number): self.stream, self.text, self.number = stream, text, int(number)
    def __getattr__(self, name): return getattr(self.stream, name)
    def write(self, text):
        self.stream.write(text)
        self.stream.flush()
        if self.text and self.text in text:
            self.text = ''
            os.kill(os.getpid(), self.number)

def child(job):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell leaves ignored for what it starts with &
    os.chdir(job['cwd'])
    for fd, path, mode in ((0, os.devnull, os.O_RDONLY), (1, job['out'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                           (2, job['err'], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        os.dup2(os.open(path, mode), fd)
    os.environ.update(job['env'])
    if job['at']: sys.stderr = Signals(sys.stderr, *job['at'])
    if job['file_size']:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job['file_size'],)*2)
    os._exit(main(job['args']))

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try: child(json.loads(line))
        except BaseException as e: os.write(2, f'Traceback: main raised {e!r}'.encode())
        os._exit(70)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
'''


class Job:
    "A command that runs: `pid`; and when it has ended, `code`, `out` and `err`."

    def __init__(self, server, folder, *args, file_size=0, stdout=None, stderr=None, at=None, **env):
        self.server, self.files = server, (stdout or folder/'.out', stderr or folder/'.err')
        job = dict(args=[str(a) for a in args], cwd=str(folder), out=str(self.files[0]), err=str(self.files[1]),
                   env=env, file_size=file_size, at=at)  # `at`: text on stderr at which it sends itself a signal
        server.stdin.write(json.dumps(job) + '\n')
        server.stdin.flush()
        self.pid = int(server.stdout.readline())

    def wait(self):
        self.code = int(self.server.stdout.readline())
        self.out, self.err = (p.read_text(encoding='utf-8') if p.is_file() else '' for p in map(Path, self.files))
        assert 'Traceback' not in self.out + self.err, self.err
        return self


@pytest.fixture(scope='module')
def server():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, '-c', SERVER], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as p:
        yield p
        p.stdin.close()


@pytest.fixture
def cnn_tricks(server, tmp_path):
    "Runs a command in `tmp_path` and checks its exit code; complaints are one line each."
    def call(*args, code=0, lines=None, **kwargs):
        job = Job(server, tmp_path, *args, **kwargs).wait()
        assert code is None or job.code == code, f'{job.code}: {job.err}\n{job.out}'
        if lines is not None: assert job.err.count('\n') == lines, job.err
        return job
    return call


def draw(folder, per_class=20, classes=CLASSES, size=32):
    "A folder of class folders with pictures whose colour tells the class, and a file that is none."
    rng = np.random.default_rng(0)
    for c, name in enumerate(classes):
        (folder/name).mkdir(parents=True)
        for i in range(per_class):
            x = rng.integers(0, 120, (size, size, 3))
            x[..., c % 3] += 120
            Image.fromarray(x.astype(np.uint8)).save(folder/name/f'{i:03}.png')
    (folder/classes[0]/'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n and no more')
    return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory): return draw(tmp_path_factory.mktemp('drawn')/'photos')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, photos):
    "(folder, stdout, peak memory in bytes) of `cnn_tricks train photos` as a real process."
    folder = tmp_path_factory.mktemp('trained')
    # a small process in between: a child's peak starts with that of the process that forked it
    between = 'import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); ' \
              'print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=open("peak", "w")); sys.exit(code)'
    args = [sys.executable, '-c', between, sys.executable, '-m', 'cnn_tricks', 'train', str(photos), '--steps', '12', '--out', 'run']
    with open(folder/'out', 'w+') as out, open(folder/'err', 'w+') as err:
        code = subprocess.run(args, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err).returncode
    assert code == 0, (folder/'err').read_text()
    assert 'Traceback' not in (folder/'err').read_text()
    peak = int((folder/'peak').read_text())*(1 if sys.platform == 'darwin' else 1024)
    return folder/'run', (folder/'out').read_text(), peak


# help and bad arguments

BAD = [[], ['fly'], ['train', '--epochs', '0'], ['train', '--epochs', 'nan'], ['train', '--minutes', '-1'],
       ['train', '--steps', '1.5'], ['train', '--epochs', '1', '--steps', '1'], ['train', '--lr', 'inf'],
       ['train', '--seed', '-1'], ['train', '--threads', '0'], ['train', 'a', 'b'], ['train', '--colour'],
       ['train', 'no such folder'], ['predict'], ['predict', 'no such model', 'a.png'], ['predict', 'x', 'a.png', '--top', '0'],
       ['audit', '--minutes', '0'], ['audit', '--minutes', 'nan'], ['audit', '--delta', '100'], ['audit', '--delta', '-1'],
       ['audit', 'no such folder'], ['audit', '--tricks'], ['audit', '--size', '0'], ['lessons', '--port', 'x'], ['doctor', 'me']]


@pytest.mark.parametrize('args', BAD, ids=' '.join)
def test_bad_arguments(args, capsys):
    assert main(args) == 2
    said = capsys.readouterr()
    assert said.out == '' and said.err.count('\n') == 1 and said.err.startswith('cnn_tricks')


def test_answers_without_torch(tmp_path):
    "Help, the version and complaints come before anything heavy is imported."
    code = f'''
import contextlib, io, json, sys
from cnn_tricks.cli.main import main
with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
    codes = [main(a) for a in {BAD + [['--version'], ['--help']] + [[c, '--help'] for c in COMMANDS]}]
print(json.dumps([codes, sorted({{m.split('.')[0] for m in sys.modules}})]))'''
    codes, loaded = json.loads(run(sys.executable, '-c', code, cwd=tmp_path))
    assert codes == [2]*len(BAD) + [0]*(2 + len(COMMANDS))
    assert not {'torch', 'fastai', 'fastcore', 'numpy', 'rich', 'matplotlib', 'PIL'} & set(loaded)


def test_ways_to_start(tmp_path):
    "By name (where the package is installed), as a module, and under accelerate's launcher."
    named = [[BIN/'cnn_tricks']] if (BIN/'cnn_tricks').exists() else []
    launch = [BIN/'accelerate', 'launch', '--cpu', '--num_processes', '1', '-m', 'cnn_tricks']
    for start in [*named, [sys.executable, '-m', 'cnn_tricks'], launch]:
        assert run(*start, '--version', cwd=tmp_path).startswith('cnn_tricks 0.')


@pytest.mark.parametrize('command', COMMANDS)
def test_examples_parse(command, capsys):
    assert main([command, '--help']) == 0
    lines = [l.strip() for l in capsys.readouterr().out.partition('examples:')[2].splitlines() if l.strip()]
    assert len(lines) >= 3
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[:2] == ['cnn_tricks', command]
        parser().parse_args(words[1:])


def test_debug_shows_the_traceback(tmp_path):
    r = subprocess.run([sys.executable, '-m', 'cnn_tricks', 'train', 'nowhere'], cwd=tmp_path, text=True, capture_output=True,
                       env={**os.environ, 'CNN_TRICKS_DEBUG': '1'})
    assert r.returncode == 2 and 'Traceback' in r.stderr and 'nowhere: no such folder' in r.stderr


# train

def test_train_leaves_results(trained):
    folder, out, _ = trained
    assert sorted(p.name for p in folder.iterdir()) == ['baseline', 'metrics.json', 'model.safetensors', 'recipe.json', 'report.html']
    assert sorted(p.name for p in (folder/'baseline').iterdir()) == ['metrics.json', 'model.safetensors', 'recipe.json']
    for word in 'baseline', 'fast', 'validation accuracy', 'test accuracy', 'seconds of training', 'seconds until', 'parameters':
        assert word in out
    assert '1 file' in out and 'broken.png' in out  # what was noticed in the folder
    m, base = (json.loads((f/'metrics.json').read_text()) for f in (folder, folder/'baseline'))
    assert m['steps'] == base['steps'] == 12 and m['test_reads'] == base['test_reads'] == 1
    assert m['baseline']['test_accuracy'] == base['test_accuracy'] and 0 <= m['test_accuracy'] <= 1
    recipe = json.loads((folder/'recipe.json').read_text())
    assert recipe['data']['classes'] == sorted(CLASSES) and recipe['recipe']['steps'] == 12


def test_memory(trained):
    "`cnn_tricks train` needs about 1.1 GB, most of it torch and fastai themselves."
    assert trained[2] < 1.3e9


class Page(HTMLParser):
    "Tags in order, the text of each `bdi`, and what is wrong: tags that do not nest, and addresses outside the page."
    void = {'meta', 'img', 'br', 'link', 'input', 'hr'}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.wrong, self.names, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        if self.open: self.wrong.append(f'never closed: {self.open}')

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void: self.open.append(tag)
        if tag == 'bdi': self.names.append('')
        for k, v in attrs:
            if k in ('src', 'href', 'action', 'srcset', 'data') and not v.startswith(('data:', '#')): self.wrong.append(v)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag: self.wrong.append(f'</{tag}> closes nothing')

    def handle_data(self, data):
        self.text.append(data)
        if 'bdi' in self.open: self.names[-1] += data


def check_page(path):
    "A report is one whole page that loads nothing, with words for every picture."
    text = path.read_text(encoding='utf-8')
    page = Page(text)
    assert not page.wrong, page.wrong
    tags = [t for t, _ in page.tags]
    assert not {'script', 'link', 'iframe', 'object', 'form'} & set(tags) and 'url(' not in text and '@import' not in text
    pictures = [a for t, a in page.tags if t == 'img']
    assert len(pictures) >= 3 and all(len(a['alt']) > 10 for a in pictures)
    assert tags.count('h1') == 1 and 'prefers-color-scheme' in text and 'name="viewport"' in text
    return page


def test_report(trained):
    page = check_page(trained[0]/'report.html')
    assert set(CLASSES) <= set(page.names)  # names arrive as they are, tags in them are text
    text = ''.join(page.text)
    for word in 'Side by side', 'Curves', 'What is mixed up', 'Recipe', 'Machine', 'seed', 'load_trained', 'broken.png':
        assert word in text
    assert 'Stopped' not in text


def test_reading_the_test_images_is_logged(trained, photos):
    "Beside the folder, where an audit of the same images finds it."
    log = json.loads(log_beside(photos).read_text())
    assert log and {e['by'] for e in log} <= {'train', 'audit'} and any(e['by'] == 'train' for e in log)


def test_never_overwrites(cnn_tricks, trained, photos, tmp_path):
    before = {p: p.read_bytes() for p in trained[0].rglob('*') if p.is_file()}
    job = cnn_tricks('train', photos, '--steps', 1, '--out', trained[0], code=2, lines=1)
    assert 'holds results' in job.err
    assert 'is finished' in cnn_tricks('train', '--resume', '--out', trained[0]).out
    assert before == {p: p.read_bytes() for p in trained[0].rglob('*') if p.is_file()}
    (tmp_path/'cnn_tricks_run').mkdir()
    (tmp_path/'cnn_tricks_run'/'metrics.json').write_text('{}')
    cnn_tricks('train', photos, '--steps', 1, '--recipe', 'baseline', '--seed', 3)
    assert (tmp_path/'cnn_tricks_run'/'metrics.json').read_text() == '{}'
    m = json.loads((tmp_path/'cnn_tricks_run_2'/'metrics.json').read_text())
    assert m['seed'] == 3 and m['label'] == 'baseline' and 'baseline' not in m and not (tmp_path/'cnn_tricks_run_2'/'baseline').exists()


def test_own_recipe(cnn_tricks, photos, tmp_path):
    "A file's own budget stands; options change the recipe and leave the baseline alone."
    (tmp_path/'mine.json').write_text(json.dumps(dict(network='resnet', network_args=dict(width=8), steps=3)))
    job = cnn_tricks('train', photos, '--recipe', 'mine.json', '--lr', '0.002', '--batch-size', 8, '--size', 20, '--no-baseline')
    assert 'mine.json' in job.out and '20 x 20' in job.out
    saved = json.loads((tmp_path/'cnn_tricks_run'/'recipe.json').read_text())
    assert {k: saved['recipe'][k] for k in ('lr', 'batch_size', 'steps', 'network')} == dict(
        lr=0.002, batch_size=8, steps=3, network='resnet')
    cnn_tricks('train', photos, '--recipe', tmp_path/'cnn_tricks_run'/'recipe.json', '--no-baseline')  # a run's own file


@pytest.mark.parametrize('text,says', [
    ('{"netwrk": "resnet"}', "unknown recipe field 'netwrk'"), ('{"lr": -1}', 'lr=-1: must be greater than 0'),
    ('{"lr": "fast"}', "lr='fast': must be a number"), ('{"network": "resnt"}', "did you mean 'resnet'"),
    ('{"tricks": [{"name": "magic"}]}', "unknown trick 'magic'"), ('{"epochs": 1, "steps": 1}', 'one budget'),
    ('{"tricks": [{"name": "flip_shift", "p": 2}]}', 'p=2: must be'), ('[1]', 'a JSON object'), ('{"lr":', 'line 1'), ('', 'line 1')])
def test_bad_recipe(cnn_tricks, tmp_path, text, says):
    (tmp_path/'r.json').write_text(text)
    job = cnn_tricks('train', '--recipe', 'r.json', code=2, lines=1)
    assert 'r.json' in job.err and says in job.err and sorted(p.name for p in tmp_path.iterdir()) == ['.err', '.out', 'r.json']


def test_unknown_recipe_and_device(cnn_tricks):
    assert re.search('baseline.*fast', cnn_tricks('train', '--recipe', 'fats', code=2, lines=1).err)
    assert '--device warp' in cnn_tricks('train', '--device', 'warp', code=2, lines=1).err
    assert 'several processes' in cnn_tricks('train', code=2, lines=1, WORLD_SIZE='2').err


def test_bad_folders(cnn_tricks, tmp_path):
    (tmp_path/'empty').mkdir()
    draw(tmp_path/'single', 2, ('only',))
    for folder in 'empty', 'single', '.err': assert folder in cnn_tricks('train', folder, code=1, lines=1).err
    draw(tmp_path/'tiny', 5, size=10)
    assert 'at least 18x18' in cnn_tricks('train', 'tiny', '--steps', 1, code=1, lines=1).err
    assert not list(tmp_path.glob('cnn_tricks_run*'))


def test_divergence(cnn_tricks, photos, tmp_path):
    job = cnn_tricks('train', photos, '--lr', 1e12, '--steps', 50, '--no-baseline', code=1, lines=1)
    assert 'the loss became' in job.err and 'Try a lower lr' in job.err
    assert not (tmp_path/'cnn_tricks_run').exists()  # its name is free again


def test_progress_bar(server, photos, tmp_path):
    "On a terminal: a bar with epoch, loss, accuracy and time left, and a word while the imports take their time."
    master, slave = pty.openpty()
    seen = []
    def read():
        try:
            while piece := os.read(master, 4096): seen.append(piece)
        except OSError: pass  # the terminal is closed
    reader = threading.Thread(target=read)
    reader.start()
    job = Job(server, tmp_path, 'train', photos, '--epochs', 40, '--no-baseline', stderr=Path(os.ttyname(slave))).wait()
    os.close(slave)
    reader.join()
    text = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', b''.join(seen).decode())
    assert job.code == 0, text
    assert text.startswith('loading torch and fastai ...')
    assert re.search(r'fast [━╸╺ ]+ epoch \d+\.\d of 40\.0  loss \d\.\d{3}  accuracy \d+\.\d % +[\d:-]+', text), text[-300:]


# places that cannot be written

def test_unwritable_folder(cnn_tricks, photos, tmp_path):
    (tmp_path/'file').write_text('in the way')
    assert 'is a file' in cnn_tricks('train', photos, '--out', 'file', code=2, lines=1).err
    for out in ['file/run'] + ['/proc/cnn_tricks']*Path('/proc').exists():
        assert f'cannot write to {out}' in cnn_tricks('train', photos, '--steps', 1, '--out', out, code=1, lines=1).err
    assert (tmp_path/'file').read_text() == 'in the way'


def mount(*words):
    "Mount a tmpfs, or say why not."
    if not sys.platform.startswith('linux'): pytest.skip('needs Linux to mount a tmpfs')
    r = subprocess.run(['mount', '-t', 'tmpfs', *map(str, words)], capture_output=True, text=True)
    if r.returncode: pytest.skip(f'no right to mount a tmpfs ({r.stderr.strip()}); the file size limit is tested instead')


@pytest.mark.parametrize('options,says', [('size=1M', 'MB are free'), ('ro', 'Read-only file system')])
def test_small_or_read_only_disk(cnn_tricks, photos, tmp_path, options, says):
    (tmp_path/'disk').mkdir()
    mount('-o', options, 'none', tmp_path/'disk')
    try:
        job = cnn_tricks('train', photos, '--steps', 1, '--out', 'disk/run', code=1, lines=1)
        assert 'cannot write to disk/run' in job.err and says in job.err
    finally: subprocess.run(['umount', tmp_path/'disk'], check=True)


def test_disk_fills_up(cnn_tricks, photos, tmp_path):
    "A write that fails half-way, here by a limit on the size of files: one line, and nothing half-written."
    job = cnn_tricks('train', photos, '--steps', 1, '--recipe', 'baseline', code=1, file_size=200_000)
    assert 'cannot write to cnn_tricks_run: File too large' in job.err.splitlines()[-1]
    assert [p.name for p in (tmp_path/'cnn_tricks_run').iterdir()] == ['run.json']
    cnn_tricks('train', '--resume')  # with room again
    assert (tmp_path/'cnn_tricks_run'/'metrics.json').exists() and not (tmp_path/'cnn_tricks_run'/'run.json').exists()


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='this system has no /dev/full')
def test_output_cannot_be_written(cnn_tricks):
    assert 'No space left' in cnn_tricks('doctor', '--no-measure', '--json', code=1, lines=1, stdout=Path('/dev/full')).err


# stopped and resumed

def test_ctrl_c_and_resume(server, cnn_tricks, photos, tmp_path):
    stop = dict(at=('fast: epoch', signal.SIGINT))
    job = Job(server, tmp_path, 'train', photos, '--epochs', 60, '--no-baseline', '--out', 'my run', **stop).wait()
    last = job.err.splitlines()[-1]
    assert job.code == 130 and 'stopped at step' in last and 'go on with: cnn_tricks train --resume' in last
    assert sorted(p.name for p in (tmp_path/'my run').iterdir()) == ['checkpoint.pt', 'report.html', 'run.json']
    assert 'To go on: cnn_tricks train --resume' in ''.join(check_page(tmp_path/'my run'/'report.html').text)
    assert 'unfinished' in cnn_tricks('train', photos, '--out', 'my run', code=2, lines=1).err
    assert 'epochs was 60' in cnn_tricks('train', '--out', 'my run', '--epochs', 9, '--resume', code=2, lines=1).err
    again = cnn_tricks(*shlex.split(last.partition('go on with: cnn_tricks ')[2]))
    stopped, first = (float(e.split('fast: epoch ')[1].split()[0]) for e in (job.err, again.err))
    m = json.loads((tmp_path/'my run'/'metrics.json').read_text())
    assert first > stopped and m['finished'] and len(m['losses']) == m['steps'] and len(m['history']) == 60
    check_page(tmp_path/'my run'/'report.html')


def test_kill_and_resume(server, cnn_tricks, photos, tmp_path):
    "Killed while the second network trains; the first is not trained again."
    job = Job(server, tmp_path, 'train', photos, '--epochs', 60, at=('fast: epoch', signal.SIGKILL)).wait()
    assert job.code == -signal.SIGKILL
    before = (tmp_path/'cnn_tricks_run'/'baseline'/'model.safetensors').read_bytes()
    again = cnn_tricks('train', photos, '--epochs', 60, '--resume')
    assert 'baseline: epoch' not in again.err and 'fast: epoch' in again.err and 'test accuracy' in again.out
    assert before == (tmp_path/'cnn_tricks_run'/'baseline'/'model.safetensors').read_bytes()
    assert 'nothing to go on with' in cnn_tricks('train', photos, '--steps', 1, '--resume', '--out', 'new', '--no-baseline').out


# audit

SMALL = '--recipe', 'r.json', '--tricks', 'label_smoothing', 'mixup', '--size', 16


@pytest.fixture
def recipe(tmp_path):
    "`r.json`: a network so small that an audit ends long before its minutes: it has all the seeds that it may take."
    r = dict(network='resnet', network_args=dict(width=4, blocks=[0, 1], grid=2), optimizer='adamw', lr=.01, batch_size=32, steps=12)
    (tmp_path/'r.json').write_text(json.dumps(r))


def check_audit_page(path):
    page = Page(path.read_text(encoding='utf-8'))
    assert not [w for w in page.wrong if not w.startswith('https://cnn-tricks.github.io/')], page.wrong
    tags, pictures = [t for t, _ in page.tags], [a for t, a in page.tags if t == 'img']
    assert not {'script', 'link', 'iframe', 'object', 'form'} & set(tags) and tags.count('h1') == 1
    assert all(len(a['alt']) > 10 for a in pictures)
    return page


def test_audit(cnn_tricks, photos, recipe, tmp_path):
    job = cnn_tricks('audit', photos, *SMALL, '--minutes', 5, '--out', 'a')
    assert re.search(r'plan: [12] tricks? against the recipe', job.out) and ' tried. ' in job.out and 'round 3' in job.err
    assert sorted(p.name for p in (tmp_path/'a').iterdir()) == ['ledger.json', 'recipe.json', 'report.html']
    page = check_audit_page(tmp_path/'a'/'report.html')
    text = ''.join(page.text)
    for word in 'label_smoothing', 'mixup', 'The last check', 'What this does not say', 'broken.png', 'What was not tried':
        assert word in text
    assert any(a.get('href', '').endswith('/stopping.html') for _, a in page.tags)
    d = json.loads((tmp_path/'a'/'ledger.json').read_text())
    assert d['finished'] and d['asked']['minutes'] == 5 and d['asked']['delta'] == .01  # lesson 80 tests the clock
    before = (tmp_path/'a'/'ledger.json').read_bytes()
    assert 'holds results' in cnn_tricks('audit', photos, *SMALL, '--out', 'a', code=2, lines=1).err
    assert 'is finished' in cnn_tricks('audit', '--resume', '--out', 'a').out and before == (tmp_path/'a'/'ledger.json').read_bytes()
    cnn_tricks('train', photos, '--size', 16, '--recipe', 'a/recipe.json', '--no-baseline', '--out', 'b')
    r = json.loads((tmp_path/'b'/'recipe.json').read_text())['recipe']
    assert r['steps'] == 12 and {t['name'] for t in r['tricks']} <= {'label_smoothing', 'mixup'}


def test_audit_stops_and_goes_on(server, cnn_tricks, photos, recipe, tmp_path):
    job = Job(server, tmp_path, 'audit', photos, *SMALL, '--minutes', 5, at=('round 3', signal.SIGINT)).wait()
    last = job.err.splitlines()[-1]
    assert job.code == 130 and 'stopped in round 3' in last and 'go on with: cnn_tricks audit --resume' in last
    folder = tmp_path/'cnn_tricks_audit'
    assert sorted(p.name for p in folder.iterdir()) == ['ledger.json', 'recipe.json', 'report.html', 'run.json']
    assert 'Not finished' in ''.join(check_audit_page(folder/'report.html').text)
    before = json.loads((folder/'ledger.json').read_text())
    assert 'unfinished' in cnn_tricks('audit', photos, '--out', 'cnn_tricks_audit', code=2, lines=1).err
    assert 'minutes was 5.0, now 3.0' in cnn_tricks('audit', '--resume', '--minutes', 3, code=2, lines=1).err
    assert 'what `cnn_tricks audit` began' in cnn_tricks('train', '--resume', '--out', 'cnn_tricks_audit', code=2, lines=1).err
    kept = (folder/'ledger.json').read_text()
    (folder/'ledger.json').write_text(kept[:200])
    assert 'cannot be read as an audit' in cnn_tricks('audit', '--resume', code=1, lines=1).err
    assert (folder/'ledger.json').read_text() == kept[:200]
    (folder/'ledger.json').write_text(kept)
    assert 'going on after round 2' in cnn_tricks('audit', '--resume').out
    after = json.loads((folder/'ledger.json').read_text())
    for old, new in zip(before['arms'], after['arms']): assert new['runs'][:len(old['runs'])] == old['runs']
    assert after['finished'] and not (folder/'run.json').exists()


def test_audit_complains(cnn_tricks, photos, recipe, tmp_path):
    (tmp_path/'empty').mkdir()
    draw(tmp_path/'single', 2, ('only',))
    for folder in 'empty', 'single': assert folder in cnn_tricks('audit', folder, code=1, lines=1).err
    assert "did you mean 'mixup'" in cnn_tricks('audit', photos, '--tricks', 'mixp', code=2, lines=1).err
    assert re.search(r'--minutes 0\.001: too short .* about [\d.]+ minutes', cnn_tricks('audit', photos, *SMALL, '--minutes', .001, code=2, lines=1).err)
    assert 'already' in cnn_tricks('audit', photos, '--tricks', 'one_cycle', '--minutes', 1, code=1, lines=1).err
    assert 'is a file' in cnn_tricks('audit', photos, '--out', 'r.json', code=2, lines=1).err
    assert not list(tmp_path.glob('cnn_tricks_audit*'))


# predict

@pytest.fixture
def pictures(tmp_path):
    "One picture of each kind that can be read: exact size, other shape, transparent, palette, 16 bits."
    rng = np.random.default_rng(1)
    x = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(x).save(tmp_path/'exact.png')
    Image.fromarray(rng.integers(0, 255, (50, 90, 3), dtype=np.uint8)).save(tmp_path/'oblong.jpg')
    Image.fromarray(rng.integers(0, 255, (40, 40, 4), dtype=np.uint8)).save(tmp_path/'clear.png')
    Image.fromarray(x).quantize(16).save(tmp_path/'palette.gif')
    Image.fromarray(rng.integers(0, 65535, (33, 33)).astype(np.uint16)).save(tmp_path/'deep.tif')
    return ['exact.png', 'oblong.jpg', 'clear.png', 'palette.gif', 'deep.tif']


def test_predict(cnn_tricks, trained, pictures, tmp_path):
    import torch
    from cnn_tricks.core.result import load_trained
    rows = json.loads(cnn_tricks('predict', trained[0], *pictures, '--top', 9, '--json', lines=0).out)
    assert [r['image'] for r in rows] == pictures
    for r in rows:
        chances = [t['probability'] for t in r['top']]
        assert {t['class'] for t in r['top']} == set(CLASSES) and chances == sorted(chances, reverse=True)
        assert abs(sum(chances) - 1) < 1e-3
    x = torch.from_numpy(np.array(Image.open(tmp_path/'exact.png'))).permute(2, 0, 1)[None]  # nothing to resize
    want, got = load_trained(trained[0]).predict(x)[0].tolist(), {t['class']: t['probability'] for t in rows[0]['top']}
    assert max(abs(p - got[c]) for c, p in zip(sorted(CLASSES), want)) < 1e-3
    text = cnn_tricks('predict', trained[0]/'model.safetensors', *pictures, lines=0).out.splitlines()
    assert len(text) == len(pictures) and text[0].startswith(f'exact.png: {rows[0]["top"][0]["class"]} ') and text[0].endswith(' %')


def test_predict_draws_where_it_looks(cnn_tricks, trained, pictures, tmp_path):
    (tmp_path/'note.png').write_text('no picture')
    args = 'predict', trained[0], *pictures, 'note.png', '--heat', 'new/where'
    rows = json.loads(cnn_tricks(*args, '--json', code=1, lines=1).out)
    assert [Path(r['heat']).name for r in rows[:-1]] == [f'{p}.png' for p in pictures] and 'heat' not in rows[-1]
    drawn = [Image.open(tmp_path/r['heat']) for r in rows[:-1]]
    assert all(d.width > d.height > 100 and len(np.unique(np.asarray(d))) > 20 for d in drawn)
    again = cnn_tricks('predict', trained[0], 'exact.png', '--heat', 'new/where', lines=0).out
    assert again.rstrip().endswith('(new/where/exact.png_2.png)'), 'a picture that is there stays'
    (tmp_path/'file').touch()
    assert 'file' in cnn_tricks('predict', trained[0], 'exact.png', '--heat', 'file', code=1, lines=1).err


def test_predict_goes_on_after_bad_pictures(cnn_tricks, trained, pictures, tmp_path):
    (tmp_path/'note.png').write_text('no picture')
    (tmp_path/'empty.jpg').touch()
    (tmp_path/'cut.png').write_bytes((tmp_path/'exact.png').read_bytes()[:900])
    bad = 'note.png', 'empty.jpg', 'cut.png', 'missing.png'
    job = cnn_tricks('predict', trained[0], *bad, *pictures, code=1, lines=len(bad))
    assert [l.split(': ')[2] for l in job.err.splitlines()] == list(bad) and len(job.out.splitlines()) == len(pictures)
    rows = json.loads(cnn_tricks('predict', trained[0], 'note.png', 'exact.png', '--json', code=1, lines=1).out)
    assert 'error' in rows[0] and 'top' in rows[1]


def test_predict_with_a_broken_model(cnn_tricks, trained, pictures, tmp_path):
    assert 'holds no recipe.json' in cnn_tricks('predict', '.', 'exact.png', code=1, lines=1).err
    for name in 'recipe.json', 'model.safetensors':
        broken = tmp_path/f'no {name}'
        broken.mkdir()
        for n in 'recipe.json', 'model.safetensors': (broken/n).write_bytes((trained[0]/n).read_bytes()[:None if n != name else 40])
        assert f'{broken} cannot be read as a model' in cnn_tricks('predict', broken, 'exact.png', code=1, lines=1).err


# lessons and doctor

def test_lessons_keep_what_was_changed(tmp_path):
    def copy(code=0): return run(sys.executable, '-m', 'cnn_tricks', 'lessons', 'course', '--no-open', cwd=tmp_path, code=code)
    assert 'kept' not in copy()
    wanted = [p.relative_to(lessons_path()) for pattern in ('*.ipynb', 'images/*') for p in lessons_path().glob(pattern)]
    found = {p.relative_to(tmp_path/'course') for p in (tmp_path/'course').rglob('*') if p.is_file()}
    assert len(wanted) > 5 and found == {*wanted, Path('.cnn_tricks_lessons.json')}
    mine, gone = sorted((tmp_path/'course').glob('*.ipynb'))[:2]
    mine.write_text('my own work')
    gone.unlink()
    assert f'kept, since you changed them: {mine.name}' in copy()
    assert mine.read_text() == 'my own work' and gone.exists()


def test_lessons_renew_what_was_not_changed(tmp_path, monkeypatch):
    "A newer release brings a newer lesson; one that the reader changed stays."
    from cnn_tricks.cli import lessons as commands
    (tmp_path/'old').mkdir()
    for n in 'a', 'b': (tmp_path/'old'/f'{n}.ipynb').write_text('first')
    monkeypatch.setattr(commands, 'lessons_path', lambda: tmp_path/'old')
    assert commands.copy_lessons(tmp_path/'course') == (2, [])
    (tmp_path/'course'/'a.ipynb').write_text('mine')
    for n in 'a', 'b': (tmp_path/'old'/f'{n}.ipynb').write_text('second')
    assert commands.copy_lessons(tmp_path/'course') == (1, ['a.ipynb'])
    assert [(tmp_path/'course'/f'{n}.ipynb').read_text() for n in 'ab'] == ['mine', 'second']


def test_lessons_complain(tmp_path):
    def fails(*args, env=None, before=''):
        code = f'import sys\n{before}\nfrom cnn_tricks.cli.main import main\nsys.exit(main({list(args)}))'
        r = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, text=True, capture_output=True)
        assert r.returncode == 1 and r.stderr.count('\n') == 1 and 'Traceback' not in r.stderr, r.stderr
        return r.stderr
    (tmp_path/'file').write_text('in the way')
    assert 'cannot write the lessons to file' in fails('lessons', 'file', '--no-open')
    assert "pip install 'cnn_tricks[course]'" in fails('lessons', 'course', before="sys.modules['jupyterlab'] = None")


def test_lessons_open_jupyterlab(tmp_path):
    "With a stand-in that says how it was called."
    (tmp_path/'site'/'jupyterlab').mkdir(parents=True)
    (tmp_path/'site'/'jupyterlab'/'__init__.py').touch()
    (tmp_path/'site'/'jupyterlab'/'__main__.py').write_text('import os, sys; print([os.path.basename(os.getcwd()), *sys.argv[1:]])')
    path = os.pathsep.join(filter(None, [str(tmp_path/'site'), os.environ.get('PYTHONPATH')]))
    out = run(sys.executable, '-m', 'cnn_tricks', 'lessons', '--port', '8899', cwd=tmp_path, env={'PYTHONPATH': path})
    assert "['cnn_tricks_lessons', 'index.ipynb', '--port=8899'" in out


def test_doctor(cnn_tricks):
    found = json.loads(cnn_tricks('doctor', '--json', '--no-measure', lines=0).out)
    assert {v['name'] for v in found['versions']} >= {'python', 'torch', 'fastai', 'torchvision', 'cnn_tricks'}
    assert all(v['ok'] for v in found['versions']) and found['problems'] == [] and found['machine']['cores'] >= 1
    text = cnn_tricks('doctor', '--no-measure', lines=0).out
    assert 'torch' in text and 'cores' in text and 'no problem found' in text
    wrong = cnn_tricks('doctor', '--no-measure', CNN_TRICKS_CACHE='/proc/nowhere').out
    assert not Path('/proc').exists() or 'problem: /proc/nowhere cannot be written' in wrong


# what the commands are made of

@pytest.fixture(scope='module')
def drawn():
    from cnn_tricks.data.drawn_shapes import shapes
    return shapes(n=120, size=24)


def small_run(data, **kwargs):
    from cnn_tricks.core.recipe import recipes
    from cnn_tricks.core.train import train
    return train(recipes['fast'].replace(steps=3), data, progress=False, device='cpu', **kwargs)


def test_errors_are_one_line(capsys, monkeypatch):
    assert one_line(OSError(28, 'No space left on device', 'out')) == 'out: No space left on device'
    assert one_line(OSError(28, 'No space left on device')) == 'No space left on device'
    assert one_line(ValueError('two\n  lines')) == 'two lines' and one_line(KeyError('a')) == "KeyError: 'a'"
    assert one_line(ValueError()) == 'ValueError:'
    assert complain('no', 5) == 5 and capsys.readouterr().err == 'cnn_tricks: no\n'
    monkeypatch.setenv('RANK', '1')
    assert complain('no') == 1 and capsys.readouterr().err == ''


def test_numbers_have_limits():
    from argparse import ArgumentTypeError
    assert number(float, 0, above=True)('0.5') == .5 and number(int, 1, most=3)('3') == 3
    for kind, text in (number(float, 0, above=True), '0'), (number(int, 1), '1.5'), (number(int, 1, most=3), '4'), (number(float, 0), 'nan'):
        with pytest.raises(ArgumentTypeError, match=re.escape(repr(text))): kind(text)


def test_folders_of_runs(tmp_path, monkeypatch):
    from cnn_tricks.cli.run_options import run_folder
    monkeypatch.chdir(tmp_path)
    assert str(run_folder()) == 'cnn_tricks_run' and str(run_folder(resume=True)) == 'cnn_tricks_run'
    Path('cnn_tricks_run').mkdir()
    Path('cnn_tricks_run/metrics.json').touch()
    assert str(run_folder()) == 'cnn_tricks_run_2' and str(run_folder(resume=True)) == 'cnn_tricks_run'
    assert str(run_folder('cnn_tricks_run', resume=True)) == 'cnn_tricks_run' and str(run_folder(default='other')) == 'other'
    with pytest.raises(UsageError, match='holds results'): run_folder('cnn_tricks_run')


def test_options_and_budgets(tmp_path, drawn):
    "Two minutes in all are 60 seconds for each of two networks; five epochs of few images are at least 500 steps."
    from cnn_tricks.cli.run_options import given_options, options_of, planned, read_recipe, same_seconds
    from cnn_tricks.core.recipe import recipes
    from cnn_tricks.data.datasets import embedded
    asked = parser().parse_args(shlex.split('train photos --minutes 2 --lr 3e-3'))
    assert (asked.folder, asked.minutes, asked.lr, asked.epochs) == ('photos', 2, 3e-3, None)
    o = options_of(tmp_path, given_options(asked), resume=False)
    assert (o['recipe']['label'], o['minutes'], o['seed']) == ('fast', 2, 42) and not same_seconds(o)
    (first, baseline), (second, fast) = planned(o, drawn)
    assert (first, second) == ('baseline', 'fast') and baseline.seconds == fast.seconds == 60
    assert fast.lr == 3e-3 and baseline.lr == recipes['baseline'].lr
    plain = options_of(tmp_path, {}, resume=False)
    assert same_seconds(plain) and planned(plain, drawn)[0][1].steps == 500 and planned(plain, embedded())[0][1] == recipes['baseline']
    (tmp_path/'mine.json').write_text('{"steps": 20}')
    assert read_recipe(str(tmp_path/'mine.json'))['own_budget'] and not read_recipe('fast')['own_budget']


def test_run_bar_and_stopped_line(drawn, tmp_path):
    "The bar tells the accuracy; the line after Ctrl-C says how far it is, and writes a page."
    from cnn_tricks.cli.console import console
    from cnn_tricks.cli.progress import RunBar
    from cnn_tricks.cli.train import stopped_line
    from cnn_tricks.report.training import Entry
    with RunBar('try', console(stderr=True)) as bar: done = Entry('fast', small_run(drawn, cbs=[bar]))
    assert re.fullmatch(r'  accuracy \d+\.\d %', bar.scored)
    assert stopped_line(tmp_path, [], 'begin again') == 'stopped before the first step; go on with: begin again'
    line = stopped_line(tmp_path, [done], 'begin again')
    assert line.startswith('fast is done; stopped after step 3') and line.endswith('go on with: begin again')
    assert 'To go on: begin again' in (tmp_path/'report.html').read_text(encoding='utf-8')
    assert 'no report: No such file' in stopped_line(tmp_path/'gone', [done], 'x')


def test_a_finished_run_is_read_back(drawn, tmp_path):
    from cnn_tricks.cli.train import load_result
    run = small_run(drawn)
    run.save(tmp_path/'saved')
    back = load_result(tmp_path/'saved', drawn)
    assert back.history == run.history and back.steps == 3 and back.test() == run.test()
    with pytest.raises(UsageError, match='images have changed'): load_result(tmp_path/'saved', drawn.subset(50))


def test_audit_tells_its_plan():
    from cnn_tricks.base.paths import records_path
    from cnn_tricks.cli.audit import clock, plan_lines
    from cnn_tricks.studies.audit_result import Audit
    assert [clock(s) for s in (-1, 59.9, 61)] == ['0:00', '0:59', '1:01']
    a = Audit.load(records_path()/'audit.json')
    first, _, tries, *refused = plan_lines(a)
    assert first.startswith(f'plan: {len(a.arms) - 1} tricks against the recipe') and tries == f'tries: {", ".join(x.name for x in a.arms[1:])}'
    assert refused == [f'not {", ".join(names)}: {why}' for why, names in a.reasons().items()]


def test_doctor_measures():
    from cnn_tricks.cli.doctor import cache_state, fastest, measure_steps, settings
    import torch
    assert cache_state()['error'] == ''
    assert list(settings('cpu'))[0] == 'float32' and not any(d is torch.float16 for _, d in settings('cpu').values())
    speeds = {'float32': 1., 'channels_last': 1.04, 'bfloat16': .9}
    rows = [dict(network='article', setting=s, speed=v) for s, v in speeds.items()]
    assert fastest(rows) == {'article': 'float32'} # less than 5% faster is not faster
    assert fastest(rows + [dict(network='article', setting='both', speed=1.3)]) == {'article': 'both'}
    timed = measure_steps('cpu', seconds=.1, batch_size=4)
    assert {r['network'] for r in timed} == {'article', 'resnet'} and all(r['milliseconds'] > 0 for r in timed)
    assert [r['speed'] for r in timed if r['setting'] == 'float32'] == [1., 1.]
