"""Tests of our own operators."""
