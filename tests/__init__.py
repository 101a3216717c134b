"""Tests; the folders mirror the source tree, see doc/contributing.md."""
