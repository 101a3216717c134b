"""Sharding rules: what each operator can do over one mesh axis."""
