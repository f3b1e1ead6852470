"""Run the article's Keras example as printed, on one of Keras's backends, beside this package's network.

    pip install keras                                              # and, for another backend, tensorflow-cpu or jax
    python scripts/record/keras_example.py                         # torch: some minutes on one quiet core
    python scripts/record/keras_example.py --backend tensorflow    # or jax
    python scripts/record/keras_example.py --quick                 # small and short, into build/quick/

Each call writes the part of its backend into results/bench/keras.json and leaves the others; called again it goes on
with what is missing. A run is the printed one: 5 epochs, batches of 64, Adam as Keras sets it. The article does not say
what `x_train` holds, so three ways of preparing the images are tried: normalised to mean 0 and standard deviation 1,
which is how this package trains its network, divided by 255, and the pixels as they are (0 to 255). Accuracy is that of
the test images, which choose nothing. An epoch's cost is in seconds of processor time, in turns with an epoch of this
package's. TensorFlow and jax need an environment that sees this one's packages and their own, no more.
"""
import argparse, json, os, statistics, time, warnings
from pathlib import Path

os.environ.update(OMP_NUM_THREADS='1', TF_CPP_MIN_LOG_LEVEL='3', KERAS_TORCH_DEVICE='cpu', JAX_PLATFORMS='cpu')
warnings.filterwarnings('ignore')

import numpy as np
import torch

from cnn_tricks.base.files import atomic_write
from cnn_tricks.base.machine import machine
from cnn_tricks.core.recipe import recipes
from cnn_tricks.core.train import train
from cnn_tricks.data.datasets import embedded
from cnn_tricks.nets.keras_weights import keras_example, load_keras
from cnn_tricks.nets.networks import networks

ROOT = Path(__file__).resolve().parents[2]
PREPARED = {
    'normalised': lambda x, data: (x.float()/255 - data.mean.view(-1, 1, 1))/data.std.view(-1, 1, 1),
    'divided by 255': lambda x, data: x.float()/255,
    'as they are': lambda x, data: x.float(),
}


def keras_run(keras, data, seed, prepare, epochs):
    "-> accuracy on the test images, and the largest difference of a probability after the move to our network"
    keras.utils.set_random_seed(seed)
    model = keras_example()
    x, test = (prepare(part.x, data) for part in (data.train, data.test))
    lay = lambda x: x.permute(0, 2, 3, 1).contiguous().numpy()
    model.fit(lay(x), data.train.y.numpy(), epochs=epochs, batch_size=64, verbose=0)
    theirs = torch.tensor(np.asarray(model.predict(lay(test), verbose=0)))
    carried = load_keras(networks['article'](1, data.n_classes, 28), model.get_weights()).eval()
    with torch.no_grad(): ours = torch.cat([carried(b).softmax(1) for b in test.split(500)])
    return ((theirs.argmax(1) == data.test.y).float().mean().item(), (theirs - ours).abs().max().item())


def our_run(data, seed, epochs):
    "-> accuracy on the test images of the course's baseline, which is the article's network and settings"
    return train(recipes['baseline'].replace(epochs=epochs), data, seed, progress=False, device='cpu').test()


def turns(keras, data, rounds):
    "-> processor seconds of an epoch in turns, ours beside Keras's: all threads counted, so a busy machine matters little"
    alone, model = data.subset(10, parts=('valid',)), keras_example()
    x, y = PREPARED['normalised'](data.train.x, data).permute(0, 2, 3, 1).contiguous().numpy(), data.train.y.numpy()

    def cost(work):
        start = time.process_time()
        work()
        return time.process_time() - start
    theirs = lambda n: model.fit(x[:n], y[:n], epochs=1, batch_size=64, verbose=0)
    ours = lambda: train(recipes['baseline'].replace(epochs=1), alone, 0, progress=False, device='cpu')
    theirs(640)  # what is compiled is compiled
    took = [(cost(lambda: theirs(len(x))), cost(ours)) for _ in range(rounds)]
    return {'keras': [k for k, _ in took], 'cnn_tricks': [o for _, o in took],
            'ratio': statistics.median(k/o for k, o in took)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--backend', default='torch', choices=('torch', 'tensorflow', 'jax'), help='default: %(default)s')
    p.add_argument('--quick', action='store_true', help='small and short, for a try; writes elsewhere')
    a = p.parse_args()
    import torch._dynamo  # before TensorFlow: in the other order this import crashed the process
    os.environ['KERAS_BACKEND'] = a.backend
    import keras  # late: it reads the variable
    from importlib.metadata import version
    data = embedded().subset(256, parts=('train', 'valid', 'test')) if a.quick else embedded()
    epochs, seeds = (1, range(1)) if a.quick else (5, range(3))
    torch.set_num_threads(1)
    path = (ROOT/'build'/'quick' if a.quick else ROOT/'results')/'bench'/'keras.json'
    def read(): return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    kept = read()

    def save(name, part): # another backend may have written in the meantime
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as f: f.write(json.dumps(dict(sorted((read() | {name: part}).items())), indent=1).encode() + b'\n')

    about = {'date': time.strftime('%Y-%m-%d'), 'machine': vars(machine('cpu')), 'seeds': list(seeds), 'epochs': epochs}
    if a.backend == 'torch' and 'cnn_tricks' not in kept:
        ours = about | {'accuracy': {'normalised': [our_run(data, s, epochs) for s in seeds]}}
        save('cnn_tricks', ours)
        print('cnn_tricks', ours['accuracy'], flush=True)
    package = {'tensorflow': 'tensorflow-cpu'}.get(a.backend, a.backend)
    part = {'accuracy': {}, 'moved': {}} | kept.get(a.backend, {}) | about
    part['versions'] = {n: version(n) for n in ('keras', package)}
    if 'processor_seconds' not in part:
        part['processor_seconds'] = turns(keras, data, 1 if a.quick else 3)
        save(a.backend, part)
    print(a.backend, part['processor_seconds'], flush=True)
    for name, prepare in PREPARED.items():
        if name in part['accuracy']: continue
        runs = [keras_run(keras, data, s, prepare, epochs) for s in seeds]
        part['accuracy'][name] = [accuracy for accuracy, _ in runs]
        part['moved'][name] = max(gap for _, gap in runs)
        save(a.backend, part)
        print(a.backend, name, part['accuracy'][name], f'moved: {part["moved"][name]:.1e}', flush=True)


if __name__ == '__main__': main()
