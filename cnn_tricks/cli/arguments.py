"""The words of the command line: commands, arguments, help, and the limits of numbers; nothing heavy is imported"""
import argparse
import math

from .. import __version__

__all__ = ['number', 'parser']


class _Parser(argparse.ArgumentParser):
    "A parser that complains in one line"
    def error(self, message): self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n')


def number(
    kind:type, # int or float
    least:float, # the least that is allowed
    above:bool=False, # is `least` itself refused?
    most:float=None # the most that is allowed; None: what fits into 64 bits
): # function: text -> number
    "A type for argparse: a finite number within limits. It raises `argparse.ArgumentTypeError` that names the limit"
    most = most or (2**63 - 1 if kind is int else math.inf)
    def parse(text):
        try: value = kind(text)
        except ValueError: value = math.nan
        if (value > least if above else value >= least) and value <= most and value != math.inf: return value
        limit = f'{"greater than" if above else "at least"} {least}' + f' and at most {most}'*(value > most)
        raise argparse.ArgumentTypeError(f'{text!r} is no {"whole " if kind is int else ""}number {limit}')
    return parse


_at_least_1, _above_0, _threads = number(int, 1), number(float, 0, above=True), number(int, 1, most=1024)


def _text(text):
    "A type for argparse: words. An empty one is most often a variable of the shell that is not set"
    if text.strip(): return text
    raise argparse.ArgumentTypeError(f'{text!r} is empty; leave the argument out, or give it a value')


def _command(commands, name, help, about, examples):
    "Add a command; its help ends with examples"
    text = 'examples:\n' + '\n'.join(f'  cnn_tricks {name} {e}'.rstrip() for e in examples)
    p = commands.add_parser(name, help=help, description=about, epilog=text, prog=f'cnn_tricks {name}',
                            formatter_class=argparse.RawDescriptionHelpFormatter)
    p.set_defaults(command=name)
    return p


def _add_machine(p):
    "What train and audit say about the machine"
    p.add_argument('--threads', type=_threads, metavar='N',
                   help='processor threads (default: one for each core that other programs leave)')
    p.add_argument('--device', type=_text, help='cpu, cuda, mps (default: the fastest there is)')


_train_about = '''Photographs (colours, 96 pixels or more) get a network that has learned from
millions of others: first a new head alone, on frozen features, an answer within
a minute or so, then all layers, for 5 passes and 10 minutes in all at most
(unless --minutes, --epochs or --steps says otherwise). What is better on the
validation images is kept.

Other images, and photographs with --recipe, get two networks, trained on the
same images: the baseline, as it stands in many tutorials, and then a recipe
with tricks, for as many seconds as the baseline took (unless the recipe or an
option says otherwise).

Prints all side by side, and leaves the last network in a folder:
model.safetensors, recipe.json, metrics.json and report.html. Ctrl-C stops after
the step that is running; --resume goes on. On two processes or GPUs:
accelerate launch --multi_gpu --num_processes 2 -m cnn_tricks train
(CNN_TRICKS_TIMEOUT: seconds to wait for a silent process).'''


def _add_train(commands):
    p = _command(commands, 'train', 'train a network, beside the plain baseline', _train_about, [
        '', 'photos', 'labels.csv', 'photos --minutes 2', 'photos --network timm/resnet18 --size 160',
        'photos --from-scratch', '--recipe my_recipe.json --no-baseline --out trial', '--resume'])
    p.add_argument('folder', nargs='?', type=_text, metavar='FOLDER', help='a folder for each class, or train and test '
                   'folders of such; or a CSV file of labels (path,label and, if wanted, split and group); without it, '
                   'the clothes that come with cnn_tricks')
    p.add_argument('--recipe', type=_text, help='fast (default but for photographs), baseline, or a JSON file')
    p.add_argument('--network', type=_text, metavar='NAME', help='the network to train, in place of a recipe: '
                   'timm/NAME for any of timm, with its pretrained weights where they are at hand')
    p.add_argument('--weights', type=_text, metavar='FILE', help='pretrained weights of that network')
    p.add_argument('--from-scratch', action='store_true', default=None, help='use no pretrained weights')
    p.add_argument('--scratch-too', action='store_true', default=None,
                   help='beside a pretrained network train a residual one from scratch, for as many seconds')
    budget = p.add_mutually_exclusive_group()
    add = budget.add_argument
    add('--epochs', type=_above_0, metavar='N', help='passes over the images, for each network')
    add('--minutes', type=_above_0, metavar='M', help='minutes of training, shared by both networks; '
        'with a pretrained network: for everything, from the start of the command')
    add('--steps', type=_at_least_1, metavar='N', help='steps of training, for each network')
    p.add_argument('--resume', action='store_true', help='go on with the run in --out')
    p.add_argument('--out', type=_text, metavar='DIR', help='folder for the results (default: cnn_tricks_run, or '
                   'cnn_tricks_run_2 and so on where that holds a run)')
    p.add_argument('--size', type=_at_least_1, metavar='PIXELS', help='side of the images (default: as they are, up to '
                   '64; with a pretrained network up to 128, on a GPU up to 224)')
    p.add_argument('--seed', type=number(int, 0), help='decides the weights and the order of the images (default: 42)')
    p.add_argument('--batch-size', type=_at_least_1, metavar='N', help="images in a step (default: the recipe's)")
    p.add_argument('--lr', type=_above_0, help="learning rate (default: the recipe's)")
    p.add_argument('--no-baseline', action='store_true', default=None, help='train the recipe alone')
    _add_machine(p)


_audit_about = '''Tries the tricks of the course on your images: each against the recipe
without it, over several seeds and for equal seconds of training. Says which
help, which hurt, which make no difference and which it could not decide in the
minutes given, and then checks all that help together on the test images. Each
seed splits the images to train and validate on anew. FOLDER.test_reads.json
counts how often the test images were read. Leaves a folder: report.html,
ledger.json and recipe.json (for `cnn_tricks train --recipe`: with what helped,
if the last check says that it helps). Ctrl-C stops; --resume goes on.'''


def _delta(text):
    "A type for argparse: of --delta, in points"
    value = number(float, 0, above=True)(text)
    if value < 100: return value
    raise argparse.ArgumentTypeError(f'{text!r} is no number of points below 100')


def _add_audit(commands):
    p = _command(commands, 'audit', 'find out which tricks help on your images', _audit_about, [
        '', 'photos --minutes 30', 'photos --minutes 10 --tricks ema mixup label_smoothing --delta 0.5', '--resume'])
    p.add_argument('folder', nargs='?', type=_text, metavar='FOLDER', help='as for train; without it, the clothes that '
                   'come with cnn_tricks')
    p.add_argument('--minutes', type=_above_0, metavar='M', help='minutes for everything (default: 10)')
    p.add_argument('--recipe', type=_text,
                   help='what the tricks are added to: fast (default), baseline, or a JSON file')
    p.add_argument('--tricks', nargs='+', type=_text, metavar='NAME', help='tricks to try (default: all that can be '
                   'used here, the most promising first)')
    p.add_argument('--delta', type=_delta, metavar='POINTS', help='the smallest difference of accuracy that matters to '
                   'you, in points (default: 1)')
    p.add_argument('--metric', choices=('accuracy', 'balanced_accuracy', 'macro_f1'), help='what is compared: where '
                   'classes are uneven, balanced_accuracy counts each alike (default: accuracy)')
    p.add_argument('--size', type=_at_least_1, metavar='PIXELS',
                   help='side of the images (default: as they are, up to 64)')
    p.add_argument('--out', type=_text, metavar='DIR', help='folder for the results (default: cnn_tricks_audit, or '
                   'cnn_tricks_audit_2 and so on where that holds an audit)')
    p.add_argument('--resume', action='store_true', help='go on with the audit in --out')
    p.add_argument('--seed', type=number(int, 0, most=2**62), help='the first of the seeds (default: 42)')
    _add_machine(p)


_bench_about = '''Runs a bench: named images, a frozen base recipe, fixed lengths, five seeds.
Rates are tuned on validation images, by seeds of their own; test images are
read once for each run. Everything is kept in one JSON file after each run, so
a bench that was stopped goes on where it was, from a record of others, too.
NAME: clothes, fashion, cifar10, photos; all for --show and --dry-run.
Images: clothes has its own; the others are found as CNN_TRICKS_DATA says.'''


def _add_bench(commands):
    p = _command(commands, 'bench', 'run or show the recorded evidence for the tricks', _bench_about, [
        'all --show', 'fashion --dry-run', 'clothes --tricks ema mixup --seeds 3 --minutes 20',
        'fashion --out results/benches/fashion.json --jobs 2'])
    p.add_argument('bench', type=_text, metavar='NAME', help='the bench, or all')
    p.add_argument('--tricks', nargs='+', type=_text, metavar='NAME', help="arms or tricks (default: the bench's)")
    p.add_argument('--epochs', nargs='+', type=_above_0, metavar='N', help="lengths of runs (default: the bench's)")
    p.add_argument('--seeds', type=number(int, 2, most=100), metavar='N', help="of each arm (default: the bench's)")
    p.add_argument('--minutes', type=_above_0, metavar='M', help='begin no run that would end later')
    p.add_argument('--jobs', type=number(int, 1, most=64), metavar='N',
                   help='runs at a time, one thread each (default: 1)')
    p.add_argument('--device', type=_text, help='cpu, cuda, mps (default: the fastest there is)')
    p.add_argument('--out', type=_text, metavar='FILE', help='the record (default: cnn_tricks_bench/NAME.json)')
    what = p.add_mutually_exclusive_group()
    what.add_argument('--show', action='store_true', help='print what was recorded (that of --out, if it is given)')
    what.add_argument('--dry-run', action='store_true', help='print arms, seeds and hours of what is left')
    what.add_argument('--costs', action='store_true', help='time a step of each arm, in turns, on a quiet machine')
    what.add_argument('--check', action='store_true', help='make one run again and say whether it agrees')


_predict_about = '''Prints, for each picture, its class and how sure the network is; with --heat,
draws where it looks. A folder stands for all pictures in it, at any depth. With
--csv, writes a table: path, class, the probability of each class and, for a file
that cannot be read, the error; it takes as many pictures as there are.'''


def _add_predict(commands):
    p = _command(commands, 'predict', 'name the class of each picture', _predict_about, [
        'cnn_tricks_run a.jpg', 'cnn_tricks_run *.jpg --top 3', 'cnn_tricks_run photos --csv classes.csv',
        'cnn_tricks_run photos --csv classes.csv --views 2', 'cnn_tricks_run a.jpg --heat where',
        'cnn_tricks_run a.jpg --json'])
    p.add_argument('model', type=_text, metavar='MODEL', help='the folder that `cnn_tricks train` has left')
    p.add_argument('images', nargs='+', type=_text, metavar='IMAGE', help='picture files, or folders of them')
    p.add_argument('--top', type=_at_least_1, default=1, metavar='N', help='how many classes to print (default: 1)')
    p.add_argument('--views', type=number(int, 1, most=10), default=1, metavar='N', help='average the probabilities over '
                   'N views of each picture: as it is, mirrored (2), and moved by some pixels (3 to 10; default: 1)')
    form = p.add_mutually_exclusive_group()
    form.add_argument('--csv', type=_text, metavar='FILE', help='write a table; FILE must not exist')
    form.add_argument('--heat', type=_text, metavar='DIR',
                      help='draw where the network looks in each picture, into this folder')
    p.add_argument('--json', action='store_true', help='print JSON')


_export_about = '''Writes a trained network as an ONNX file, for programs without PyTorch. The file
takes images as bytes, uint8 (N, channels, height, width) of the size trained
on, normalises them and gives the probability of each class; its metadata hold
the names of the classes and how pictures are resized, as JSON. Then onnxruntime
predicts with the file: its probabilities must be the network's, to 0.0001.
It needs more packages: pip install 'cnn_tricks[onnx]'.'''


def _add_export(commands):
    p = _command(commands, 'export', 'write a trained network as an ONNX file', _export_about,
                 ['cnn_tricks_run pets.onnx', 'cnn_tricks_run/model.safetensors pets.onnx', 'trial ~/pets.onnx'])
    p.add_argument('model', type=_text, metavar='MODEL', help='the folder that `cnn_tricks train` has left')
    p.add_argument('file', type=_text, metavar='FILE.onnx', help='the file to write; it must not exist')


def _add_lessons(commands):
    p = _command(commands, 'lessons', 'open the course in JupyterLab',
                 'Copies the lessons to a folder of yours and opens JupyterLab there. What you have changed is kept.',
                 ['', 'my_course --no-open', '--port 8899'])
    p.add_argument('folder', nargs='?', type=_text, default='cnn_tricks_lessons', metavar='DIR',
                   help='default: cnn_tricks_lessons')
    p.add_argument('--no-open', action='store_true', help='copy, and do not open JupyterLab')
    p.add_argument('--port', type=number(int, 1, most=65535),
                   help="JupyterLab's port (default: 8888, or the next that is free)")


def _add_doctor(commands):
    p = _command(commands, 'doctor', 'say what this machine has and what is fastest on it',
                 'Prints versions, device, cores, threads and folders, and measures for some seconds which settings '
                 'train fastest here.', ['', '--no-measure', '--json'])
    p.add_argument('--no-measure', action='store_true', help='leave out the measurement')
    p.add_argument('--json', action='store_true', help='print JSON')


def parser()->argparse.ArgumentParser: # of the whole command line
    "The command line and its help"
    p = _Parser('cnn_tricks', epilog='cnn_tricks COMMAND --help has the details and examples.',
                description='Which training tricks help your convolutional network, on your images, on your machine.')
    p.add_argument('--version', action='version', version=f'cnn_tricks {__version__}')
    commands = p.add_subparsers(metavar='COMMAND', required=True, parser_class=_Parser)
    adders = _add_train, _add_predict, _add_export, _add_audit, _add_bench, _add_lessons, _add_doctor
    for add in adders: add(commands)
    return p
