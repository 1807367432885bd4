"""Languages by code and name."""

import pytest

from speakeasyd.domain.language_codes import NAMES, find_code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("en", "en"), ("EN", "en"), ("English", "en"), ("en-US", "en"), ("en_GB", "en"), ("zh-CN", "zh"),
        ("zh-Hant-TW", "zh"),
        ("Haitian Creole", "ht"), ("cantonese", "yue"), ("yue", "yue"), ("ger", "de"), ("deu", "de"), ("Farsi", "fa"),
        ("nb-NO", "no"), (" French ", "fr"), ("Portuguese (Brazil)", "pt"), ("iw", "he"), ("Mandarin", "zh"),
        ("srp", "sr"), ("ice", "is"), ("isl", "is"), ("cym", "cy"), ("vie", "vi"), ("may", "ms"),
        ("xx", None), ("", None), ("Klingon", None), ("english and german", None),
    ],
)  # fmt: skip
def test_codes_are_found(text: str, code: str | None) -> None:
    assert find_code(text) == code


def test_every_language_is_found_by_its_code_and_its_name() -> None:
    assert len(NAMES) == 100
    for code, name in NAMES.items():
        assert find_code(code) == find_code(name) == find_code(name.title()) == code
