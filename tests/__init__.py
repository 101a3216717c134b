"""Tests; the folders mirror the source tree, see doc/contributing.md."""

from hypothesis import HealthCheck, settings

__all__: list[str] = []

# How long a draw takes tells how busy the machine is.
settings.register_profile("any machine",
                          deadline=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
