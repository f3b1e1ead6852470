"Joins pyproject.toml (who the project is) with settings.ini (what it needs, by role), and lists the packages."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='])
# read_string, unlike read, fails where the file is missing
ini.read_string((Path(__file__).parent / 'settings.ini').read_text(encoding='utf-8'))
role = {k.removesuffix('requirements').rstrip('_'): v.split() for k, v in ini['DEFAULT'].items()}
setup(packages=find_packages(include=['cnn_tricks', 'cnn_tricks.*']) + ['cnn_tricks.lessons', 'cnn_tricks.results'],
      install_requires=role[''],
      extras_require={'course': role['course'], 'imagenet': role['imagenet'], 'onnx': role['onnx'],
                      'dask': role['dask'], 'ray': role['ray'], 'docs': role['docs'],
                      'dev': role['course'] + role['onnx'] + role['dask'] + role['dev']})
