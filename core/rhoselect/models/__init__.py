"""Models by import path: ``rhoselect.models:mlp`` and so on; docs/models.md has a table of them.

Every factory is called as ``factory(input_shape=…, classes=…, **args)`` and returns a module that
maps inputs [C, *input_shape] to logits [C, classes]. ``configured_model`` is the model of a
configuration. ``recalibrate_batchnorm`` is for loops of your own.
"""

from rhoselect.models.build import configured_model
from rhoselect.models.convolutional import cifar_cnn, small_cnn, vgg11_bn
from rhoselect.models.perceptron import mlp
from rhoselect.models.residual import resnet18_small, resnet34, resnet50
from rhoselect.models.statistics import recalibrate_batchnorm
from rhoselect.models.text import albert, text_transformer
from rhoselect.models.vision import vision

__all__ = [
    "albert",
    "cifar_cnn",
    "configured_model",
    "mlp",
    "recalibrate_batchnorm",
    "resnet18_small",
    "resnet34",
    "resnet50",
    "small_cnn",
    "text_transformer",
    "vgg11_bn",
    "vision",
]
