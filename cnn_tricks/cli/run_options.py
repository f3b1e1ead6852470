"""What a command was asked for: folder, recipe, budget, threads, device; read back where a run goes on"""
import json
from importlib import import_module
from pathlib import Path

import torch

from ..core.recipe import Recipe, recipes
from .base_network import scratch_recipe
from .errors import UsageError, one_line

__all__ = ['TRAIN_FOLDER', 'ARM_FOLDERS', 'arm_folder', 'files_of_run', 'run_folder', 'read_recipe', 'given_options', 'options_of', 'use_threads',
           'one_thread_on_workers', 'tried_device', 'with_budget', 'planned', 'same_seconds']

TRAIN_FOLDER = 'cnn_tricks_run'
ARM_FOLDERS = 'baseline', 'frozen_head', 'fine-tuned', 'from_scratch'  # inside it: what the result is held against
_files = ('run.json', 'metrics.json', 'ledger.json', 'model.safetensors', 'recipe.json', 'report.html',
          'checkpoint.pt', *ARM_FOLDERS)
_budgets, _least = ('epochs', 'steps', 'seconds'), 500
_names = ('epochs', 'minutes', 'steps', 'size', 'seed', 'batch_size', 'lr', 'no_baseline', 'network', 'weights',
          'from_scratch', 'scratch_too')


def arm_folder(
    label:str # of a run beside others: 'frozen head'
)->str: # one of `ARM_FOLDERS`
    "The name of its folder"
    return label.replace(' ', '_')


def files_of_run(
    folder:Path # it need not exist
)->list: # names
    "What a run or an audit has left in a folder"
    return [n for n in _files if (folder/n).exists()]


def run_folder(
    out:str=None, # the folder that was asked for; None: `default`, or one like it that is free
    resume:bool=False, # go on with the run that is there?
    default:str=TRAIN_FOLDER # the folder that is meant where none was asked for
)->Path: # the folder to write to; it need not exist
    """Where a run goes: never into a folder that holds another run.

    Raises `UsageError` where the folder that was asked for is a file, or holds another run."""
    if out is not None:
        if not str(out).strip(): raise UsageError(f'--out {out!r}: is empty')
        if Path(out).is_file(): raise UsageError(f'--out {out}: is a file, not a folder')
        if not resume and (found := files_of_run(Path(out))):
            what = 'an unfinished run: add --resume' if 'run.json' in found else f'results ({found[0]}): remove them'
            raise UsageError(f'{out} holds {what}, or give another folder with --out')
        return Path(out)
    tried = [Path(default)]
    while files_of_run(tried[-1]) or tried[-1].is_file(): tried.append(Path(f'{default}_{len(tried) + 1}'))
    unfinished = [p for p in tried if (p/'run.json').exists()]
    return (unfinished or tried[:-1] or tried)[-1] if resume else tried[-1]


def _plain(path):
    "A recipe's plain values, from a JSON file"
    try: d = json.loads(path.read_bytes())  # bytes: Windows' editors write a byte order mark, its shell UTF-16
    except UnicodeDecodeError: raise ValueError('is no text in UTF-8') from None
    except RecursionError: raise ValueError('is nested too deeply') from None
    d = d.get('recipe', d) if isinstance(d, dict) else d
    if isinstance(d, dict): return d
    raise ValueError('a recipe is a JSON object: {"network": "article", "epochs": 5}')

def read_recipe(
    text:str # a registered recipe's name, or a JSON file: a recipe, or the `recipe.json` of a run
)->dict: # `label`, `fields` (plain values), `own_budget` (does it say how long to train?)
    "The recipe that `--recipe` names, checked; raises `UsageError` that names the file, the field and the value"
    if text in recipes: return dict(label=text, fields=recipes[text].to_dict(), own_budget=False)
    path = Path(text)
    if path.is_dir() and text: raise UsageError(f'--recipe {text}: is a folder; give a file, as the recipe.json in it')
    if not path.is_file():
        names = ', '.join(n for n in recipes.names() if not n.startswith('bench_')) # those serve the benches
        raise UsageError(f'--recipe {text}: no such file, and no recipe of that name ({names})')
    try:
        d = _plain(path)
        given = any(d.get(b) is not None for b in _budgets)
        return dict(label=path.name, fields=Recipe.from_dict(d).to_dict(), own_budget=given)
    except OSError as e: raise UsageError(f'--recipe {text}: {e.strerror}') from None
    except Exception as e: raise UsageError(f'{path}: {one_line(e)}') from None


def given_options(
    a, # what argparse made of the command line
    names:tuple=_names # the options that decide a run, beside folder and recipe
)->dict: # only what was given: `folder`, `recipe`, `epochs` and so on
    "What the command line says about the run itself, as plain values"
    given = {k: getattr(a, k) for k in names if getattr(a, k) is not None}
    if a.folder is not None: given['folder'] = str(Path(a.folder).resolve())
    if a.recipe is not None: given['recipe'] = read_recipe(a.recipe)
    if given.get('weights'): given['weights'] = str(Path(a.weights).resolve())
    return given


def _short(v): return v['label'] if isinstance(v, dict) else v


def _changed(old, new):
    "What differs between two recipes, in words"
    if not (isinstance(old, dict) and isinstance(new, dict)): return f'was {_short(old)}, now {_short(new)}'
    a, b = old['fields'], new['fields']
    what = ', '.join(f'{k} was {a.get(k)!r}, now {b.get(k)!r}' for k in {**a, **b} if a.get(k) != b.get(k))
    if old['label'] != new['label']: return f'was {old["label"]}, now {new["label"]}' + f' ({what})'*bool(what)
    return f'{new["label"]} has changed: ' + (what or 'the file says now how long to train, or no longer')


def _kept(out, command):
    "The note of the run in a folder"
    try:
        kept = json.loads((out/'run.json').read_bytes())
        other, _ = kept.get('command', 'train'), kept['options']
    except (ValueError, KeyError, AttributeError):
        raise UsageError(f'cannot resume {out}: its run.json cannot be read; remove {out} to start anew') from None
    if other == command: return kept
    raise UsageError(f'cannot resume {out}: it holds what `cnn_tricks {other}` began')


def options_of(
    out:Path, # the folder of a run
    given:dict, # of `given_options`
    resume:bool, # go on with the run in `out`?
    fresh:dict=None, # what an option is that was not given; None: as for `train`
    command:str='train' # whose run it is
)->dict: # every option
    """All options of a run; one that goes on keeps its own, which the command line may repeat and not change.

    Raises `UsageError` where it changes one, or where the note of the run cannot be read."""
    if not resume:
        return (fresh or dict.fromkeys(_names) | dict(folder=None, seed=42, recipe=read_recipe('fast'))) | given
    old = _kept(out, command)['options']
    for k, v in given.items():
        if old.get(k) == v: continue
        how = _changed(old.get(k), v) if k == 'recipe' else f'was {_short(old.get(k))}, now {_short(v)}'
        raise UsageError(f'cannot resume {out}: {k} {how}')
    return old


def one_thread_on_workers(
    asked:int, # of `--threads`
    out:Path, # the folder of a run
    resume:bool, # go on with the run in `out`?
    command:str # whose run it is
):
    "Runs on workers have one thread, and so what is measured here has. Raises `UsageError` where another is asked for"
    kept = _kept(out, command).get('threads') if resume else None
    if asked not in (None, 1): raise UsageError('--threads: workers make each run on one thread; leave it out with --on')
    if kept not in (None, 1): raise UsageError(f'cannot resume {out} on workers: it was begun with {kept} threads, and '
                                               'workers make each run on one; go on without --on')
    torch.set_num_threads(1)


def use_threads(
    asked:int, # of `--threads`; None: as the run that goes on began, else torch's choice
    out:Path, # the folder of a run
    resume:bool, # go on with the run in `out`?
    command:str='train' # whose run it is
):
    """Set how many processor threads torch uses; a run that goes on keeps its number, since another one rounds
    differently."""
    if n := asked or (_kept(out, command).get('threads') if resume else None): torch.set_num_threads(n)


def tried_device(
    text:str # of `--device`: 'cpu', 'cuda', 'cuda:1', 'mps', 'xla'; None: `train` chooses
)->str: # the same
    "Use a device once: one that is not there, or cannot compute, raises `UsageError` at once"
    if text is None: return None
    try:
        if text.split(':')[0] == 'xla': import_module('torch_xla') # PyTorch knows the device from then on
        x = torch.ones(1, device=text)
        x.item()
    except Exception as e: raise UsageError(f'--device {text}: {str(e).splitlines()[0]}') from None
    return str(x.device)


def with_budget(
    recipe:Recipe,
    o:dict, # options: `epochs`, `steps`, `minutes`, each may be None
    data, # `ImageData`
    own:bool=False, # does the recipe say itself how long to train?
    share:int=1 # how many networks share the minutes
)->Recipe:
    "The recipe with the budget that was asked for; its own epochs are at least 500 steps, which few images need"
    if o['epochs'] or o['steps']: return recipe.replace(epochs=o['epochs'], steps=o['steps'])
    if o['minutes']: return recipe.replace(seconds=60*o['minutes']/share)
    if own or not recipe.epochs: return recipe
    per_epoch = len(data.train) // min(recipe.batch_size, len(data.train))
    return recipe if recipe.epochs*per_epoch >= _least else recipe.replace(steps=_least)


def planned(
    o:dict, # options: `recipe`, `epochs`, `steps`, `minutes`, `lr`, `batch_size`, `no_baseline`, `base`
    data # `ImageData`
)->list: # (label, `Recipe`), the one that was asked for last, and before it the baseline unless told otherwise
    "What to train, in order, where nothing is pretrained"
    if base := o.get('base'):
        recipe = with_budget(scratch_recipe(base, o), o, data, share=1 if o['no_baseline'] else 2)
        beside = [] if o['no_baseline'] else [('baseline', with_budget(recipes['baseline'], o, data, share=2))]
        return [*beside, (base['network'].replace('/', '_'), recipe)]
    label, own = o['recipe']['label'], o['recipe']['own_budget']
    recipe = Recipe.from_dict(o['recipe']['fields'])
    recipe = recipe.replace(**{k: o[k] for k in ('lr', 'batch_size') if o[k]})
    if label == 'baseline' or o['no_baseline']: return [(label, with_budget(recipe, o, data, own))]
    baseline = with_budget(recipes['baseline'], o, data, share=2)
    return [('baseline', baseline), (label, with_budget(recipe, o, data, own, 2))]


def same_seconds(
    o:dict # options
)->bool:
    "Does the recipe get the seconds that the baseline took?"
    return not (o['epochs'] or o['steps'] or o['minutes'] or o['recipe']['own_budget'])
