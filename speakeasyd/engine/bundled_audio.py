"""The recordings that are part of the package."""

from importlib.resources import as_file, files

import numpy as np

from speakeasyd.engine.audio import Audio, Samples
from speakeasyd.engine.media_file import MediaFile


def decode_bundled_audio(path: str) -> Samples:
    """Return the samples of a file of `speakeasyd/data`, mono, shape (n,)."""
    with as_file(files("speakeasyd") / "data" / path) as file, MediaFile(str(file)) as source:
        audio = Audio(source)
        samples = np.concatenate([block[0] for block in audio.blocks()])
        audio.close()
        return samples
