"""Creates a Whisper model of a given size with random weights and a fixed text, to measure speed.

Usage: python -m benchmarks.synthetic_model FOLDER [--size large-v3-turbo] [--like MODEL_FOLDER]

The encoder and each decoder step do the work of the real model of this size. The output projection
turns each token into the next one of TEXT, so every chunk has this text, with a high probability
and as many tokens as 25 s of speech. The model replaces a real one that cannot be downloaded; it
says nothing about accuracy.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ctranslate2.specs import WhisperSpec
from faster_whisper.tokenizer import Tokenizer
from tokenizers import Tokenizer as HuggingFaceTokenizer

from benchmarks.contenders import BUNDLED_FOLDER
from speakeasyd.engine.whisper.token_segments import TIMESTAMP_S

TEXT = (
    " The service listens to the folder and writes down every word. A quiet river runs through our"
    " small town, where each morning an old ferry carries workers, students or farmers across it"
    " before sunrise. My grandfather was its captain for thirty years, he knew all passengers by"
    " name, what they did, how long winter would last. Nobody else asked him why he stayed so near"
    " home when other people moved away into cities far beyond those hills, looking after better"
    " work"
)
"""It begins with the text of the canary. Of each token, the first is kept: it has one successor."""

END_S = 15.0  # seconds: the timestamp after the text; few chunks of a long file are shorter
SCALE = 0.02  # standard deviation of the weights, about that of Whisper's
EMBEDDING = 5.0  # standard deviation of the embeddings: more than what the layers add to them
LOGIT = 25.0  # of the next token; those of the others are near 0
ENGLISH_ONLY = 51864  # tokens of an English-only vocabulary


@dataclass(frozen=True, slots=True)
class Size:
    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    mels: int = 80


SIZES = {
    "tiny": Size(384, 6, 4, 4),
    "small": Size(768, 12, 12, 12),
    "medium": Size(1024, 16, 24, 24),
    "large-v3-turbo": Size(1280, 20, 32, 4, mels=128),
    "large-v3": Size(1280, 20, 32, 32, mels=128),
}


class RandomWeights:
    """Cuts arrays out of one block of random numbers, since to draw each takes longer."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._block = self._random.normal(0, SCALE, 1 << 24).astype(np.float16)

    def draw(self, shape: tuple[int, ...]) -> npt.NDArray[np.float16]:
        start = self._random.integers(self._block.size)
        return np.resize(np.roll(self._block, start), shape)


def create_model(folder: Path, size: Size, like: Path) -> None:
    """Write the model in float16. `like`: the folder of a model whose vocabulary it gets."""
    vocabulary = (like / "vocabulary.txt").read_text("utf-8").removesuffix("\n").split("\n")
    spec = WhisperSpec(size.encoder_layers, size.heads, size.decoder_layers, size.heads)
    set_weights(spec, size, len(vocabulary))
    tokenizer = Tokenizer(
        HuggingFaceTokenizer.from_file(str(like / "tokenizer.json")),
        multilingual=len(vocabulary) > ENGLISH_ONLY,
        task="transcribe",
        language="en",
    )
    set_text(spec, tokenizer)
    config = json.loads((like / "config.json").read_text("utf-8"))
    for name in ("suppress_ids", "suppress_ids_begin", "lang_ids"):
        setattr(spec.config, name, config.get(name))
    spec.config.alignment_heads = [[size.decoder_layers - 1, 0]]
    spec.register_vocabulary(vocabulary)
    spec.validate()
    folder.mkdir(parents=True)
    spec.save(str(folder))
    shutil.copy(like / "tokenizer.json", folder)
    features = json.dumps({"feature_size": size.mels})
    (folder / "preprocessor_config.json").write_text(features, "utf-8")


def set_weights(spec: WhisperSpec, size: Size, vocabulary: int) -> None:
    """Set each weight of the specification to random numbers, and each bias to zero."""
    width, random = size.width, RandomWeights()
    rows = {
        "self_attention/linear_0": 3 * width,
        "self_attention/linear_1": width,
        "attention/linear_1": 2 * width,
        "ffn/linear_0": 4 * width,
        "embeddings": vocabulary,
        "projection": vocabulary,
    }
    weights = {
        "ffn/linear_1": (width, 4 * width),
        "conv1": (width, size.mels, 3),
        "conv2": (width, width, 3),
    }

    def set_one(layer: Any, name: str, _: object) -> None:
        path, _, kind = name.rpartition("/")
        outputs = next((count for end, count in rows.items() if path.endswith(end)), width)
        if kind == "weight":
            shape = next(
                (of for end, of in weights.items() if path.endswith(end)), (outputs, width)
            )
            layer.weight = random.draw(shape)
            if path.endswith("embeddings"):
                layer.weight *= EMBEDDING / SCALE
        elif kind == "encodings":
            positions = 1500 if path.startswith("encoder") else 448
            layer.encodings = random.draw((positions, width))
        elif kind == "gamma":
            layer.gamma = np.ones(width, np.float16)
        elif kind == "beta" or (kind == "bias" and "embeddings" not in path):
            setattr(layer, kind, np.zeros(outputs, np.float16))

    spec._visit(set_one)


def set_text(spec: WhisperSpec, tokenizer: Tokenizer) -> None:
    """Make the output projection write TEXT between two timestamps, or without them."""
    begin = tokenizer.timestamp_begin
    words = list(dict.fromkeys(tokenizer.encode(TEXT)))
    start, end = tokenizer.sot_sequence[-1], begin + round(END_S / TIMESTAMP_S)
    chain = [start, begin, *words, end, tokenizer.eot]
    embeddings = spec.decoder.embeddings.weight.astype(np.float32)
    others = [(tokenizer.no_timestamps, words[0])]
    if tokenizer.language:
        others.append((tokenizer.sot, tokenizer.language))
    for token, following in [*pairwise(chain), *others]:
        row = embeddings[token] / embeddings[token].std()
        spec.decoder.projection.weight[following] += LOGIT / row.size * row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="large-v3-turbo")
    parser.add_argument("--like", type=Path, default=BUNDLED_FOLDER)
    asked = parser.parse_args()
    create_model(asked.folder, SIZES[asked.size], asked.like)


if __name__ == "__main__":
    main()
