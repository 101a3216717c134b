"""Models in plain PyTorch; nothing in them is parallel.

Build them by name, on the meta device for the large ones::

    with torch.device("meta"):
        model = models.build("llama3-8b")
"""

from scaletorch.models.bert import Bert, BertConfig
from scaletorch.models.dit import DiT, DiTConfig
from scaletorch.models.dlrm import DLRM, DLRMConfig
from scaletorch.models.gpt2 import GPT2, GPT2Config
from scaletorch.models.hugging_face import from_hugging_face, to_hugging_face
from scaletorch.models.layers import LatentConfig, RotaryScaling, Yarn
from scaletorch.models.llama import Llama, LlamaConfig
from scaletorch.models.moe import Moe, MoeConfig
from scaletorch.models.moe_layers import RouterConfig
from scaletorch.models.output import Output
from scaletorch.models.qwen3 import Qwen3, Qwen3Config
from scaletorch.models.registry import (build, config, names, parameter_count,
                                        register)
from scaletorch.models.resnet import ResNet, ResNetConfig
from scaletorch.models.t5 import T5, T5Config
from scaletorch.models.vit import ViT, ViTConfig

__all__ = [
    "Bert", "BertConfig", "DLRM", "DLRMConfig", "DiT", "DiTConfig", "GPT2",
    "GPT2Config", "LatentConfig", "Llama", "LlamaConfig", "Moe", "MoeConfig",
    "Output", "Qwen3", "Qwen3Config", "ResNet", "ResNetConfig",
    "RotaryScaling", "RouterConfig", "T5", "T5Config", "ViT", "ViTConfig",
    "Yarn", "build", "config", "from_hugging_face", "names", "parameter_count",
    "register", "to_hugging_face"
]
