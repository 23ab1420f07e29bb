"""Models of the paper (Appendix B), by import path: ``rhoselect.models:mlp`` and so on.

Every factory is called as ``factory(input_shape=…, classes=…, **args)`` and returns a module that
maps inputs [C, *input_shape] to logits [C, classes].
"""

from rhoselect.models.convolutional import resnet18_small, small_cnn
from rhoselect.models.perceptron import mlp

__all__ = ["mlp", "resnet18_small", "small_cnn"]
