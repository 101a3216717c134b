"""Explain a plan: what runs where, what it costs, what else was tried."""
