"""From a module to its program."""
