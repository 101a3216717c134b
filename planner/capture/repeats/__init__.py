"""Capture one of several layers that are alike, and copy it in the graph."""
