"""Train over two nodes, both of them on this machine.

Starts ``scripts/launch_multinode.sh`` twice, as it would be started on two
machines; they meet at a port that is free. What is left of the command line
goes to both::

    python examples/two_nodes.py examples/configs/gpt_tiny.yaml train.steps=9
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/launch_multinode.sh"


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def main() -> int:
    if len(sys.argv) < 2:
        print("give a config, such as examples/configs/gpt_tiny.yaml",
              file=sys.stderr)
        return 2
    environment = {
        "RANKS": "1",
        "PYTHON": sys.executable,
        **os.environ, "NODES": "2",
        "HOST": f"localhost:{free_port()}"
    }
    nodes = [
        subprocess.Popen([SCRIPT, *sys.argv[1:]], env=environment)
        for _ in range(2)
    ]
    return max(node.wait() for node in nodes)


if __name__ == "__main__":
    sys.exit(main())
