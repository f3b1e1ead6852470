"""`cnn_tricks export`: a trained network as an ONNX file, checked against onnxruntime"""
from .predict import load_model

__all__ = ['export_command']


def export_command(
    a # what argparse made of the command line: `model`, `file`
)->int: # exit code
    """`cnn_tricks export`: write the file and say what it takes, what it gives and how nearly onnxruntime agrees.

    Raises as `load_model` and `export_onnx` do."""
    from ..tools.export import export_onnx
    trained = load_model(a.model)
    worst = export_onnx(trained, a.file)
    (h, w), colours = trained.size, 'grey' if trained.channels == 1 else 'RGB'
    print(f'{a.file}: images, uint8 (N, {trained.channels}, {h}, {w}), {colours}, in; probabilities of '
          f'{len(trained.classes)} classes out; normalisation inside, class names and resizing in its metadata')
    print(f"onnxruntime's probabilities differ from torch's by at most {worst:.1e}")
    return 0
