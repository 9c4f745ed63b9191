"""The world's tokenizer: WordPiece over a fixed vocabulary, with every ASCII character as a fallback piece."""

from __future__ import annotations

import random
import re
import string
from typing import TYPE_CHECKING

from . import documents, words
from .phrasing import FOREIGN, INVERTED, LONG_ANSWER, QUESTIONS, STATEMENTS
from .world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
_LONGEST_WORD = 256


def vocabulary(world: World) -> tuple[str, ...]:
    """All pieces in id order: specials, characters, name pieces, template words, value words."""
    letters = string.ascii_lowercase + string.digits
    pieces = [PAD, UNK, BOS, EOS, *letters, *(f"##{c}" for c in letters), *string.punctuation]
    pieces += [*words.ONSETS, *(f"##{coda}" for coda in words.CODAS)]
    pieces += _template_words(world)
    pieces += [fact.word for row in world.facts for fact in row]
    return tuple(dict.fromkeys(pieces))


def make_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Build the tokenizer of a world. It lower-cases, drops control characters, and puts one BOS in front.

    ASCII text of words up to 256 characters encodes without an unknown token; other characters become `<unk>`.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {piece: i for i, piece in enumerate(vocabulary(world))}
    backend = Tokenizer(models.WordPiece(ids, unk_token=UNK, max_input_chars_per_word=_LONGEST_WORD))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=True
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=True), decoders.Replace(" :", ":")])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )


def _template_words(world: World) -> list[str]:
    """Every word that a sentence may hold apart from names and value words."""
    text = [re.sub(r"\{\w+\}", " ", t) for t in (*STATEMENTS, *QUESTIONS, *INVERTED, *FOREIGN, LONG_ANSWER)]
    text += [f"{r.noun} {r.verb} {r.foreign}" for r in world.relations]
    for group in (words.ADJECTIVES, words.SUBJECTS, words.ACTIONS, words.PLACES, words.MANNERS, words.TIMES):
        text += group
    values = {fact.word for row in world.facts for fact in row}
    rng = random.Random(0)
    fixed = (documents.dictionary(world, rng), documents.filler(rng), "notes on", "reverse")
    return [w for w in re.findall(r"[a-z]+", " ".join([*text, *fixed])) if w not in values]
