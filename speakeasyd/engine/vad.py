"""Voice activity detection with the Silero model, block by block.

The model's recurrent state is kept between blocks.
"""

import numpy as np
from numpy.typing import NDArray

from speakeasyd.domain.fault import Phase
from speakeasyd.engine.audio import BLOCK, Samples
from speakeasyd.engine.faults import label_phase
from speakeasyd.engine.onnx_models import VOICE_DETECTION, OnnxModel

WINDOW = 512  # samples: 32 ms
_CONTEXT = 64  # samples of the previous window
_STATE = 128  # size of the recurrent state
_LOUD_ENOUGH = 0.25  # peak amplitude at which the model works well
_MAX_GAIN = 100.0  # 40 dB
_PEAK_DECAY = 0.8  # factor a block: the stored peak halves in three seconds


class VoiceDetector:
    """The model; thread-safe, since the state is in `VoiceActivity`."""

    def __init__(self) -> None:
        """Load the model. Raises EngineFault."""
        with label_phase(Phase.LOAD):
            self._model = OnnxModel(VOICE_DETECTION)

    def run_model(
        self, windows: Samples, h: Samples, c: Samples
    ) -> tuple[Samples, Samples, Samples]:
        """Return n probabilities and the new state; `windows` has shape (n, 64 + 512)."""
        probabilities, h, c = self._model.run(input=windows, h=h, c=c)
        return probabilities, h, c


class VoiceActivity:
    """Speech probabilities of one channel.

    Blocks are those of `Audio.blocks`. They are always cut at the same samples, so results are
    bitwise reproducible.
    """

    def __init__(self, detector: VoiceDetector) -> None:
        self._detector = detector
        self._peak = 0.0
        self._reset_state()

    def _reset_state(self) -> None:
        self._h = np.zeros((1, 1, _STATE), np.float32)
        self._c = np.zeros((1, 1, _STATE), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def process_block(self, block: Samples) -> NDArray[np.float32]:
        """Return the ceil(n / 512) probabilities of a block of shape (n,)."""
        count = -(-block.size // WINDOW)
        if not block.any():  # digital silence needs no model
            self._reset_state()
            self._peak *= _PEAK_DECAY
            return np.zeros(count, np.float32)
        padded = np.zeros(count * WINDOW, np.float32)
        padded[: block.size] = block
        padded *= self._compute_gain(padded)
        windows = padded.reshape(count, WINDOW)
        before = np.vstack([self._context, windows[:-1, -_CONTEXT:]])
        self._context = windows[-1, -_CONTEXT:].copy()
        probabilities, self._h, self._c = self._detector.run_model(
            np.hstack([before, windows]), self._h, self._c
        )
        return probabilities

    def skip(self, blocks: int) -> None:
        """Advance by this many blocks without sound."""
        self._reset_state()
        self._peak *= _PEAK_DECAY**blocks

    def _compute_gain(self, block: Samples) -> np.float32:
        """Return the gain: quiet audio is amplified unless it was loud just before."""
        self._peak = max(float(np.abs(block).max()), self._peak * _PEAK_DECAY)
        return np.float32(min(_MAX_GAIN, max(1.0, _LOUD_ENOUGH / self._peak)))


assert BLOCK % WINDOW == 0  # noqa: S101 - holds by construction; a change of either must fail at once
