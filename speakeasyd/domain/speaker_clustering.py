"""Finds the speakers of a file from those of its chunks, by the similarity of their embeddings. Pure.

Agglomerative clustering with average linkage. Its result does not depend on the order of the input.
Imported when needed, because numpy is large.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speakeasyd.domain.diarization import CHANNEL, MODEL, ChunkSpeakers, LocalKey

Array = NDArray[np.float32]
Labels = NDArray[np.int64]

SAME_IN_CHUNK = 0.45  # cosine distance below which pieces of one chunk have the same speaker
SAME_IN_FILE = 0.34  # the same for local speakers of one file
SHORTEST_SPEAKER_S = 4.0  # seconds; who speaks less is given to the most similar speaker
MOST_LEAVES = 2000  # clustered at once: the distances of these take 16 MB
_SHORTEST_SPEAKERS_S = (SHORTEST_SPEAKER_S, 2.0, 1.0, 0.0)
"""Tried in order if there are fewer speakers than somebody says."""


@dataclass(frozen=True, slots=True)
class _Merge:
    """Two clusters that become one. A cluster is named by its first leaf."""

    kept: int
    gone: int
    distance: float  # cosine


@dataclass(frozen=True, slots=True)
class _Leaves:
    """What is clustered: embeddings of unit length, shape (n, 192), and their seconds, shape (n,)."""

    keys: tuple[LocalKey, ...]
    embeddings: Array
    seconds: Array


def decode_embedding(data: bytes) -> Array:
    """Return the embedding as float32 of unit length, shape (192,)."""
    return _normalize_vectors(np.frombuffer(data, "<f2").astype(np.float32))


def encode_embedding(embedding: Array) -> bytes:
    return embedding.astype("<f2").tobytes()


def _normalize_vectors(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Array = vectors / np.maximum(lengths, np.float32(1e-9))
    return unit


def cluster_embeddings(embeddings: Array, seconds: Array, threshold: float) -> Labels:
    """Return a cluster for each embedding, numbered from 0 by first appearance.

    Average linkage, each embedding with the weight of its seconds. The closest pair is joined first,
    until all cosine distances are above `threshold`.
    """
    return _label_clusters(len(embeddings), _join_closest(embeddings, seconds, threshold))


def _join_closest(embeddings: Array, seconds: Array, threshold: float = np.inf) -> list[_Merge]:
    """Return the merges of average linkage, in order, up to a cosine distance."""
    count = len(embeddings)
    if count < 2:
        return []
    distances = (1 - embeddings @ embeddings.T).astype(np.float32)
    np.fill_diagonal(distances, np.inf)
    weights = np.asarray(seconds, np.float64) + 1e-3
    alive = np.ones(count, bool)
    nearest = distances.argmin(1)
    every = np.arange(count)
    merges: list[_Merge] = []
    for _ in range(count - 1):
        smallest = np.where(alive, distances[every, nearest], np.inf)
        closest = int(smallest.argmin())
        if smallest[closest] > threshold:
            break
        kept, gone = sorted((closest, int(nearest[closest])))
        merges.append(_Merge(kept, gone, float(smallest[closest])))
        both = weights[kept] + weights[gone]
        merged = (weights[kept] * distances[kept] + weights[gone] * distances[gone]) / both
        distances[kept] = distances[:, kept] = merged
        distances[kept, kept] = np.inf
        distances[gone] = distances[:, gone] = np.inf
        weights[kept] = both
        alive[gone] = False
        outdated = alive & ((nearest == kept) | (nearest == gone))
        outdated[kept] = True
        nearest[outdated] = distances[outdated].argmin(1)
        nearest[alive & (distances[:, kept] < distances[every, nearest])] = kept
    return merges


def _label_clusters(count: int, merges: Sequence[_Merge]) -> Labels:
    """Return the cluster of each of `count` leaves after these merges."""
    labels = np.arange(count)
    for merge in merges:
        labels[labels == merge.gone] = merge.kept
    return _renumber_labels(labels)


def _renumber_labels(labels: Labels) -> Labels:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    renumbered: Labels = order[inverse]
    return renumbered


def average_clusters(embeddings: Array, seconds: Array, labels: Labels) -> Array:
    """Return the mean embedding of each cluster, of unit length, shape (clusters, 192)."""
    weights = np.asarray(seconds, np.float32) + np.float32(1e-6)
    sums = np.zeros((int(labels.max()) + 1, embeddings.shape[1]), np.float32)
    np.add.at(sums, labels, embeddings * weights[:, np.newaxis])
    return _normalize_vectors(sums)


def find_speakers(
    chunks: Sequence[tuple[int, ChunkSpeakers]], *, low: int, high: int
) -> dict[LocalKey, int]:
    """Return the speaker of each local speaker, as numbers from 0 without an order.

    `chunks`: index and speakers of each chunk. `low` and `high`: how many speakers there are. If no
    threshold gives as many, the number that is nearest to that.
    """
    channels = [(index, found) for index, found in chunks if found.model.startswith(CHANNEL)]
    if channels:
        names = list(dict.fromkeys(found.model for _, found in sorted(channels, key=_by_index)))
        return {LocalKey(index, 0): names.index(found.model) for index, found in channels}
    leaves = _gather_leaves(chunks)
    if not leaves.keys:
        return {}
    groups, embeddings, seconds = _reduce_leaves(leaves)
    labels, large = _cut_within(embeddings, seconds, low, high)
    means = np.stack(
        [
            _normalize_vectors(
                np.average(
                    leaves.embeddings[labels[groups] == label],
                    axis=0,
                    weights=leaves.seconds[labels[groups] == label] + 1e-3,
                ).astype(np.float32)
            )
            for label in large
        ]
    )
    speakers = (leaves.embeddings @ means.T).argmax(1)
    return {key: int(speaker) for key, speaker in zip(leaves.keys, speakers, strict=True)}


def _by_index(item: tuple[int, ChunkSpeakers]) -> int:
    return item[0]


def _gather_leaves(chunks: Sequence[tuple[int, ChunkSpeakers]]) -> _Leaves:
    """Return the local speakers that have an embedding of the present model, by chunk."""
    found = [
        (LocalKey(index, number), speaker)
        for index, speakers in sorted(chunks, key=_by_index)
        if speakers.model == MODEL
        for number, speaker in enumerate(speakers.speakers)
    ]
    return _Leaves(
        tuple(key for key, _ in found),
        np.stack([decode_embedding(speaker.embedding) for _, speaker in found])
        if found
        else np.zeros((0, 0), np.float32),
        np.array([speaker.seconds for _, speaker in found], np.float32),
    )


def _reduce_leaves(leaves: _Leaves) -> tuple[Labels, Array, Array]:
    """Join the leaves of long files stretch by stretch, so that memory stays bounded.

    Returns the group of each leaf, and embeddings and seconds of the groups.
    """
    groups = np.arange(len(leaves.keys))
    embeddings, seconds = leaves.embeddings, leaves.seconds
    while len(embeddings) > MOST_LEAVES:
        labels = np.empty(len(embeddings), np.int64)
        used = 0
        for start in range(0, len(embeddings), MOST_LEAVES // 2):
            part = slice(start, start + MOST_LEAVES // 2)
            clusters = cluster_embeddings(embeddings[part], seconds[part], SAME_IN_FILE * 0.8)
            labels[part] = clusters + used
            used += int(clusters.max()) + 1
        if used == len(embeddings):
            break
        groups = labels[groups]
        embeddings = average_clusters(embeddings, seconds, labels)
        seconds = np.bincount(labels, seconds).astype(np.float32)
    return groups, embeddings, seconds


def _cut_within(embeddings: Array, seconds: Array, low: int, high: int) -> tuple[Labels, Labels]:
    """Return the clusters, and which of them are speakers: `low` to `high`, if there are as many.

    Of several such cuts, the one whose distance is nearest to `SAME_IN_FILE`.
    """
    merges = _join_closest(embeddings, seconds)
    for shortest_s in _SHORTEST_SPEAKERS_S:
        counts = _count_speakers(merges, seconds, shortest_s)
        misses = np.maximum(np.maximum(low - counts, counts - high), 0)
        if not misses.min():
            break
    usual = sum(merge.distance <= SAME_IN_FILE for merge in merges)
    cut = min(range(len(counts)), key=lambda cut: (misses[cut], abs(cut - usual), cut))
    labels = _label_clusters(len(embeddings), merges[:cut])
    spoken = np.bincount(labels, seconds)
    return labels, np.flatnonzero(spoken >= min(shortest_s, spoken.max() / 2))


def _count_speakers(merges: Sequence[_Merge], seconds: Array, shortest_s: float) -> Labels:
    """Return how many clusters are speakers after 0, 1, 2, ... merges."""
    spoken = np.asarray(seconds, np.float64).copy()
    counts = [np.count_nonzero(spoken >= min(shortest_s, spoken.max() / 2))]
    for merge in merges:
        spoken[merge.kept] += spoken[merge.gone]
        spoken[merge.gone] = -1.0
        counts.append(np.count_nonzero(spoken >= min(shortest_s, spoken.max() / 2)))
    return np.array(counts)


def split_speaker(
    chunks: Sequence[tuple[int, ChunkSpeakers]], keys: Sequence[LocalKey]
) -> frozenset[LocalKey]:
    """Return those of these local speakers, all of one speaker, that are the second of two.

    Empty if they cannot be divided.
    """
    wanted = frozenset(keys)
    only = [(index, found) for index, found in chunks if any(key.chunk == index for key in wanted)]
    leaves = _gather_leaves(only)
    chosen = [number for number, key in enumerate(leaves.keys) if key in wanted]
    if len(chosen) < 2:
        return frozenset()
    embeddings, seconds = leaves.embeddings[chosen], leaves.seconds[chosen]
    labels = _divide_embeddings(embeddings, seconds)
    return frozenset(
        leaves.keys[number] for number, label in zip(chosen, labels, strict=True) if label
    )


def _divide_embeddings(embeddings: Array, seconds: Array) -> Labels:
    """Return 0 or 1 for each embedding."""
    labels, large = _cut_within(embeddings, seconds, 2, 2)
    if len(large) != 2:
        return np.zeros(len(embeddings), np.int64)
    means = average_clusters(embeddings, seconds, labels)[large]
    divided: Labels = (embeddings @ means.T).argmax(1)
    return divided
