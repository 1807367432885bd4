"""Samples on their way from the audio callback to the thread that writes them."""


class RingBuffer:
    """One thread puts, one takes; neither waits for the other.

    Both positions only grow, each is changed by one thread alone, and a plain assignment is seen whole by the other: no
    lock is needed. All memory for samples is taken beforehand.
    """

    def __init__(self, size: int) -> None:
        """`size`: bytes that it holds."""
        self._memory = memoryview(bytearray(size))
        self._size = size
        self._put = 0  # bytes ever put
        self._taken = 0  # bytes ever taken

    def put(self, block: memoryview) -> bool:
        """Copy a block of bytes in. False: there was no room for it, and none of it is in."""
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
        """All that is in; empty if there is nothing."""
        put = self._put  # read once: more may come meanwhile
        start, length = self._taken % self._size, put - self._taken
        first = min(length, self._size - start)
        block = bytes(self._memory[start : start + first]) + bytes(self._memory[: length - first])
        self._taken = put
        return block
