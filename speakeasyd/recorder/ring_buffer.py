"""A ring buffer between the audio callback and the thread that writes the samples."""


class RingBuffer:
    """A lock-free ring buffer for one producer and one consumer thread.

    No lock is needed: both positions only grow, each is changed by one thread only, and an
    assignment is atomic. All memory for samples is allocated at the start.
    """

    def __init__(self, size: int) -> None:
        """`size`: capacity in bytes."""
        self._memory = memoryview(bytearray(size))
        self._size = size
        self._put = 0  # bytes ever put
        self._taken = 0  # bytes ever taken

    def put(self, block: memoryview) -> bool:
        """Copy a block of bytes. Returns False, without storing any of it, if it does not fit."""
        length = len(block)
        if length > self._size - (self._put - self._taken):
            return False
        start = self._put % self._size
        first = min(length, self._size - start)
        self._memory[start : start + first] = block[:first]
        self._memory[: length - first] = block[first:]
        self._put += length
        return True

    def take(self) -> bytes:
        """Remove and return the whole content, possibly empty."""
        put = self._put  # read once: the producer may add more meanwhile
        start, length = self._taken % self._size, put - self._taken
        first = min(length, self._size - start)
        block = bytes(self._memory[start : start + first]) + bytes(self._memory[: length - first])
        self._taken = put
        return block
