"""Memory pressure with hysteresis: decides when to leave the memory to other programs. Pure."""

from dataclasses import dataclass

# Multiple of the limit that must be available before work resumes: resuming takes memory itself
CALM_SHARE = 1.25
CALM_LOOKS = 4  # consecutive measurements that must find it


@dataclass(frozen=True, slots=True)
class MemoryPressure:
    """The state between two measurements."""

    high: bool = False
    calm: int = 0  # consecutive measurements that found enough memory


def update_pressure(
    before: MemoryPressure, *, available: float | None, limit: float
) -> MemoryPressure:
    """Return the next state. A limit of 0 switches the check off.

    `available`: memory that we can use, in the unit of `limit`; None: unknown.
    """
    if not limit:
        return MemoryPressure()
    if available is None:
        return before
    if available < limit:
        return MemoryPressure(high=True)
    if not before.high:
        return before
    calm = before.calm + 1 if available >= limit * CALM_SHARE else 0
    return MemoryPressure(high=calm < CALM_LOOKS, calm=calm)
