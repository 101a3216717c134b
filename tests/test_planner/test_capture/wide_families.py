"""More of Hugging Face's language models, by the names of their classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as hf

from tests.model_zoo import Example, example, tokens
from tests.test_planner.test_capture.tiny import tiny_config

__all__ = ["MODELS"]

MODELS: dict[str, Callable[[], Example]] = {}

_CAUSAL = ("AfmoeForCausalLM", "ApertusForCausalLM", "ArceeForCausalLM",
           "AriaTextForCausalLM", "BambaForCausalLM", "BertLMHeadModel",
           "BioGptForCausalLM", "BitNetForCausalLM", "CTRLLMHeadModel",
           "Cohere2MoeForCausalLM", "CpmAntForCausalLM",
           "DiffLlamaForCausalLM", "DogeForCausalLM", "Emu3ForCausalLM",
           "Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM",
           "Exaone4ForCausalLM", "FlexOlmoForCausalLM",
           "GPTNeoXJapaneseForCausalLM", "Glm4MoeForCausalLM",
           "GraniteMoeHybridForCausalLM", "GraniteMoeSharedForCausalLM",
           "JetMoeForCausalLM", "Lfm2ForCausalLM", "MiniMaxForCausalLM",
           "MiniMaxM2ForCausalLM", "ModernBertDecoderForCausalLM",
           "NanoChatForCausalLM", "Olmo3ForCausalLM", "OpenAIGPTLMHeadModel",
           "PhimoeForCausalLM", "Qwen3NextForCausalLM", "SeedOssForCausalLM",
           "TrOCRForCausalLM", "VaultGemmaForCausalLM",
           "XLMRobertaXLForCausalLM", "XLNetLMHeadModel", "xLSTMForCausalLM")
_MASKED = ("CamembertForMaskedLM", "ErnieForMaskedLM", "EuroBertForMaskedLM",
           "FlaubertWithLMHeadModel", "LayoutLMForMaskedLM", "MraForMaskedLM",
           "NomicBertForMaskedLM", "NystromformerForMaskedLM",
           "RemBertForMaskedLM", "RoCBertForMaskedLM",
           "RobertaPreLayerNormForMaskedLM", "TapasForMaskedLM",
           "YosoForMaskedLM")
_SEQ2SEQ = ("BlenderbotSmallForConditionalGeneration",
            "MvpForConditionalGeneration", "NllbMoeForConditionalGeneration",
            "PegasusXForConditionalGeneration")


def _model(name: str) -> Example:
    kind = getattr(hf, name)
    ids = tokens()
    inputs = {"input_ids": ids, "labels": ids}
    if name in _SEQ2SEQ:
        inputs["attention_mask"] = torch.ones_like(ids)
    return kind(tiny_config(kind.config_class)), inputs, None


for _name in (*_CAUSAL, *_MASKED, *_SEQ2SEQ):
    MODELS[_name] = example(lambda name=_name: _model(name))
