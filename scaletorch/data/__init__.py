"""Data for training: sources, and loaders that can stop and go on.

Plain PyTorch: nothing here knows of a mesh. ``scaletorch.feed`` gives each
rank its part of the batches.
"""

from scaletorch.data.hugging_face import hugging_face
from scaletorch.data.images import AugmentedImages, ImageFolder
from scaletorch.data.loader import Batch, Loader
from scaletorch.data.packing import PackedTokens
from scaletorch.data.prepare import prepare
from scaletorch.data.registry import build, check, kinds, register
from scaletorch.data.source import Augmented, Sample, Source
from scaletorch.data.synthetic import RandomImages, RandomTokens
from scaletorch.data.token_file import TokenFile, TokenWriter
from scaletorch.data.tokenizer import (BytesTokenizer, FileTokenizer,
                                       Tokenizer, load_tokenizer)

__all__ = [
    "Augmented", "AugmentedImages", "Batch", "BytesTokenizer", "FileTokenizer",
    "ImageFolder", "Loader", "PackedTokens", "RandomImages", "RandomTokens",
    "Sample", "Source", "TokenFile", "TokenWriter", "Tokenizer", "build",
    "check", "hugging_face", "kinds", "load_tokenizer", "prepare", "register"
]
