"""Forward frames between network interfaces as slow links would.

A part of ``scripts/netns_cluster.sh``, for kernels without netem: every
interface is the switch's end of one host's cable. A frame leaves its host at
the cable's rate, after the frames before it, and arrives at the other after
the delay, again at the rate of that cable. Frames are passed on with the
header that the kernel keeps for unfinished checksums and segments.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Switch", "main"]

_ALL_FRAMES = 0x0003
_SOL_PACKET = 263
_VIRTUAL_HEADER = 15
_IGNORE_OUTGOING = 23
_HEADER_BYTES = 10
_MOST_BYTES = 2**17


@dataclass(slots=True)
class _Cable:
    """When each direction of a cable has sent what it has."""

    up_free_s: float = 0.0
    down_free_s: float = 0.0


@dataclass(slots=True)
class Switch:
    """When and where frames arrive.

    Parameters
    ----------
    ports : int
    bytes_per_s : float
        Of each cable and direction; 0: without a limit.
    delay_s : float
        From cable to cable.
    """

    ports: int
    bytes_per_s: float
    delay_s: float
    _cables: list[_Cable] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._cables = [_Cable() for _ in range(self.ports)]

    def arrivals(self, frame: bytes, port: int,
                 now_s: float) -> list[tuple[float, int]]:
        """Seconds at which a frame that comes in now arrives, and where.

        Parameters
        ----------
        frame : bytes
            From its destination address on.
        port : int
            Where it comes in.
        now_s : float
        """
        target, source = frame[:6], frame[6:12]
        self._known[source] = port
        if target[0] & 1 or target not in self._known:
            outs = [p for p in range(self.ports) if p != port]
        else:
            outs = [self._known[target]]
        takes_s = len(frame) / self.bytes_per_s if self.bytes_per_s else 0.0
        cable = self._cables[port]
        cable.up_free_s = max(cable.up_free_s, now_s) + takes_s
        found = []
        for out in outs:
            other = self._cables[out]
            other.down_free_s = max(cable.up_free_s + self.delay_s,
                                    other.down_free_s + takes_s)
            found.append((other.down_free_s, out))
        return found


def _opened(name: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                         socket.htons(_ALL_FRAMES))
    made.setsockopt(_SOL_PACKET, _VIRTUAL_HEADER, 1)
    made.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**24)
    made.bind((name, 0))
    made.setblocking(False)
    return made


def _forward(sockets: Sequence[socket.socket], switch: Switch) -> None:
    """Until the process is told to end."""
    selector = selectors.DefaultSelector()
    for port, one in enumerate(sockets):
        selector.register(one, selectors.EVENT_READ, port)
    coming: list[tuple[float, int, int, bytes]] = []
    order = itertools.count()
    while True:
        wait_s = max(0.0, coming[0][0] - time.monotonic()) if coming else None
        for key, _ in selector.select(wait_s):
            packet = sockets[key.data].recv(_MOST_BYTES)
            for at_s, out in switch.arrivals(packet[_HEADER_BYTES:], key.data,
                                             time.monotonic()):
                heapq.heappush(coming, (at_s, next(order), out, packet))
        while coming and coming[0][0] <= time.monotonic():
            _, _, out, packet = heapq.heappop(coming)
            try:
                sockets[out].send(packet)
            except OSError:
                pass  # Lost, as on a wire: whoever sent it sends again.


def main(argv: Sequence[str] | None = None) -> int:
    """Forward until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--rate-bit-s", type=float, default=0.0, help="0: unlimited")
    add("--delay-us", type=float, default=0.0)
    add("--ready", type=Path, help="a file that is made when it forwards")
    add("interfaces", nargs="+")
    arguments = parser.parse_args(argv)
    sockets = [_opened(name) for name in arguments.interfaces]
    if arguments.ready is not None:
        arguments.ready.touch()
    _forward(
        sockets,
        Switch(ports=len(sockets),
               bytes_per_s=arguments.rate_bit_s / 8,
               delay_s=arguments.delay_us * 1e-6))
    return 0


if __name__ == "__main__":
    sys.exit(main())
