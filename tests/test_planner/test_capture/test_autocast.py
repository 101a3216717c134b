"""Whose autocast is looked at."""

from __future__ import annotations

import unittest
from unittest import mock

import torch

from planner.capture.autocast import ambient_autocast, autocast_devices


class TestDevices(unittest.TestCase):

    def test_the_accelerator_of_this_torch_first(self) -> None:
        for found, expected in (("xpu", ("xpu", "cpu")), ("cpu", ("cpu", )),
                                (None, ("cpu", ))):
            device = torch.device(found) if found else None
            with mock.patch.object(torch.accelerator,
                                   "current_accelerator",
                                   return_value=device):
                self.assertEqual(autocast_devices(), expected)

    def test_devices_without_autocast_are_left_out(self) -> None:
        with mock.patch.object(torch.accelerator,
                               "current_accelerator",
                               return_value=torch.device("vulkan")):
            self.assertEqual(autocast_devices(), ("cpu", ))


class TestAmbient(unittest.TestCase):

    def test_its_dtype(self) -> None:
        self.assertIsNone(ambient_autocast())
        with torch.autocast("cpu", torch.float16):
            self.assertEqual(ambient_autocast(), torch.float16)
            with torch.autocast("cpu", enabled=False):
                self.assertIsNone(ambient_autocast())


if __name__ == "__main__":
    unittest.main()
