"""Korean names in Latin letters: neither Matplotlib's nor Pillow's own font has Hangul, and drew boxes instead."""

from __future__ import annotations

import unicodedata

FIRST, LAST = "가", "힣"  # the 11,172 syllables of Unicode, ordered by lead, vowel, tail
# the Revised Romanization of 2000, letter by letter: what neighbouring syllables do to each other is left out
LEADS = ["g", "kk", "n", "d", "tt", "r", "m", "b", "pp", "s", "ss", "", "j", "jj", "ch", "k", "t", "p", "h"]
VOWELS = [
    "a",
    "ae",
    "ya",
    "yae",
    "eo",
    "e",
    "yeo",
    "ye",
    "o",
    "wa",
    "wae",
    "oe",
    "yo",
    "u",
    "wo",
    "we",
    "wi",
    "yu",
    "eu",
    "ui",
    "i",
]
TAILS = [
    "",
    "k",
    "k",
    "k",
    "n",
    "n",
    "n",
    "t",
    "l",
    "k",
    "m",
    "l",
    "l",
    "l",
    "p",
    "l",
    "m",
    "p",
    "p",
    "t",
    "t",
    "ng",
    "t",
    "t",
    "k",
    "t",
    "p",
    "t",
]


def drawable(name: str) -> str:
    """A name as figures can draw it: "라브4_4세대" → "rabeu4_4sedae". Composed and decomposed Hangul read the same."""
    return "".join(map(_letters, unicodedata.normalize("NFC", name)))


def _letters(character: str) -> str:
    if not FIRST <= character <= LAST:
        return character
    rest, tail = divmod(ord(character) - ord(FIRST), len(TAILS))
    lead, vowel = divmod(rest, len(VOWELS))
    return LEADS[lead] + VOWELS[vowel] + TAILS[tail]
