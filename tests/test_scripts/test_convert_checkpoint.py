"""Weights go from one format to the other and back."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import unittest
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
import transformers

from scaletorch import models
from scripts.convert_checkpoint import (main, read_dcp, read_safetensors,
                                        write_safetensors)

SMALL = {
    "width": 16,
    "depth": 2,
    "heads": 2,
    "kv_heads": 1,
    "hidden_width": 32,
    "vocabulary_size": 32
}


class TestConvert(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.model = models.build("llama3-8b", **SMALL)

    def run_main(self, *arguments: str) -> tuple[int, str]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(
                printed):
            code = main([*arguments])
        return code, printed.getvalue()

    def write(self, **more: torch.Tensor) -> Path:
        """As the trainer writes it."""
        path = self.folder / "dcp"
        dcp.save(self.model.state_dict() | more,
                 checkpoint_id=path,
                 no_dist=True)
        return path

    def check_same(self, found: dict[str, torch.Tensor]) -> None:
        expected = self.model.state_dict()
        self.assertEqual(set(found), set(expected))
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)

    def test_to_hugging_face_and_back(self) -> None:
        source = self.write(**{"optimizer:head.weight:step": torch.ones(())})
        overrides = [f"{k}={v}" for k, v in SMALL.items()]
        there, back = self.folder / "hf", self.folder / "back"
        names = ("--model", "llama3-8b", "--overrides", *overrides)
        code, text = self.run_main(str(source), str(there), *names)
        self.assertEqual(code, 0, text)
        config = transformers.LlamaConfig(hidden_size=16,
                                          intermediate_size=32,
                                          num_hidden_layers=2,
                                          num_attention_heads=2,
                                          num_key_value_heads=1,
                                          rms_norm_eps=1e-5,
                                          rope_theta=500000.0,
                                          vocab_size=32)
        config.save_pretrained(there)
        theirs = transformers.LlamaForCausalLM.from_pretrained(there)
        tokens = torch.arange(8)[None]
        torch.testing.assert_close(
            theirs(tokens).logits,
            self.model(tokens=tokens).logits)
        code, text = self.run_main(str(there), str(back), *names)
        self.assertEqual(code, 0, text)
        self.check_same(read_dcp(back))

    def test_names_stay_without_a_model(self) -> None:
        there = self.folder / "st"
        self.assertEqual(self.run_main(str(self.write()), str(there))[0], 0)
        self.check_same(read_safetensors(there))
        self.check_same(read_safetensors(there / "model.safetensors"))

    def test_dtype(self) -> None:
        there = self.folder / "st"
        self.run_main(str(self.write(count=torch.ones(2, dtype=torch.long))),
                      str(there), "--dtype", "bfloat16")
        found = read_safetensors(there)
        self.assertEqual(found.pop("count").dtype, torch.long)
        self.assertEqual({t.dtype for t in found.values()}, {torch.bfloat16})

    def test_several_files(self) -> None:
        state = self.model.state_dict()
        write_safetensors(state, self.folder / "st", shard_bytes=2000)
        index = json.loads(
            (self.folder / "st/model.safetensors.index.json").read_text())
        self.assertEqual(index["metadata"]["total_size"],
                         sum(t.nbytes for t in state.values()))
        files = set(index["weight_map"].values())
        self.assertEqual(
            files,
            {p.name
             for p in (self.folder / "st").glob("*.safetensors")})
        self.assertGreater(len(files), 2)
        self.check_same(read_safetensors(self.folder / "st"))

    def test_refused(self) -> None:
        code, text = self.run_main(str(self.folder / "none"),
                                   str(self.folder / "new"))
        self.assertEqual((code, "holds no checkpoint" in text), (2, True))
        source = self.write()
        code, text = self.run_main(str(source), str(source))
        self.assertEqual((code, "is there already" in text), (2, True))
        code, text = self.run_main(str(source), str(self.folder / "new"),
                                   "--model", "gpt3")
        self.assertEqual((code, "gpt3" in text), (2, True))


if __name__ == "__main__":
    unittest.main()
