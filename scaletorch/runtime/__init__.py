"""The runtime: executes one rank's program."""
