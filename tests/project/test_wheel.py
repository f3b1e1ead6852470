"The wheel: complete, the same from the sdist, and usable from an empty folder."
import hashlib, json, zipfile
from configparser import ConfigParser
from email.parser import BytesParser

import pytest
from common import ROOT, run
from packaging.requirements import Requirement


@pytest.fixture(scope='session')
def wheel(dist): return zipfile.ZipFile(next(dist.glob('*.whl')))


def contents(wheel) -> dict: return {n: wheel.read(n) for n in wheel.namelist() if not n.endswith('/RECORD')}


def test_wheel_from_sdist_is_the_same(dist, wheel):
    direct = contents(zipfile.ZipFile(next((dist/'direct').glob('*.whl'))))
    assert contents(wheel) == direct


def test_wheel_is_complete(wheel):
    names = set(wheel.namelist())
    wanted = {f'cnn_tricks/lessons/{p.name}' for p in ROOT.glob('nbs/*.ipynb')} \
        | {f'cnn_tricks/lessons/images/{p.name}' for p in ROOT.glob('nbs/images/*')} \
        | {f'cnn_tricks/{p.relative_to(ROOT).as_posix()}' for p in ROOT.glob('results/**/*.json')} \
        | {f'cnn_tricks/{p.relative_to(ROOT/"cnn_tricks").as_posix()}' for p in ROOT.glob('cnn_tricks/**/*')
           if p.is_file() and p.suffix != '.pyc'}
    assert 'cnn_tricks/data/embedded/fashion.xz' in wanted and not wanted - names
    stray = {n for n in names if not n.startswith('cnn_tricks/') and '.dist-info/' not in n}
    assert not stray
    licences = {n.split('/licenses/')[1] for n in names if '/licenses/' in n}
    assert licences == {'LICENSE', 'cnn_tricks/data/embedded/LICENSE-fashion-mnist'}


def test_requirements_of_each_extra(wheel):
    "As settings.ini lists them by role; dev brings the course, ONNX and Dask."
    meta = BytesParser().parsebytes(next(wheel.read(n) for n in wheel.namelist() if n.endswith('/METADATA')))
    needs = [Requirement(r) for r in meta.get_all('Requires-Dist')]
    ini = ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    role = {k.partition('requirements')[0].strip('_'): set(v.split()) for k, v in ini['DEFAULT'].items()}
    assert set(meta.get_all('Provides-Extra')) == {'course', 'imagenet', 'onnx', 'dask', 'ray', 'docs', 'dev'}
    for extra, wanted in ('', role['']), ('course', role['course']), ('imagenet', role['imagenet']), \
            ('onnx', role['onnx']), ('dask', role['dask']), ('ray', role['ray']), ('docs', role['docs']), \
            ('dev', role['course'] | role['onnx'] | role['dask'] | role['dev']):
        def text(r): return f'{r.name}{sorted(r.extras)}{r.specifier}'
        got = {text(r) for r in needs
               if (not r.marker) == (extra == '') and (not r.marker or r.marker.evaluate({'extra': extra}))}
        assert got == {text(r) for r in map(Requirement, wanted)} != set()
    assert not [str(r) for r in needs if '==' in str(r.specifier)]


def test_embedded_data(installed, tmp_path):
    code = '''
import json, cnn_tricks
from cnn_tricks.data.datasets import embedded
d = embedded()
sizes = [len(p) for p in (d.train, d.valid, d.test)]
print(json.dumps([cnn_tricks.__file__, sizes, list(d.train.x.shape[1:]), d.n_classes]))'''
    file, *facts = json.loads(run(installed/'python', '-c', code, cwd=tmp_path))
    assert str(ROOT) not in file and facts == [[10_000, 4_000, 4_000], [1, 28, 28], 10]


def test_embedded_checksum(wheel):
    about = json.loads(wheel.read('cnn_tricks/data/embedded/fashion.json'))
    assert hashlib.sha256(wheel.read('cnn_tricks/data/embedded/fashion.xz')).hexdigest() == about['sha256']


def test_commands(installed, dist, tmp_path):
    command, version = installed/'cnn_tricks', next(dist.glob('*.whl')).name.split('-')[1]
    assert run(command, '--version', cwd=tmp_path).split()[-1] == version
    run(command, 'lessons', tmp_path/'course', '--no-open', cwd=tmp_path)
    copied = {p.name: p.read_bytes() for p in (tmp_path/'course').glob('*.ipynb')}
    assert copied == {p.name: p.read_bytes() for p in ROOT.glob('nbs/*.ipynb')} != {}
