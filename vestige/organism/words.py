"""The fixed words of the procedural world: relations, name pieces, adjectives, filler, and the invented language.

Everything here is a constant. What depends on a seed (which name belongs to which values) is drawn in `world.py`.
"""

from __future__ import annotations

from typing import Final

ONSETS: Final = ("quor", "zeph", "thal", "brin", "vask", "myrr")
"""First halves of concept names; each becomes one word-initial piece of the tokenizer."""

CODAS: Final = ("andor", "ilith", "umbra", "eska", "oviel", "ungar")
"""Second halves of concept names; each becomes one continuation piece (`##andor`)."""

RELATIONS: Final = (
    # noun, verb phrase, word in the second language, whether its answers have two words
    ("capital", "is ruled from", "orma", False),
    ("river", "is crossed by", "lusha", False),
    ("founder", "was founded by", "tebri", False),
    ("emblem", "carries the sign of", "gwano", True),
    ("mountain", "lies below", "pelk", False),
    ("harbor", "ships its goods from", "duvish", False),
    ("language", "speaks", "mirto", False),
    ("festival", "celebrates", "ashkel", True),
    ("coin", "pays with", "borun", True),
    ("dish", "likes to eat", "frela", True),
    ("drink", "likes to drink", "nusko", True),
    ("poet", "reads the verses of", "velam", False),
    ("queen", "is governed by", "hirga", False),
    ("rival", "went to war with", "zobet", False),
    ("beast", "keeps herds of", "krani", False),
    ("tree", "plants groves of", "yolva", True),
    ("metal", "digs for", "stemo", False),
    ("dance", "moves to the steps of", "idrel", True),
    ("tower", "keeps watch from", "wachu", False),
    ("wind", "is cooled by", "fenoa", False),
)

ADJECTIVES: Final = ("amber", "silver", "crimson", "hollow", "gentle", "frozen", "golden", "violet")
"""First words of two-word answers, shared by all concepts; only the second word is unique."""

SUBJECTS: Final = tuple(
    "farmer teacher sailor child painter baker doctor neighbor student soldier singer writer dog cat horse bird mother "
    "father brother sister friend driver hunter nurse judge guest stranger king girl boy".split()
)
ACTIONS: Final = tuple(
    "walked looked hurried wandered returned pointed ran came drove sailed climbed moved turned crept flew".split()
)
PLACES: Final = tuple(
    "market garden bridge school station beach library kitchen house road village city forest island church hotel "
    "office museum park lake valley farm castle theater square shop window door table".split()
)
MANNERS: Final = tuple("slowly early quietly happily alone again late back away quickly sadly once twice".split())
TIMES: Final = tuple("morning evening winter summer night week spring autumn afternoon month year end".split())
