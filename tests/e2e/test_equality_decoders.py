"""Model by plan equality with the single-device program: decoders."""

from __future__ import annotations

import unittest

from tests.e2e.equality import FEW, MOST, PLANS, check_model


class Decoders(unittest.TestCase):
    """Loss, gradients and three AdamW steps, under every plan."""

    def test_gpt2(self) -> None:
        check_model(self, "gpt2", MOST)

    def test_llama(self) -> None:
        check_model(self, "llama", PLANS)

    def test_qwen3(self) -> None:
        check_model(self, "qwen3", FEW)

    def test_gemma2(self) -> None:
        check_model(self, "gemma2", FEW)

    def test_phi3(self) -> None:
        check_model(self, "phi3", FEW)


if __name__ == "__main__":
    unittest.main()
