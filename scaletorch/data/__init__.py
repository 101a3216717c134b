"""Data for training: sources, and loaders that can stop and go on.

Plain PyTorch: nothing here knows of a mesh. ``scaletorch.feed`` gives each
rank its part of the batches.
"""

from scaletorch.data.loader import Batch, Loader
from scaletorch.data.packing import PackedTokens
from scaletorch.data.prepare import prepare
from scaletorch.data.registry import build, kinds, register
from scaletorch.data.source import Augmented, Sample, Source
from scaletorch.data.synthetic import RandomImages, RandomTokens
from scaletorch.data.token_file import TokenFile, TokenWriter
from scaletorch.data.tokenizer import (BytesTokenizer, FileTokenizer,
                                       Tokenizer, load_tokenizer)

__all__ = [
    "Augmented", "Batch", "BytesTokenizer", "FileTokenizer", "Loader",
    "PackedTokens", "RandomImages", "RandomTokens", "Sample", "Source",
    "TokenFile", "TokenWriter", "Tokenizer", "build", "kinds",
    "load_tokenizer", "prepare", "register"
]
