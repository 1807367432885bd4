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
}
"""Code by alternative name, or by older code."""

_ISO_639_2: Mapping[str, str] = {
    name: code
    for entry in """
    en eng, zh zho chi, de deu ger, es spa, ru rus, ko kor, fr fra fre, ja jpn, pt por, tr tur, pl pol, ca cat,
    nl nld dut, ar ara, sv swe, it ita, id ind, hi hin, fi fin, vi vie, he heb, uk ukr, el ell gre, ms msa may,
    cs ces cze, ro ron rum, da dan, hu hun, ta tam, no nor nob, th tha, ur urd, hr hrv, bg bul, lt lit, la lat,
    mi mri mao, ml mal, cy cym wel, sk slk slo, te tel, fa fas per, lv lav, bn ben, sr srp, az aze, sl slv,
    kn kan, et est, mk mkd mac, br bre, eu eus baq, is isl ice, hy hye arm, ne nep, mn mon, bs bos, kk kaz,
    sq sqi alb, sw swa, gl glg, mr mar, pa pan, si sin, km khm, sn sna, yo yor, so som, af afr, oc oci,
    ka kat geo, be bel, tg tgk, sd snd, gu guj, am amh, yi yid, lo lao, uz uzb, fo fao, ht hat, ps pus, tk tuk,
    nn nno, mt mlt, sa san, lb ltz, my mya bur, bo bod tib, tl tgl, mg mlg, as asm, ln lin, ha hau, ba bak,
    jw jav, su sun, tt tat
    """.replace("\n", " ").split(",")
    for code, *names in [entry.split()]
    for name in names
}
"""Code by the codes of ISO 639-2 that containers use, the terminological and the bibliographic one."""

_CODES = {name: code for code, name in NAMES.items()} | dict(_OTHER_NAMES) | dict(_ISO_639_2)


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
