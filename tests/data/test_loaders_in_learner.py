"The loaders of `ImageData` in fastai's own `Learner`: all that fastai offers for its own loaders works."
import pickle
import warnings

import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import *  # noqa: F403 lr_find
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from PIL import Image
from torch import nn

from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.data.items import as_part
from cnn_tricks.data.loaders import ImageLoader, flip, image_loaders, shift
from cnn_tricks.data import loaders as loaders_module


def make(n=24, size=(8, 6), channels=3, k=3, **kw):
    "Pictures whose class is their brightness"
    g = torch.Generator().manual_seed(n)
    def part(n):
        y = torch.arange(n) % k
        x = torch.randint(0, 60, (n, channels, *size), generator=g) + 80*y[:, None, None, None]
        return Part(x.to(torch.uint8), y)
    return ImageData(part(n), part(n//2), part(n//2), ('dark', 'grey', 'light'), **kw)


def learner(data, tmp_path, **kw):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(data.train.x[0].numel(), data.n_classes))
    kw = {'batch_size': 8, 'device': 'cpu', **kw}
    return Learner(data.loaders(**kw), net, CrossEntropyLossFlat(), path=tmp_path).remove_cb(ProgressCallback)


@pytest.fixture
def data(): return make()


@pytest.fixture
def learn(data, tmp_path):
    learn = learner(data, tmp_path, augment=(flip(), shift(1)))
    with learn.no_logging(): learn.fit(8, 1e-2)
    return learn


@pytest.fixture
def again(learn):
    "Exported and loaded"
    learn.export('net.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return load_learner(learn.path/'net.pkl')


def test_export_keeps_the_learner_as_it_was(learn, data):
    before = learn.get_preds()[0]
    learn.export('net.pkl')
    assert learn.dls.train.dataset is data.train and torch.equal(learn.get_preds()[0], before)


def test_export_holds_no_images(learn, again):
    assert len(again.dls.train.dataset) == len(again.dls.valid.dataset) == 0
    assert again.dls.valid.dataset.x.shape == (0, 3, 8, 6)
    assert list(again.dls.vocab) == ['dark', 'grey', 'light'] and again.dls.valid.asked == 256


def test_predict_after_load(learn, again, data):
    for i in range(5):
        for l in (learn, again):
            name, index, probs = l.predict(data.valid.x[i])
            assert name == data.classes[index] and probs.sum() == pytest.approx(1)
            assert torch.allclose(probs, learn.get_preds()[0][i])
    assert np.mean([learn.predict(x)[1] == y for x, y in zip(data.valid.x, data.valid.y)]) > 0.8


@pytest.mark.parametrize('kind', ['tensor', 'array', 'pair', 'file', 'text', 'picture'])
def test_what_can_be_predicted(again, data, tmp_path, kind):
    x, y = data.valid[0]
    a = x.permute(1, 2, 0).numpy()
    Image.fromarray(a).save(tmp_path/'x.png')
    item = dict(tensor=x, array=x.numpy(), pair=(x, y), file=tmp_path/'x.png', text=str(tmp_path/'x.png'),
                picture=Image.fromarray(a))[kind]
    assert torch.allclose(again.predict(item)[2], again.predict(x)[2])


def test_what_cannot_be_predicted(again, tmp_path):
    for item in (torch.rand(3, 8, 6), torch.zeros(1, 8, 6, dtype=torch.uint8), 7):
        with pytest.raises(ValueError, match=r'must be a file, a picture of PIL or uint8 \(3, 8, 6\), not'): again.predict(item)
    (tmp_path/'x.png').write_text('no')
    with pytest.raises(ValueError, match='x.png: not an image'): again.predict(tmp_path/'x.png')
    with pytest.raises(ValueError, match='nothing.png: '): again.predict(tmp_path/'nothing.png')


def test_deep_files_are_scaled_as_in_training(tmp_path):
    "White is what it was in the folder, in an exported Learner too."
    data = make(channels=1, ranges={'16': 4095})
    learn = learner(data, tmp_path)
    learn.export('net.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(tmp_path/'net.pkl')
    Image.fromarray(np.full((8, 6), 2000, np.uint16)).save(tmp_path/'x.png')
    want = again.predict(torch.full((1, 8, 6), 2000*255//4095, dtype=torch.uint8))[2]
    assert torch.equal(again.predict(tmp_path/'x.png')[2], want)


def test_test_dl(again, learn, data):
    dl = again.dls.test_dl(list(data.valid.x))
    assert dl.bs == 12 and len(dl) == 1 and len(dl.one_batch()) == 1
    preds, targets = again.get_preds(dl=dl)
    assert torch.allclose(preds, learn.get_preds()[0]) and not targets
    preds, targets = again.get_preds(dl=again.dls.test_dl(data.valid))
    assert torch.equal(targets, data.valid.y)
    pairs = [data.valid[i] for i in range(4)]
    assert torch.equal(again.get_preds(dl=again.dls.test_dl(pairs))[1], data.valid.y[:4])


def test_get_preds_of_each_part(learn, data):
    for i, part in enumerate((data.train, data.valid)): assert torch.equal(learn.get_preds(ds_idx=i)[1], part.y)
    _, _, said, loss = learn.get_preds(with_decoded=True, with_loss=True)
    assert said.shape == loss.shape == (12,)


@pytest.mark.parametrize('augment', [(), (flip(), shift(1))])
def test_tta(data, tmp_path, augment):
    "fastai's tta blends the plain predictions with the mean of n augmented passes."
    learn = learner(data, tmp_path, augment=augment)
    plain, targets = learn.get_preds()
    a, b = (learn.tta(n=4) for _ in range(2))
    assert torch.equal(a[1], data.valid.y) and torch.equal(a[0], b[0])
    assert torch.allclose(a[0], plain) == (not augment)
    only, again = learn.tta(n=4, beta=0)[0], learn.tta(n=1, beta=0)[0]
    assert torch.allclose(only, again) == (not augment), 'the passes differ'
    assert torch.equal(learn.get_preds()[0], plain) and data.valid.turns is None


def test_tta_leaves_out_what_changes_labels(data, tmp_path):
    def mix(x, y, generator): return x*0, y.float()
    learn = learner(data, tmp_path, augment=(mix,))
    assert torch.allclose(learn.tta(n=2)[0], learn.get_preds()[0])


def test_tta_after_load(again, learn, data):
    dl = again.dls.test_dl(data.valid)
    assert torch.allclose(again.tta(dl=dl)[0], learn.tta()[0])


def test_lr_find_leaves_weights_alone(learn):
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with learn.no_logging(): learn.lr_find(num_it=12, show_plot=False)
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


def test_validate_save_load_show(learn, data):
    was = learn.validate()
    learn.save('w')
    learn.load('w')
    assert learn.validate() == was
    learn.show_results(max_n=2)
    learn.dls.show_batch(max_n=2)
    image, label = learn.dls.decode_batch(learn.dls.valid.one_batch())[0]
    assert torch.allclose(image, data.valid.x[0].float()/255, atol=1e-6) and label == 'dark'


def test_loaders_move_to_a_device_by_name(learn):
    learn.dls.to('cpu')
    assert learn.dls.train.device == torch.device('cpu')
    with learn.no_logging(): learn.fit(1, 1e-2)


def test_loader_is_pickled(data):
    a = image_loaders(data, 8, device='cpu').valid
    b = pickle.loads(pickle.dumps(a))
    assert all(torch.equal(x, y) for p, q in zip(a, b) for x, y in zip(p, q))


def test_new_keeps_the_batch_size_asked_for(data):
    "An empty or small part lowers it for itself alone."
    dl = ImageLoader(data.train, 16)
    assert dl.new(data.train[:2]).bs == 2 and dl.new(data.train[:2]).new(data.train).bs == 16 and dl.new(bs=4).bs == 4


def test_new_keeps_replaced_methods(data):
    dl = ImageLoader(data.train, 8).new(after_batch=lambda b: (b[0]*0, b[1]))
    assert dl.new().one_batch()[0].abs().sum() == 0


def test_empty_list_of_items(data):
    part, labelled = as_part([], data.train)
    assert part.x.shape == (0, 3, 8, 6) and not labelled


def test_tta_has_a_stream_of_its_own(data, tmp_path, monkeypatch):
    learn, asked, real = learner(data, tmp_path, augment=(flip(),)), [], loaders_module.stream_seed
    monkeypatch.setattr(loaders_module, 'stream_seed', lambda *n: asked.append(n) or real(*n))
    learn.tta(n=3, beta=0)
    assert {a for a in asked if a[-1] == 4} == {(0, turn, 0, 0, 4) for turn in range(3)}
