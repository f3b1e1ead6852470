"""The words of the command line: commands, arguments and help; nothing heavy is imported"""
import argparse

from .. import __version__
from .argument_types import OneLineParser, above_0, add_machine, at_least_1, command, number, text
from .study_arguments import add_audit, add_bench

__all__ = ['parser']


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
    p = command(commands, 'train', 'train a network, beside the plain baseline', _train_about, [
        '', 'photos', 'labels.csv', 'photos --minutes 2', 'photos --network timm/resnet18 --size 160',
        'photos --from-scratch', '--recipe my_recipe.json --no-baseline --out trial', '--resume'])
    p.add_argument('folder', nargs='?', type=text, metavar='FOLDER', help='a folder for each class, or train and test '
                   'folders of such; or a CSV file of labels (path,label and, if wanted, split and group); without it, '
                   'the clothes that come with cnn_tricks')
    p.add_argument('--recipe', type=text, help='fast (default but for photographs), baseline, or a JSON file')
    p.add_argument('--network', type=text, metavar='NAME', help='the network to train, in place of a recipe: '
                   'timm/NAME for any of timm, with its pretrained weights where they are at hand')
    p.add_argument('--weights', type=text, metavar='FILE', help='pretrained weights of that network')
    p.add_argument('--from-scratch', action='store_true', default=None, help='use no pretrained weights')
    p.add_argument('--scratch-too', action='store_true', default=None,
                   help='beside a pretrained network train a residual one from scratch, for as many seconds')
    budget = p.add_mutually_exclusive_group()
    add = budget.add_argument
    add('--epochs', type=above_0, metavar='N', help='passes over the images, for each network')
    add('--minutes', type=above_0, metavar='M', help='minutes of training, shared by both networks; '
        'with a pretrained network: for everything, from the start of the command')
    add('--steps', type=at_least_1, metavar='N', help='steps of training, for each network')
    p.add_argument('--resume', action='store_true', help='go on with the run in --out')
    p.add_argument('--out', type=text, metavar='DIR', help='folder for the results (default: cnn_tricks_run, or '
                   'cnn_tricks_run_2 and so on where that holds a run)')
    p.add_argument('--size', type=at_least_1, metavar='PIXELS', help='side of the images (default: as they are, up to '
                   '64; with a pretrained network up to 128, on a GPU up to 224)')
    p.add_argument('--seed', type=number(int, 0), help='decides the weights and the order of the images (default: 42)')
    p.add_argument('--batch-size', type=at_least_1, metavar='N', help="images in a step (default: the recipe's)")
    p.add_argument('--lr', type=above_0, help="learning rate (default: the recipe's)")
    p.add_argument('--no-baseline', action='store_true', default=None, help='train the recipe alone')
    add_machine(p)


_predict_about = '''Prints, for each picture, its class and how sure the network is; with --heat,
draws where it looks. A folder stands for all pictures in it, at any depth. With
--csv, writes a table: path, class, the probability of each class and, for a file
that cannot be read, the error; it takes as many pictures as there are.'''


def _add_predict(commands):
    p = command(commands, 'predict', 'name the class of each picture', _predict_about, [
        'cnn_tricks_run a.jpg', 'cnn_tricks_run *.jpg --top 3', 'cnn_tricks_run photos --csv classes.csv',
        'cnn_tricks_run photos --csv classes.csv --views 2', 'cnn_tricks_run a.jpg --heat where',
        'cnn_tricks_run a.jpg --json'])
    p.add_argument('model', type=text, metavar='MODEL', help='the folder that `cnn_tricks train` has left')
    p.add_argument('images', nargs='+', type=text, metavar='IMAGE', help='picture files, or folders of them')
    p.add_argument('--top', type=at_least_1, default=1, metavar='N', help='how many classes to print (default: 1)')
    p.add_argument('--views', type=number(int, 1, most=10), default=1, metavar='N', help='average the probabilities over '
                   'N views of each picture: as it is, mirrored (2), and moved by some pixels (3 to 10; default: 1)')
    form = p.add_mutually_exclusive_group()
    form.add_argument('--csv', type=text, metavar='FILE', help='write a table; FILE must not exist')
    form.add_argument('--heat', type=text, metavar='DIR',
                      help='draw where the network looks in each picture, into this folder')
    p.add_argument('--json', action='store_true', help='print JSON')


_export_about = '''Writes a trained network as an ONNX file, for programs without PyTorch. The file
takes images as bytes, uint8 (N, channels, height, width) of the size trained
on, normalises them and gives the probability of each class; its metadata hold
the names of the classes and how pictures are resized, as JSON. Then onnxruntime
predicts with the file: its probabilities must be the network's, to 0.0001.
It needs more packages: pip install 'cnn_tricks[onnx]'.'''


def _add_export(commands):
    p = command(commands, 'export', 'write a trained network as an ONNX file', _export_about,
                 ['cnn_tricks_run pets.onnx', 'cnn_tricks_run/model.safetensors pets.onnx', 'trial ~/pets.onnx'])
    p.add_argument('model', type=text, metavar='MODEL', help='the folder that `cnn_tricks train` has left')
    p.add_argument('file', type=text, metavar='FILE.onnx', help='the file to write; it must not exist')


def _add_lessons(commands):
    p = command(commands, 'lessons', 'open the course in JupyterLab',
                 'Copies the lessons to a folder of yours and opens JupyterLab there. What you have changed is kept.',
                 ['', 'my_course --no-open', '--port 8899'])
    p.add_argument('folder', nargs='?', type=text, default='cnn_tricks_lessons', metavar='DIR',
                   help='default: cnn_tricks_lessons')
    p.add_argument('--no-open', action='store_true', help='copy, and do not open JupyterLab')
    p.add_argument('--port', type=number(int, 1, most=65535),
                   help="JupyterLab's port (default: 8888, or the next that is free)")


def _add_doctor(commands):
    p = command(commands, 'doctor', 'say what this machine has and what is fastest on it',
                 'Prints versions, device, cores, threads and folders, and measures for some seconds which settings '
                 'train fastest here.', ['', '--no-measure', '--json'])
    p.add_argument('--no-measure', action='store_true', help='leave out the measurement')
    p.add_argument('--json', action='store_true', help='print JSON')


def parser()->argparse.ArgumentParser: # of the whole command line
    "The command line and its help"
    p = OneLineParser('cnn_tricks', epilog='cnn_tricks COMMAND --help has the details and examples.',
                description='Which training tricks help your convolutional network, on your images, on your machine.')
    p.add_argument('--version', action='version', version=f'cnn_tricks {__version__}')
    commands = p.add_subparsers(metavar='COMMAND', required=True, parser_class=OneLineParser)
    adders = _add_train, _add_predict, _add_export, add_audit, add_bench, _add_lessons, _add_doctor
    for add in adders: add(commands)
    return p
