"""Every command that pages show for measuring and fitting runs."""

from __future__ import annotations

import unittest

from tests.markers import nightly
from tests.test_doc.copied import InCopy
from tests.test_doc.shown import MEASURING


@nightly
class TestPages(InCopy):

    def test_them(self) -> None:
        for page in MEASURING:
            self.check_page(page)


if __name__ == "__main__":
    unittest.main()
