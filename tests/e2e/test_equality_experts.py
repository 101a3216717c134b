"""Model by plan equality with the single-device program: experts."""

from __future__ import annotations

import unittest

from tests.e2e.equality import FEW, SOME, check_model


class Experts(unittest.TestCase):
    """Loss, gradients and three AdamW steps, under every plan."""

    def test_mixtral(self) -> None:
        check_model(self, "mixtral", SOME)

    def test_dlrm(self) -> None:
        check_model(self, "dlrm", FEW)

    def test_transformer(self) -> None:
        check_model(self, "transformer", FEW)

    def test_lstm(self) -> None:
        check_model(self, "lstm", FEW)


if __name__ == "__main__":
    unittest.main()
