"""Data for training: sources, and loaders that can stop and go on.

Plain PyTorch: nothing here knows of a mesh. ``scaletorch.feed`` gives each
rank its part of the batches.
"""

from scaletorch.data.loader import Batch, Loader
from scaletorch.data.registry import build, kinds, register
from scaletorch.data.source import Augmented, Sample, Source
from scaletorch.data.synthetic import RandomImages, RandomTokens

__all__ = [
    "Augmented", "Batch", "Loader", "RandomImages", "RandomTokens", "Sample",
    "Source", "build", "kinds", "register"
]
