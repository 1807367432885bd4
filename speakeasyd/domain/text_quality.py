"""Rules that judge a decoded text: when to decode again, which of several texts to keep, when to drop one.

They use the statistics of the decoding, the text and its timestamps, and how much speech there is. Nothing else.
"""

import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

_REPETITIVE = 2.4  # compression ratio above which a text loops
_UNSURE = -0.8  # mean log-probability below which another way is worth its time
_GUESS = -1.0  # and below which, where there may be no speech, the text is an invention
_SILENCE = 0.6  # probability of no speech
_SPARSE = 2.5  # tokens a second of speech; people say about four
_ENOUGH_SPEECH_S = 5.0  # seconds of speech that are needed to call a text sparse
_FASTEST = 22.0  # letters a second of speech; of ordinary readers, one in a hundred says 19
_SLACK_S = 0.5  # seconds by which detected speech may be shorter than what was spoken
_OVERRUN_S = 0.5  # seconds behind the end of the speech at which no text can begin
_WORDS_BEFORE = 30  # of the text before that are looked at
_CONFIRMING_SHARE = 0.65  # of the repeated words; a text that has them once has about half
_UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_LETTERS_PER_WORD = 2  # in scripts that write words without spaces
_SUSPICIOUS_COUNT = {
    1: 8,
    2: 4,
}  # how often a phrase of so many words must stand in a row; longer ones twice


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of the text between two timestamps."""

    start: float  # seconds in the clip
    end: float  # seconds in the clip; the decoder may set it behind the end of the audio
    text: str


@dataclass(frozen=True, slots=True)
class DecodeStatistics:
    """What is known of a decoded text."""

    text: str
    tokens: int  # of text
    speech_s: float  # seconds of speech that it is about
    avg_logprob: float
    no_speech_prob: float
    cut_off: bool = False  # the decoder ran into its limit of tokens
    passages: tuple[Passage, ...] = ()
    speech_end: float | None = None  # seconds in the clip; None: unknown
    said: str = ""  # the text before it, which the decoder may repeat

    @property
    def compression_ratio(self) -> float:
        """Of the text as a whole, or of the passage that compresses best."""
        return max(
            map(
                compute_compression_ratio, (self.text, *(passage.text for passage in self.passages))
            )
        )


class Doubt(Enum):
    """A reason to decode the clip in another way."""

    CUT_OFF = auto()  # the decoder ran into its limit of tokens
    REPETITIVE = auto()  # the text compresses too well
    UNSURE = auto()  # the mean log-probability is low
    SPARSE = auto()  # too little text for so much speech
    REPEATED = auto()  # a phrase stands more than once in a row
    HURRIED = auto()  # more letters than anybody says in the time
    OVERRUN = auto()  # text begins behind the end of the speech


_COST = {
    Doubt.CUT_OFF: 1.0,
    Doubt.SPARSE: 1.0,
    Doubt.REPEATED: 0.3,
    Doubt.HURRIED: 0.5,
    Doubt.OVERRUN: 0.25,
}
"""In units of mean log-probability. Those that are missing are part of `score_text` by their size."""
_IMPOSSIBLE = frozenset({Doubt.CUT_OFF, Doubt.REPETITIVE, Doubt.HURRIED, Doubt.OVERRUN})
"""Signs that a text cannot be what was said: it confirms nothing."""


def compute_compression_ratio(text: str) -> float:
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


def find_doubts(evidence: DecodeStatistics) -> frozenset[Doubt]:
    """All reasons to decode the clip in another way."""
    if is_invented(evidence):  # it will be dropped, unless it is one that loops over real speech
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
    }
    return frozenset(doubt for doubt, holds in found.items() if holds)


def is_settled(tried: Sequence[DecodeStatistics]) -> bool:
    """Whether no other way of decoding need be tried after these texts of one clip.

    A repetition that another way confirms is believed: people do say things twice.
    """
    return not _unconfirmed_doubts(tried[-1], tried[:-1])


def choose_text(tried: Sequence[DecodeStatistics]) -> int:
    """The index of the most credible of several texts of one clip; of equals the first."""
    merits = [
        score_text(evidence, _unconfirmed_doubts(evidence, [*tried[:index], *tried[index + 1 :]]))
        for index, evidence in enumerate(tried)
    ]
    return merits.index(max(merits))


def score_text(evidence: DecodeStatistics, doubts: frozenset[Doubt]) -> float:
    """To compare texts of the same audio: higher is more credible."""
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
    """Whether another text of the same clip has the repeated words about as often.

    Decoded in another way, they often differ a little: if the whole repetition is in the text, as
    many words are enough.
    """
    if not _IMPOSSIBLE.isdisjoint(find_doubts(evidence) | find_doubts(other)):
        return False
    phrase = _repeated_phrase(evidence)
    words, others = Counter(_words(evidence.text)), Counter(_words(other.text))
    expected = sum(words[word] for word in set(phrase))
    found = sum(min(words[word], others[word]) for word in set(phrase))
    missing = words.total() - others.total()
    as_many_words = missing < len(find_repeated_phrase(evidence.text)) / 2
    return as_many_words or found >= _CONFIRMING_SHARE * expected


def is_sparse(evidence: DecodeStatistics) -> bool:
    """Whether much of what is said is left out: the decoder jumped over it, often at a pause, sure of the rest."""
    return evidence.speech_s >= _ENOUGH_SPEECH_S and evidence.tokens < _SPARSE * evidence.speech_s


def is_invented(evidence: DecodeStatistics) -> bool:
    """Whether the text is an invention over something that is not speech."""
    return evidence.no_speech_prob > _SILENCE and evidence.avg_logprob < _GUESS


def _repeated_phrase(evidence: DecodeStatistics) -> tuple[str, ...]:
    return find_repeated_phrase(evidence.text, said=evidence.said)


def find_repeated_phrase(text: str, said: str = "") -> tuple[str, ...]:
    """The words of the first phrase that stands more than once in a row, as no speaker means it; else empty.

    Single words and pairs are often repeated on purpose ("no, no, no"): they must stand in a row more often.
    The phrase may begin in what was said before the text.
    """
    before = list(_words(said))[-_WORDS_BEFORE:]
    words = [*before, *_words(text)]
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
    """Whether the phrase is itself a shorter one several times."""
    return any(phrase[period:] == phrase[:-period] for period in range(1, len(phrase) // 2 + 1))


def _least_count(phrase: Sequence[str]) -> int:
    """How often in a row a phrase is suspicious."""
    letters = sum(_is_unspaced(word) for word in phrase)
    words = len(phrase) - letters + letters // _LETTERS_PER_WORD
    return _SUSPICIOUS_COUNT.get(max(1, words), 2)


def _words(text: str) -> Iterator[str]:
    """Words without case and punctuation; each letter by itself in scripts that do not part words."""
    for part in text.casefold().split():
        word = "".join(char for char in part if unicodedata.category(char)[0] in "LMN")
        if word and _is_unspaced(word):
            yield from word
        elif word:
            yield word


def _is_unspaced(word: str) -> bool:
    return unicodedata.name(word[0], "").startswith(_UNSPACED_SCRIPTS)


def _is_hurried(evidence: DecodeStatistics) -> bool:
    if not evidence.speech_s:  # unknown, or nothing but what the model makes of noise
        return False
    letters = sum(map(len, _words(evidence.text)))
    return letters > _FASTEST * (evidence.speech_s + _SLACK_S)


def _overruns_speech(evidence: DecodeStatistics) -> bool:
    end = evidence.speech_end
    return end is not None and any(
        passage.start > end + _OVERRUN_S for passage in evidence.passages
    )
