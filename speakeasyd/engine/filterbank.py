"""Log-mel filterbank features as Kaldi computes them, which the speaker embeddings need."""

import numpy as np

from speakeasyd.engine.audio import SAMPLE_RATE, Samples

_WINDOW = 400  # samples: 25 ms
_HOP = 160  # samples: 10 ms
_FFT = 512  # samples
_BANDS = 80
_LOW_HZ, _HIGH_HZ = 20.0, 8000.0
_PRE_EMPHASIS = np.float32(0.97)
_FLOOR = np.float32(np.finfo(np.float32).eps)
_TAPER = (np.hanning(_WINDOW) ** 0.85).astype(np.float32)  # Povey's window


def _to_mel(hertz: float) -> float:
    return float(1127.0 * np.log(1.0 + hertz / 700.0))


def _build_bands() -> Samples:
    """Return triangular filters, shape (257, 80)."""
    low, high = _to_mel(_LOW_HZ), _to_mel(_HIGH_HZ)
    step = (high - low) / (_BANDS + 1)
    bins = 1127.0 * np.log(1.0 + np.arange(_FFT // 2) * SAMPLE_RATE / _FFT / 700.0)
    bands = np.zeros((_FFT // 2 + 1, _BANDS), np.float32)
    for band in range(_BANDS):
        left = low + band * step
        rising, falling = (bins - left) / step, (left + 2 * step - bins) / step
        bands[: _FFT // 2, band] = np.maximum(0, np.minimum(rising, falling))
    return bands


_FILTERS = _build_bands()


def compute_filterbank(samples: Samples) -> Samples:
    """Return the features without the mean of each band, shape (frames, 80).

    `samples`: at least 400, that is 25 ms.
    """
    count = 1 + (samples.size - _WINDOW) // _HOP
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP][:count]
    frames = windows - windows.mean(axis=1, keepdims=True)
    frames = frames - _PRE_EMPHASIS * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(frames * _TAPER, _FFT)) ** 2
    features: Samples = np.log(np.maximum(power.astype(np.float32) @ _FILTERS, _FLOOR))
    features -= features.mean(axis=0)
    return features
