"""Every command that pages for users show runs, but for those that measure."""

from __future__ import annotations

import unittest

from tests.markers import nightly
from tests.test_doc.copied import InCopy
from tests.test_doc.shown import MEASURING, commands


@nightly
class TestPages(InCopy):

    def test_readme(self) -> None:
        self.check_page("README.md")

    def test_others(self) -> None:
        done = ("doc/contributing.md", *MEASURING)
        for page in commands():
            if page.startswith("doc/") and page not in done:
                self.check_page(page)


if __name__ == "__main__":
    unittest.main()
