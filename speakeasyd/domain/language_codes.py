"""The languages of Whisper: ISO 639-1 codes, or 639-3 where there is none, and their English names.

Source: the table of languages in OpenAI's Whisper, `whisper/tokenizer.py`.
"""

import re
from collections.abc import Mapping

NAMES: Mapping[str, str] = dict(
    entry.split(" ", 1)
    for entry in """
    en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja japanese, pt portuguese,
    tr turkish, pl polish, ca catalan, nl dutch, ar arabic, sv swedish, it italian, id indonesian, hi hindi,
    fi finnish, vi vietnamese, he hebrew, uk ukrainian, el greek, ms malay, cs czech, ro romanian, da danish,
    hu hungarian, ta tamil, no norwegian, th thai, ur urdu, hr croatian, bg bulgarian, lt lithuanian, la latin,
    mi maori, ml malayalam, cy welsh, sk slovak, te telugu, fa persian, lv latvian, bn bengali, sr serbian,
    az azerbaijani, sl slovenian, kn kannada, et estonian, mk macedonian, br breton, eu basque, is icelandic,
    hy armenian, ne nepali, mn mongolian, bs bosnian, kk kazakh, sq albanian, sw swahili, gl galician, mr marathi,
    pa punjabi, si sinhala, km khmer, sn shona, yo yoruba, so somali, af afrikaans, oc occitan, ka georgian,
    be belarusian, tg tajik, sd sindhi, gu gujarati, am amharic, yi yiddish, lo lao, uz uzbek, fo faroese,
    ht haitian creole, ps pashto, tk turkmen, nn nynorsk, mt maltese, sa sanskrit, lb luxembourgish, my myanmar,
    bo tibetan, tl tagalog, mg malagasy, as assamese, tt tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir,
    jw javanese, su sundanese, yue cantonese
    """.replace("\n", " ").split(",")
    for entry in [" ".join(entry.split())]
)
"""English name, in lower case, by code."""

_OTHER_NAMES: Mapping[str, str] = {
    "burmese": "my",
    "valencian": "ca",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "pushto": "ps",
    "panjabi": "pa",
    "moldavian": "ro",
    "moldovan": "ro",
    "sinhalese": "si",
    "castilian": "es",
    "mandarin": "zh",
    "farsi": "fa",
    "filipino": "tl",
    "norwegian bokmål": "no",
    "norwegian nynorsk": "nn",
    "nb": "no",
    "iw": "he",
    "in": "id",
    "jv": "jw",
    "fil": "tl",
    "cmn": "zh",
    "eng": "en",
    "deu": "de",
    "ger": "de",
    "fra": "fr",
    "fre": "fr",
    "spa": "es",
    "ita": "it",
    "por": "pt",
    "nld": "nl",
    "dut": "nl",
    "rus": "ru",
    "jpn": "ja",
    "kor": "ko",
    "zho": "zh",
    "chi": "zh",
    "pol": "pl",
    "swe": "sv",
    "dan": "da",
    "nor": "no",
    "fin": "fi",
    "tur": "tr",
    "ukr": "uk",
    "ces": "cs",
    "cze": "cs",
    "ell": "el",
    "gre": "el",
    "hun": "hu",
    "ron": "ro",
    "rum": "ro",
    "ara": "ar",
    "heb": "he",
    "hin": "hi",
}
"""Code by alternative name, by older code, or by the ISO 639-2 code that containers use."""

_CODES = {name: code for code, name in NAMES.items()} | dict(_OTHER_NAMES)


def find_code(text: str) -> str | None:
    """Return the code of a language, written as `en`, `English`, `en-US`, `zh_CN` or `deu`.

    None if Whisper does not know the language.
    """
    name = " ".join(text.lower().split())
    primary = re.split(r"[-_(]", name)[0].strip()
    for candidate in (name, primary):
        if candidate in NAMES:
            return candidate
        if candidate in _CODES:
            return _CODES[candidate]
    return None
