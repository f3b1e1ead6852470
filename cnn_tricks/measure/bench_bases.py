"""The base recipes of the benches, frozen: a name never stands for another recipe than the one that was recorded"""
from ..core.recipe import FAST, Recipe, recipes

__all__ = [] # they are found by name: recipes['bench_fashion']


recipes.register('bench_clothes', FAST.replace(lr=0.018, optimizer_args={'weight_decay': 0.03}))
recipes.register('bench_fashion', Recipe(
    network='resnet', optimizer='adamw', optimizer_args={'weight_decay': 0.05}, lr=0.01, schedule='one_cycle',
    channels_last=True, batch_size=128))
recipes.register('bench_cifar10', Recipe.from_dict(dict(
    network='resnet', network_args={'stem_stride': 1}, optimizer='adamw', optimizer_args={'weight_decay': 0.05},
    lr=0.01, schedule='one_cycle', channels_last=True, batch_size=128, tricks=[{'name': 'flip_shift'}])))
recipes.register('bench_photos', Recipe.from_dict(dict(
    optimizer='adamw', optimizer_args={'weight_decay': 0.01}, lr=0.002, batch_size=32,
    tricks=[{'name': 'fine_tune', 'weights': 'timm/tf_efficientnet_lite0', 'lr_mult': 10.}])))
