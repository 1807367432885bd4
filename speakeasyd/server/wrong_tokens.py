"""Logs wrong tokens and delays their answers, doubling per address (throttling).

Requests with the right token are never delayed, not even from the same address.
"""

import asyncio
import ipaddress
import logging
import time
from dataclasses import dataclass

FIRST_DELAY_S = 0.25  # seconds; doubles with each wrong token
LONGEST_DELAY_S = 4.0
FORGET_S = 600.0  # seconds without a wrong token after which an address is forgotten
ADDRESSES = 1000  # that are remembered
NETWORK_BITS = 64  # of an IPv6 address: one host usually has a whole /64 network

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0  # monotonic seconds


class WrongTokens:
    def __init__(self) -> None:
        self._by_address: dict[str, _Failures] = {}

    async def record_failure(self, peer: str) -> None:
        """Log a wrong token, and wait before the answer."""
        address = _network_of(peer)
        log.warning("wrong token from %s", peer[:64])
        await asyncio.sleep(self._compute_delay(address, time.monotonic()))

    def _compute_delay(self, address: str, now: float) -> float:
        failures = self._by_address.pop(
            address, _Failures()
        )  # re-inserted at the end: the oldest are forgotten first
        if now - failures.last > FORGET_S:
            failures.count = 0
        failures.count += 1
        failures.last = now
        self._by_address[address] = failures
        if len(self._by_address) > ADDRESSES:
            del self._by_address[next(iter(self._by_address))]
        doublings = min(failures.count - 1, 10)
        return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0**doublings)


def _network_of(peer: str) -> str:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer
    if address.version == 4:
        return peer
    return str(ipaddress.ip_network((address, NETWORK_BITS), strict=False))
