"""Every command that examples show runs."""

from __future__ import annotations

import unittest

from tests.markers import nightly
from tests.test_doc.copied import InCopy
from tests.test_doc.shown import commands


@nightly
class TestExamples(InCopy):

    def test_them(self) -> None:
        for page in commands():
            if page.startswith("examples/"):
                self.check_page(page)


if __name__ == "__main__":
    unittest.main()
