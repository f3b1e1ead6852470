"""How the arms of a comparison are called, and whether a recipe can be used at all"""
from ..base.machine import machine
from ..core.plan import plan
from ..core.recipe import Recipe, Trick, recipes

__all__ = ['trick_label', 'recipe_name', 'with_trick', 'refusal']


def trick_label(
    trick:Trick # any trick
)->str: # 'flip_shift(p=0.0)'
    "A trick's name, and those of its parameters that are not its defaults"
    other = {k: v for k, v in trick.params().items() if v != type(trick).__dataclass_fields__[k].default}
    return trick.name + (f"({', '.join(f'{k}={v}' for k, v in other.items())})" if other else '')


def recipe_name(
    recipe:Recipe, # any recipe
    default:str # what to call one without a name
)->str:
    "The name under which a recipe is registered"
    return next((n for n, known in recipes.items() if known == recipe), default)


def with_trick(
    base:Recipe, # the arm without
    trick:Trick|Recipe # what to add, or the whole recipe of the other arm
)->Recipe:
    "The recipe of the other arm; `TypeError` for anything but a trick or a recipe"
    if not isinstance(trick, (Trick, Recipe)): raise TypeError(f'trick={trick!r}: must be a Trick or a Recipe')
    return base + trick if isinstance(trick, Trick) else trick


def refusal(
    recipe:Recipe, # with its tricks
    data, # `ImageData` that it would be trained on
    device # torch device, or its name
)->str: # '' where it can be used
    "Why a recipe cannot be used on these data and this machine"
    try: r = plan(recipe).recipe
    except ValueError as e: return str(e)
    return next((why for t in r.tricks if (why := t.applies(r, data, machine(device)))), '')
