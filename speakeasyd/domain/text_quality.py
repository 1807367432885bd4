"""Quality checks of a decoded text: when to decode again, which of several texts to keep or drop.

They use only the decoder's statistics, the text, its timestamps and the amount of speech.
"""

import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

_REPETITIVE = 2.4  # compression ratio above which a text is repetitive
_UNSURE = -0.8  # mean log-probability below which the clip is decoded again
_GUESS = -1.0  # mean log-probability below which text without speech is a hallucination
_SILENCE = 0.6  # probability of no speech above which there may be none
_SPARSE = 2.5  # tokens a second of speech; people speak about four
_ENOUGH_SPEECH_S = 5.0  # seconds of speech that are needed to call a text sparse
_FASTEST = 22.0  # letters a second of speech; the 99th percentile of readers is 19
_SLACK_S = 0.5  # seconds by which detected speech may be too short
_OVERRUN_S = 0.5  # seconds after the end of the speech at which no text can begin
_WORDS_BEFORE = 30  # number of words of the preceding text that are checked
_CONFIRMING_SHARE = 0.65  # of the repeated words; a text that has them once has about half
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_LETTERS_PER_WORD = 2  # in scripts that write words without spaces
# Consecutive repetitions that are suspicious, by the phrase's number of words; 2 for longer ones
_SUSPICIOUS_COUNT = {1: 8, 2: 4}


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of the text between two timestamps."""

    start: float  # seconds in the clip
    end: float  # seconds in the clip; the decoder may set it after the end of the audio
    text: str


@dataclass(frozen=True, slots=True)
class DecodeStatistics:
    """A decoded text and its statistics."""

    text: str
    tokens: int  # number of text tokens
    speech_s: float  # seconds of speech in the clip; 0: unknown
    avg_logprob: float
    no_speech_prob: float
    cut_off: bool = False  # the decoder reached its token limit
    passages: tuple[Passage, ...] = ()
    speech_end: float | None = None  # seconds in the clip; None: unknown
    context: str = ""  # the text before it, which the decoder may repeat

    @property
    def compression_ratio(self) -> float:
        """The ratio of the whole text or of the passage that compresses best."""
        return max(
            map(
                compute_compression_ratio, (self.text, *(passage.text for passage in self.passages))
            )
        )


class Doubt(Enum):
    """A reason to decode the clip again with another method."""

    CUT_OFF = auto()  # the decoder reached its token limit
    REPETITIVE = auto()  # the text compresses too well
    UNSURE = auto()  # the mean log-probability is low
    SPARSE = auto()  # too little text for the amount of speech
    REPEATED = auto()  # a phrase occurs several times in a row
    HURRIED = auto()  # more letters than a person can speak in the time
    OVERRUN = auto()  # text begins after the end of the speech
    WORDLESS = auto()  # mostly dashes, dots or other signs without letters


_COST = {
    Doubt.CUT_OFF: 1.0,
    Doubt.SPARSE: 1.0,
    Doubt.REPEATED: 0.3,
    Doubt.HURRIED: 0.5,
    Doubt.OVERRUN: 0.25,
    Doubt.WORDLESS: 1.0,
}
"""Penalties in units of mean log-probability. `score_text` computes those of the other doubts."""
_IMPOSSIBLE = frozenset(
    {Doubt.CUT_OFF, Doubt.REPETITIVE, Doubt.HURRIED, Doubt.OVERRUN, Doubt.WORDLESS}
)
"""Doubts that show that the text is wrong, so that it cannot confirm another one."""


def compute_compression_ratio(text: str) -> float:
    """Return the size of the UTF-8 text divided by its size under zlib."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


def find_doubts(evidence: DecodeStatistics) -> frozenset[Doubt]:
    """Return all reasons to decode the clip again with another method."""
    if is_invented(evidence):  # it will be dropped, unless it repeats itself over real speech
        unsure = sparse_text = False
    else:
        unsure, sparse_text = evidence.avg_logprob < _UNSURE, is_sparse(evidence)
    found = {
        Doubt.CUT_OFF: evidence.cut_off,
        Doubt.REPETITIVE: evidence.compression_ratio > _REPETITIVE,
        Doubt.UNSURE: unsure,
        Doubt.SPARSE: sparse_text,
        Doubt.REPEATED: bool(_repeated_phrase(evidence)),
        Doubt.HURRIED: _is_hurried(evidence),
        Doubt.OVERRUN: _overruns_speech(evidence),
        Doubt.WORDLESS: _is_wordless(evidence.text),
    }
    return frozenset(doubt for doubt, holds in found.items() if holds)


def is_settled(tried: Sequence[DecodeStatistics]) -> bool:
    """Return whether no other method needs to be tried after these texts of one clip.

    A repetition that another method confirms is accepted: people do repeat themselves.
    """
    return not _unconfirmed_doubts(tried[-1], tried[:-1])


def choose_text(tried: Sequence[DecodeStatistics]) -> int:
    """Return the index of the best of several texts of one clip; among equals the first."""
    merits = [
        score_text(evidence, _unconfirmed_doubts(evidence, [*tried[:index], *tried[index + 1 :]]))
        for index, evidence in enumerate(tried)
    ]
    return merits.index(max(merits))


def score_text(evidence: DecodeStatistics, doubts: frozenset[Doubt]) -> float:
    """Return a score to compare texts of the same audio; higher is better."""
    excess = max(0.0, evidence.compression_ratio - _REPETITIVE)
    return evidence.avg_logprob - excess - sum(_COST.get(doubt, 0.0) for doubt in doubts)


def _unconfirmed_doubts(
    evidence: DecodeStatistics, others: Sequence[DecodeStatistics]
) -> frozenset[Doubt]:
    doubts = find_doubts(evidence)
    if any(_confirms_repetition(evidence, other) for other in others):
        return doubts - {Doubt.REPEATED}
    return doubts


def _confirms_repetition(evidence: DecodeStatistics, other: DecodeStatistics) -> bool:
    """Return whether another text of the same clip has the repeated words about as often.

    Another method often gives slightly different words. An equal number of words is therefore
    enough if the whole repetition lies in the text.
    """
    if not _IMPOSSIBLE.isdisjoint(find_doubts(evidence) | find_doubts(other)):
        return False
    phrase = _repeated_phrase(evidence)
    words, others = Counter(_split_words(evidence.text)), Counter(_split_words(other.text))
    expected = sum(words[word] for word in set(phrase))
    found = sum(min(words[word], others[word]) for word in set(phrase))
    missing = words.total() - others.total()
    as_many_words = missing < len(find_repeated_phrase(evidence.text)) / 2
    return as_many_words or found >= _CONFIRMING_SHARE * expected


def is_sparse(evidence: DecodeStatistics) -> bool:
    """Return whether the text is too short for the speech.

    The decoder sometimes skips speech, often at a pause, with high confidence in the rest.
    """
    return evidence.speech_s >= _ENOUGH_SPEECH_S and evidence.tokens < _SPARSE * evidence.speech_s


def is_invented(evidence: DecodeStatistics) -> bool:
    """Return whether the text is a hallucination over audio that is not speech."""
    return evidence.no_speech_prob > _SILENCE and evidence.avg_logprob < _GUESS


def _repeated_phrase(evidence: DecodeStatistics) -> tuple[str, ...]:
    return find_repeated_phrase(evidence.text, context=evidence.context)


def find_repeated_phrase(text: str, context: str = "") -> tuple[str, ...]:
    """Return the words of the first phrase that is repeated suspiciously often; else empty.

    Single words and pairs are often repeated on purpose ("no, no, no"): they need more
    repetitions. The phrase may begin in `context`, the text before this one.
    """
    before = list(_split_words(context))[-_WORDS_BEFORE:]
    words = [*before, *_split_words(text)]
    for length in range(1, len(words) // 2 + 1):
        run = 0  # words that equal the one `length` before, in a row
        for index in range(length, len(words)):
            run = run + 1 if words[index] == words[index - length] else 0
            if run < length or index < len(before):
                continue
            phrase = words[index - length + 1 : index + 1]
            if run >= length * (_least_count(phrase) - 1) and not _is_periodic(phrase):
                return tuple(phrase)
    return ()


def _is_periodic(phrase: Sequence[str]) -> bool:
    """Return whether the phrase is itself a repetition of a shorter one."""
    return any(phrase[period:] == phrase[:-period] for period in range(1, len(phrase) // 2 + 1))


def _least_count(phrase: Sequence[str]) -> int:
    """Return the number of consecutive repetitions from which the phrase is suspicious."""
    letters = sum(_is_unspaced(word) for word in phrase)
    words = len(phrase) - letters + letters // _LETTERS_PER_WORD
    return _SUSPICIOUS_COUNT.get(max(1, words), 2)


def _split_words(text: str) -> Iterator[str]:
    """Yield words without case and punctuation; single letters in scripts without spaces."""
    for part in text.casefold().split():
        word = "".join(char for char in part if unicodedata.category(char)[0] in "LMN")
        if word and _is_unspaced(word):
            yield from word
        elif word:
            yield word


def _is_unspaced(word: str) -> bool:
    return unicodedata.name(word[0], "").startswith(_UNSPACED_SCRIPTS)


def _is_hurried(evidence: DecodeStatistics) -> bool:
    if not evidence.speech_s:  # unknown, or the clip is only noise
        return False
    letters = sum(map(len, _split_words(evidence.text)))
    return letters > _FASTEST * (evidence.speech_s + _SLACK_S)


def _overruns_speech(evidence: DecodeStatistics) -> bool:
    end = evidence.speech_end
    return end is not None and any(
        passage.start > end + _OVERRUN_S for passage in evidence.passages
    )


def _is_wordless(text: str) -> bool:
    """Return whether most parts between spaces have no word. False for an empty text.

    A multilingual model sometimes writes a dash for each word, with high confidence.
    """
    parts = text.split()
    return sum(not any(_split_words(part)) for part in parts) > len(parts) / 2
