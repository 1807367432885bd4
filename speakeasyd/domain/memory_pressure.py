"""When memory is so short that the machine is left to others, and when no longer. Pure."""

from dataclasses import dataclass

# Of the limit must be there again, so that our own coming back is not the next shortage
CALM_SHARE = 1.25
CALM_LOOKS = 4  # in a row that must find it


@dataclass(frozen=True, slots=True)
class MemoryPressure:
    """What is remembered from look to look."""

    high: bool = False
    calm: int = 0  # looks in a row that found enough


def update_pressure(before: MemoryPressure, *, there: float | None, limit: float) -> MemoryPressure:
    """`there`: memory for us, in the unit of `limit`; None: nobody can tell. A limit of 0 is never short."""
    if not limit:
        return MemoryPressure()
    if there is None:
        return before
    if there < limit:
        return MemoryPressure(high=True)
    if not before.high:
        return before
    calm = before.calm + 1 if there >= limit * CALM_SHARE else 0
    return MemoryPressure(high=calm < CALM_LOOKS, calm=calm)
