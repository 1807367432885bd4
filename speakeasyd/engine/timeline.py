"""Where decoded samples lie on the file's clock, decided from their timestamps alone."""

from dataclasses import dataclass

TOLERANCE_S = 0.04  # seconds that samples may be off their timestamps before they are moved
_LONGEST_HOLE_S = 48 * 3600.0  # a longer step forward is a wrong clock, not a hole
_LONGEST_HOLE_IN_STREAM_S = 3600.0  # the same for broadcasts, whose clock may start anew
_LONGEST_TRIM_S = 0.25  # seconds of slow drift that are removed at once
_JUMP_S = 0.5  # seconds: a smaller step is not worth a word


@dataclass(frozen=True, slots=True)
class Stamp:
    """One decoded frame: its time on the file's clock, if it has one, and its length in seconds."""

    time: float | None
    seconds: float


class Timeline:
    """Holes in the timestamps become silence; wrong timestamps change nothing.

    `start` is the time on the file's clock that is second `base` of the timeline; None: the first
    timestamp.
    """

    def __init__(self, start: float | None, *, base: float = 0.0, broadcast: bool = False) -> None:
        self.end = base  # seconds on the timeline of what was placed
        self.jumps = 0  # steps of the clock that no hole explains
        self._zero = base - (start or 0.0)
        self._starts_anywhere = start is None
        self._shift = 0.0  # seconds: what a jump of the clock is made up for with
        self._longest_hole = _LONGEST_HOLE_IN_STREAM_S if broadcast else _LONGEST_HOLE_S
        self._begun = False
        self._last: Stamp | None = None  # the last frame that had a time of its own
        self._since = 0.0  # seconds placed from that frame's start on

    def place(self, frame: Stamp, following: Stamp | None) -> float:
        """Seconds of silence before this frame; negative: seconds of its beginning to leave out."""
        gap = 0.0
        repeated = self._last is not None and frame.time == self._last.time
        if frame.time is not None and not repeated:
            gap = self._measure_gap(frame, frame.time, following)
            self._last, self._since = frame, 0.0
        self._begun = True
        self._since += frame.seconds
        self.end += gap + frame.seconds
        return gap

    def _measure_gap(self, frame: Stamp, time: float, following: Stamp | None) -> float:
        gap = time + self._zero + self._shift - self.end
        is_hole = 0.0 < gap <= self._longest_hole
        if not self._begun:
            if not is_hole or self._starts_anywhere:
                self._zero -= gap
                gap = 0.0
            return gap
        if abs(gap) <= TOLERANCE_S:
            return 0.0
        if self._shift and abs(gap - self._shift) <= TOLERANCE_S:  # the clock came back
            self._shift = 0.0
            return 0.0
        is_fault = self._is_single_fault(frame, following)
        if is_hole and not is_fault:
            return gap
        if -_LONGEST_TRIM_S <= gap < 0.0 and not is_fault and self._drifted_slowly(time):
            return max(gap, -frame.seconds)
        self.jumps += abs(gap) > _JUMP_S
        if not is_fault:
            self._shift -= gap
        return 0.0

    def _is_single_fault(self, frame: Stamp, following: Stamp | None) -> bool:
        """Whether the next frame is where it would be if this one had the right time."""
        if following is None or following.time is None:
            return False
        expected = self.end + frame.seconds
        return abs(following.time + self._zero + self._shift - expected) <= TOLERANCE_S

    def _drifted_slowly(self, time: float) -> bool:
        """Whether no step is to be seen at this frame: the clock runs slower than the samples."""
        if self._last is None or self._last.time is None:
            return False
        return abs(time - self._last.time - self._since) < TOLERANCE_S / 2
