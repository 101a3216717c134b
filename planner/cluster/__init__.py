"""Descriptions of clusters: devices, links and their measured numbers."""
