"""Model by plan equality with the single-device program: vision."""

from __future__ import annotations

import unittest

from tests.e2e.equality import FEW, SOME, check_model


class Vision(unittest.TestCase):
    """Loss, gradients and three AdamW steps, under every plan."""

    def test_vit(self) -> None:
        check_model(self, "vit", SOME)

    def test_resnet(self) -> None:
        check_model(self, "resnet", FEW)

    def test_unet(self) -> None:
        check_model(self, "unet", FEW)

    def test_convnext(self) -> None:
        check_model(self, "convnext", FEW)

    def test_clip(self) -> None:
        check_model(self, "clip", FEW)


if __name__ == "__main__":
    unittest.main()
