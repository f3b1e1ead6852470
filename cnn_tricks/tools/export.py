"""Export to ONNX: a trained network with its normalisation inside, checked against onnxruntime"""
import copy, json, logging, warnings
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import torch
from torch import nn

from .. import __version__
from ..base.files import atomic_write
from ..core.result import Trained

__all__ = ['ForBytes', 'export_onnx']


class ForBytes(nn.Module):
    "A network that takes bytes, normalises them as its training did and gives probabilities"
    mean:torch.Tensor
    std:torch.Tensor

    def __init__(self,
        trained:Trained # its network is copied: to the processor, in `eval` mode
    ):
        super().__init__()
        self.net = copy.deepcopy(trained.model).cpu().float().eval().to(memory_format=torch.contiguous_format)
        std = [s or 1. for s in trained.std] # as in training: a channel that never varies is not divided
        for name, v in (('mean', trained.mean), ('std', std)):
            self.register_buffer(name, torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self,
        images:torch.Tensor # uint8 (N, C, H, W)
    )->torch.Tensor: # float32 (N, classes); each row sums to 1
        return self.net((images.float()/255 - self.mean)/self.std).softmax(1)


def export_onnx(
    trained:Trained, # a trained network
    path:Path # the file to write, ending in .onnx; it must not exist
)->float: # the largest difference of a probability between onnxruntime and `trained.predict`
    """Write a trained network as an ONNX file that gives the same probabilities

    Input `images`: uint8 (N, C, H, W) of the size trained on, N free; 0 is black, 255 white, colours are RGB. Output
    `probabilities`: float32 (N, classes). Normalisation and softmax are inside. The file's metadata hold, as JSON,
    `classes`, `channels`, `size` (height, width) and `resizing`: how training brought pictures to that size.

    onnxruntime then predicts images that are drawn for this check, one at a time and several at once. `ValueError` where
    the network cannot be exported or a probability differs by more than 1e-4, and then no file is left; `ImportError`
    without the packages (`pip install 'cnn_tricks[onnx]'`), `FileExistsError`, `OSError` where it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != '.onnx': raise ValueError(f'{path}: the name must end in .onnx')
    if path.exists(): raise FileExistsError(f'{path} exists: remove it, or give another name')
    onnx, runtime, _ = map(_package, ('onnx', 'onnxruntime', 'onnxscript'))
    model = _translated(trained)
    onnx.helper.set_model_props(model, {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
                                        for k, v in _metadata(trained).items()})
    try: raw = model.SerializeToString()
    except Exception: raise ValueError(f'{trained.recipe.network}: larger than an ONNX file can be, 2 GB') from None
    worst = _difference(runtime, raw, trained)
    if not worst <= 1e-4: raise ValueError(f'{trained.recipe.network}: onnxruntime differs by {worst:.1g} in a probability')
    with atomic_write(path) as f: f.write(raw)
    return worst


def _package(name):
    try: return import_module(name)
    except ImportError: raise ImportError(f"ONNX needs the package {name}: pip install 'cnn_tricks[onnx]'") from None


@contextmanager
def _quiet():
    "Keep what torch says on the way from the user: progress, and warnings on versions of operators"
    logger, level = logging.getLogger('torch.onnx'), logging.getLogger('torch.onnx').level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally: logger.setLevel(level)


def _translated(trained):
    "The network as onnx's `ModelProto`; notes that name files of this machine are left out"
    x = torch.zeros(2, trained.channels, *trained.size, dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(ForBytes(trained), (x,), dynamo=True, verbose=False, input_names=['images'],
                                        output_names=['probabilities'], dynamic_shapes=[{0: torch.export.Dim('N')}])
    except Exception as e:
        cause = str(e.__cause__ or e).strip().partition('\n')[0] or type(e).__name__
        raise ValueError(f'network {trained.recipe.network!r} cannot be exported to ONNX: {cause[:200]}') from e
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info,
                 *model.graph.initializer, model.graph):
        part.ClearField('metadata_props')
        part.ClearField('doc_string')
    return model


def _metadata(trained):
    "What a program that uses the file has to know"
    rule = dict(interpolation='bilinear', antialias=True, crop_pct=1.0, crop_mode='center')
    if trained.framing: rule |= trained.framing._asdict()
    return dict(classes=list(trained.classes), channels=trained.channels, size=list(trained.size), resizing=rule,
                input='uint8 (N, C, H, W), 0 to 255, ' + ('grey' if trained.channels == 1 else 'RGB'),
                output='probabilities, float32 (N, classes)', network=trained.recipe.network, cnn_tricks=__version__)


def _difference(runtime, raw, trained):
    "The largest difference of a probability, over flat, smooth and noisy images, one at a time and together"
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = runtime.InferenceSession(raw, options, providers=['CPUExecutionProvider'])
    shape, g = (trained.channels, *trained.size), torch.Generator().manual_seed(0)
    flat = torch.tensor([0, 128, 255])[:, None, None, None].expand(-1, *shape)
    noise = torch.randint(256, (4, *shape), generator=g)
    coarse = torch.rand(4, shape[0], 5, 5, generator=g)*255
    smooth = nn.functional.interpolate(coarse, trained.size, mode='bilinear').round().long()
    x = torch.cat([flat, noise, smooth]).to(torch.uint8)
    want = trained.predict(x)
    got = [session.run(None, {'images': b.numpy()})[0] for b in (*x.split(1), x)]
    return max((torch.from_numpy(a) - b).abs().max().item() for a, b in zip(got, (*want.split(1), want)))
