"Export to ONNX: onnxruntime gives the same probabilities, the file says what it needs, and failures leave nothing."
import json

import numpy as np
import pytest
import torch
from torch import nn

from cnn_tricks.cli.main import main
from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe, recipes
from cnn_tricks.core.result import Trained, build_network
from cnn_tricks.data.framing import Framing
from cnn_tricks.nets.networks import networks
from cnn_tricks.tools import export
from cnn_tricks.tools.export import export_onnx

onnx, runtime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')


def trained(recipe, channels=3, size=(24, 32), classes=('ant', 'Köln 猫', '"c"')):
    "A network with weights and batch-norm statistics that are not those of the start"
    torch.manual_seed(0)
    net = build_network(plan(recipe).recipe, channels, len(classes), size)
    for p in net.parameters(): p.data += 0.02*torch.randn_like(p)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean += 0.1*torch.randn_like(m.running_mean)
    return Trained(net.eval(), recipe, list(classes), channels, size, [.5, .4, .3][:channels], [.2, .3, 0.][:channels])


def answers(path, x):
    session = runtime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return torch.from_numpy(session.run(['probabilities'], {'images': x.numpy()})[0])


@pytest.mark.parametrize('name,channels', [('fast', 1), ('timm/test_resnet', 1), ('efficientnet_lite0', 3)])
def test_same_probabilities(tmp_path, name, channels):
    "For any number of images, of bytes that nothing was tried with."
    t = trained(recipes[name] if name in recipes else Recipe(network=name), channels)
    assert export_onnx(t, tmp_path/'n.onnx') <= 1e-4
    g = torch.Generator().manual_seed(5)
    for n in (1, 2, 7):
        x = torch.randint(256, (n, channels, 24, 32), generator=g).to(torch.uint8)
        assert (answers(tmp_path/'n.onnx', x) - t.predict(x)).abs().max() <= 1e-4
    assert t.predict(x).std(0).max() > 1e-5  # the answers differ from image to image


def test_the_file_says_what_it_needs(tmp_path):
    t = trained(Recipe())
    t.framing = Framing('bicubic', 0.9)
    was = {k: v.clone() for k, v in t.model.state_dict().items()}
    export_onnx(t, tmp_path/'n.onnx')
    model = onnx.load(tmp_path/'n.onnx')
    onnx.checker.check_model(model)
    about = {p.key: p.value for p in model.metadata_props}
    assert json.loads(about['classes']) == t.classes and json.loads(about['size']) == [24, 32]
    assert json.loads(about['resizing']) == dict(interpolation='bicubic', antialias=True, crop_pct=0.9, crop_mode='center')
    assert about['input'] == 'uint8 (N, C, H, W), 0 to 255, RGB' and about['network'] == t.recipe.network
    shape = model.graph.input[0].type.tensor_type
    assert shape.elem_type == onnx.TensorProto.UINT8 and [d.dim_value for d in shape.shape.dim] == [0, 3, 24, 32]
    raw = (tmp_path/'n.onnx').read_bytes()
    assert b'.py' not in raw and b'/torch' not in raw  # no place on the machine that wrote it
    assert all(torch.equal(v, was[k]) for k, v in t.model.state_dict().items()) and not t.model.training


@networks.register('sometimes_empty')
def sometimes_empty(in_channels, n_classes, size):
    class Net(nn.Sequential):
        def forward(self, x):
            if x.mean() > 0: return super().forward(x)  # which way depends on the values
            return super().forward(-x)
    return Net(nn.Flatten(), nn.Linear(in_channels*size[0]*size[1], n_classes))


def test_what_cannot_be_exported_says_so(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="network 'sometimes_empty' cannot be exported to ONNX: ") as e:
        export_onnx(trained(Recipe(network='sometimes_empty')), tmp_path/'n.onnx')
    assert '\n' not in str(e.value)
    t = trained(Recipe())
    with pytest.raises(ValueError, match='end in .onnx'): export_onnx(t, tmp_path/'n.pt')
    monkeypatch.setattr(export, '_difference', lambda *args: 0.01)
    with pytest.raises(ValueError, match='onnxruntime differs by 0.01'): export_onnx(t, tmp_path/'n.onnx')
    monkeypatch.setattr(export, '_difference', lambda *args: float('nan'))
    with pytest.raises(ValueError, match='onnxruntime differs'): export_onnx(t, tmp_path/'n.onnx')
    assert not list(tmp_path.iterdir())
    (tmp_path/'n.onnx').write_text('mine')
    with pytest.raises(FileExistsError, match='remove it'): export_onnx(t, tmp_path/'n.onnx')
    monkeypatch.setattr(export, 'import_module', lambda name: exec('raise ImportError'))
    with pytest.raises(ImportError, match=r"pip install 'cnn_tricks\[onnx\]'"): export_onnx(t, tmp_path/'m.onnx')
    assert [p.read_text() for p in tmp_path.iterdir()] == ['mine']


def test_the_check_can_fail(tmp_path):
    "A file without normalisation is not the network."
    t = trained(Recipe())
    model = export._translated(t)
    t.mean = [0., 0., 0.]
    assert export._difference(runtime, model.SerializeToString(), t) > 1e-4


def test_command(tmp_path, capsys):
    t = trained(Recipe(network='resnet'))
    t.save(tmp_path/'run')
    assert main(['export', str(tmp_path/'run'), str(tmp_path/'n.onnx')]) == 0
    said = capsys.readouterr().out.splitlines()
    assert 'uint8 (N, 3, 24, 32), RGB, in; probabilities of 3 classes out' in said[0]
    assert float(said[1].rpartition(' ')[2]) <= 1e-4
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, 24, 32)).astype(np.uint8))
    assert (answers(tmp_path/'n.onnx', x) - t.predict(x)).abs().max() <= 1e-4
    assert main(['export', str(tmp_path/'run'), str(tmp_path/'n.onnx')]) == 1
    assert main(['export', str(tmp_path/'nothing'), str(tmp_path/'m.onnx')]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and 'remove it, or give another name' in said[0] and 'no such folder' in said[1]
