"""Every command that the page for contributors shows runs."""

from __future__ import annotations

import unittest

from tests.markers import nightly
from tests.test_doc.copied import InCopy


@nightly
class TestPage(InCopy):

    def test_it(self) -> None:
        self.run_command("git init --quiet && git add --all")
        self.check_page("doc/contributing.md")


if __name__ == "__main__":
    unittest.main()
