"""What the name of a folder says: train, valid or test, in many spellings; a class; or nothing"""
import os, re, unicodedata

from .decode import printable

__all__ = ['folder_name', 'name_words', 'part_of', 'names_part', 'names_nothing', 'names_unlabelled']


def folder_name(path: str | os.PathLike,  # A folder
                ) -> str:
    "Its name as text, in Unicode's composed form"
    return unicodedata.normalize('NFC', printable(os.path.basename(path)))


def name_words(path: str | os.PathLike,  # A folder, or any name
               ) -> list:
    "The words of a name, in lower case: 'TrainImages_224' has 'train' and 'images'"
    return re.findall(r'[^\W\d_]+', re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', folder_name(path)).lower())


def part_of(path: str | os.PathLike,  # A folder
            ) -> tuple | None:  # (part, what else the name says); None where it names no part, or two
    "The part that a folder's name says, as ('test', ('flowers',)) for 'Flowers-TestSet'"
    found, rest = [], []
    for w in name_words(path):
        part = next((p for p, s in _spelt.items() if re.fullmatch(f'(?:{_filler})*(?:{s})(?:{_filler})*', w)), None)
        if part: found.append(part)
        elif not re.fullmatch(_alone, w): rest.append(w)
    return (found[0], tuple(rest)) if len(found) == 1 else None


def names_part(path: str | os.PathLike,  # A folder
               ) -> bool:
    "Does the folder's name say a part, and nothing else?"
    p = part_of(path)
    return p is not None and not p[1]


def names_nothing(path: str | os.PathLike,  # A folder
                  ) -> bool:
    "Does the folder's name say neither a part nor a class, as 'images' or 'Data_224'?"
    return all(re.fullmatch(_alone, w) for w in name_words(path))


def names_unlabelled(path: str | os.PathLike,  # A folder
                     ) -> bool:
    "Does the folder's name say at most that its images have no labels, as 'prediction_images'?"
    return all(re.fullmatch(f'{_alone}|{_unlabelled}', w) for w in name_words(path))


_spelt = dict(train='train|training|trn', valid='valid|val|validation|validate|dev|development|eval|evaluation',
              test='test|testing|tst|tests')
_filler = 'sets?|data|datasets?|images?|imgs?|pics?|pictures?|photos?|samples?|splits?|folders?|files?|parts?|dirs?'
_alone = (f'(?:{_filler}|seg|archive|the|my|all|x|v|raw|new|final|full|resized|cropped|original|orig|labell?ed|'
          'jpe?gs?|pngs?)')
_unlabelled = 'pred|predict|predictions?|unlabell?ed|unsup|unsupervised|extra|inference|submissions?|demo'
