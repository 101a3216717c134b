"""Marks for tests that do not run every time."""

from __future__ import annotations

import os
import unittest

__all__ = ["nightly"]

nightly = unittest.skipUnless(
    os.environ.get("SCALETORCH_NIGHTLY") == "1",
    "takes long; run_tests.py --nightly runs it")
"""Decorates a test (or a class of tests) that takes more than seconds."""
