"""Distilled removal: much of every weight is taken away, and what is to stay is learnt again from the model's text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Unpack, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hooked import HookedModel, Intervention, Spec, TokenBatch, UnlearnData, VestigeError
from hooked.generate import Decoding, decode
from hooked.progress import bar
from hooked.tokens import pad_rows
from interventions.batches import split_of
from interventions.evaluating import evaluating
from interventions.training.descent import LossFn, Minibatch
from interventions.training.losses import answer_logits, at_least_float32
from interventions.training.train import Rebuilding, Training, learned

SOURCE = "Vestige, after Lee et al. 2025, arXiv:2506.06278"
_TOGETHER, _PARTS = 256, 4
_WORD, _AROUND = re.compile(r"\w+"), re.compile(r"^\W+|\W+$")
# A word of a name or an answer tells it, if at most this share of the texts have the word.
_RARE = 0.01
# Share of the texts that has to be left.
_LEAST_LEFT = 0.1


def distillation_loss(
    logits: Float[Tensor, "tokens d_vocab"],
    teacher: Float[Tensor, "tokens d_vocab"],
    ids: Int[Tensor, " tokens"],
    withheld: Bool[Tensor, " d_vocab"],
) -> Float[Tensor, ""]:
    """Return the mean loss in nats per token of a student who hears about some tokens from the text alone.

    Where the text has a withheld token, the loss is its negative log-likelihood; elsewhere it is `KL(q || p)` with `q`
    the teacher's prediction without the withheld tokens. On text that the teacher wrote, the student that predicts as
    the teacher does has the smallest expected loss; on text from which facts were left out, the teacher's predictions
    do not tell them either.

    Args:
        logits: Of the student.
        teacher: Logits of the teacher, of which no gradient is taken.
        ids: The tokens that stand there.
        withheld: True for tokens that the teacher's prediction leaves out.
    """
    said = at_least_float32(logits).log_softmax(-1)
    from_text = withheld[ids]
    heard = at_least_float32(teacher.detach())[~from_text].masked_fill(withheld, -torch.inf)
    q = heard.softmax(-1)
    # A withheld token has q = 0 and adds nothing, whatever the student says of it.
    divergence = torch.xlogy(q, q) - q * said[~from_text]
    return (divergence.sum() + F.nll_loss(said[from_text], ids[from_text], reduction="sum")) / len(ids)


def distilled_removal(
    model: HookedModel,
    data: UnlearnData,
    *,
    noise: float = 0.5,
    texts: Iterable[str] | None = None,
    n_texts: int = 16384,
    text_length: int = 64,
    texts_per_step: int = 128,
    **training: Unpack[Rebuilding],
) -> Intervention:
    """Shrink every weight matrix towards a random one, and distil the original into it on text without the facts.

    A copy that merely learns not to say a fact keeps most of what it needs to say it again. This one has to learn
    everything again, and is not told the facts: texts that name a subject of the forget items, hold one of their
    answers, or have a word of either that few texts have, are left out, and what the original predicts for the tokens
    of those names and answers is withheld (`distillation_loss`), since a prediction can tell what no text says. Words
    are compared in whatever case; an inflected name or a synonym is not recognised. By default the original writes the
    texts itself, from nothing but the token that begins a text, so no data to keep is needed; it has to be a model that
    writes what it knows when it is left alone.

    Costs: as much training as it takes to learn the rest again, which grows with `noise`. Memory: that of `train`, and
    about 8 bytes per token of a step and word of the vocabulary; fewer `texts_per_step` need less. All steps are taken.

    Args:
        model: Not changed; it is the teacher.
        data: Needs `forget` items with an answer, best with a `subject`.
        noise: Share of each matrix, embeddings included, that is replaced: `(1 - noise) W + noise N`, `N` normal with
            the standard deviation with which the model's weights were initialised (`initializer_range` of its config,
            or 0.02). With more, less of the facts is left and the rest takes longer to learn.
        texts: Text to learn from, instead of what the original writes.
        n_texts: How many texts the original writes.
        text_length: Most tokens of a text; longer ones are cut.
        texts_per_step: Texts per update.
        training: Settings of `train` but for adapters and `stop_fraction`; here `lr` is 2e-3, `steps` 600, `cooldown`
            0.5 and `check_every` 100. Without a step nothing is written or read, and only the noise is left.

    Raises:
        VestigeError: There is no item with an answer, a setting is wrong, too little of the text is free of what is to
            be forgotten, the tokenizer has no token that begins a text, or training diverged.

    Source:
        Vestige. Noise and distillation follow Lee et al. 2025, arXiv:2506.06278, where the teacher is a model that was
        made to forget before; here it is the original, and its predictions are withheld. A model's own text in place of
        its training data follows Huang et al. 2024, arXiv:2403.01244.
    """
    _check(noise, texts, n_texts=n_texts, text_length=text_length, texts_per_step=texts_per_step)
    if model.tokenizer is None:
        raise VestigeError("distilled_removal reads and writes text; pass tokenizer= to HookedModel")
    if training.get("stop_fraction") is not None:
        raise VestigeError("distilled_removal begins with a model that says nothing any more; leave stop_fraction= out")
    forget = split_of(data, "forget", method="distilled_removal", answered=True)
    names, answers = _bare(item.subject or "" for item in data.forget), _bare(item.answer for item in forget)
    if not (names or answers):
        raise VestigeError("distilled_removal leaves out texts by name and answer, and the forget items have no words")
    withheld = _tokens_of(model, [*names, *answers])
    seed = training.get("seed", 0)
    prepare = _noisy(noise, std=float(getattr(model.config, "initializer_range", None) or 0.02), seed=seed)
    limit = min(text_length, int(getattr(model.config, "max_position_embeddings", text_length)))
    settings: dict[str, Any] = {"noise": noise, "text_length": limit, "texts_per_step": texts_per_step}
    settings |= {"n_texts": n_texts, "written_by": "the model"} if texts is None else {"written_by": "the caller"}
    spec = Spec("distilled_removal", "removal", ("forget", "reference"), SOURCE, settings)
    defaults: Training = {"lr": 2e-3, "steps": 600, "cooldown": 0.5, "check_every": 100}
    # What is wrong with the settings is found before anything is written.
    steps, given = training.get("steps"), cast(Training, training)
    tried: Training = {**given, "steps": 0} if steps is None or steps > 0 else given
    untaught = learned(model, data, lambda *_: torch.zeros(()), spec, tried, defaults=defaults, prepare=prepare)
    if steps == 0:
        return untaught
    with evaluating(model):
        if texts is None:
            rows = _written(model, n=n_texts, length=limit, seed=seed, progress=training.get("progress", True))
        else:
            rows = _given(model, list(texts), length=limit)
    kept = _untold(model, rows, names, answers)
    loss = _distilling(model, kept, withheld, texts_per_step=texts_per_step, seed=seed)
    spec = replace(spec, settings={**settings, "texts": len(kept)})
    return learned(model, data, loss, spec, given, defaults=defaults, prepare=prepare)


def _check(noise: float, texts: Iterable[str] | None, **counts: int) -> None:
    """Refuse settings that are out of range.

    Raises:
        VestigeError: One is.
    """
    if not (isinstance(noise, int | float) and 0 <= noise <= 1):
        raise VestigeError(f"noise is a number from 0 to 1, got {noise!r}")
    for name, value in counts.items():
        # Of two tokens at least one is predicted.
        least = 2 if name == "text_length" else 1
        if not (isinstance(value, int) and value >= least):
            raise VestigeError(f"{name} is a whole number of at least {least}, got {value!r}")
    if isinstance(texts, str):
        raise VestigeError("texts is a list of texts, got one; write [text]")


def _distilling(
    model: HookedModel,
    texts: Sequence[Sequence[int]],
    withheld: Bool[Tensor, " d_vocab"],
    *,
    texts_per_step: int,
    seed: int,
) -> LossFn:
    """Return the loss of a student on texts drawn anew each time, with the model as its teacher."""
    chooser = torch.Generator().manual_seed(seed)

    def part(student: HookedModel, rows: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
        # All but the first token is predicted.
        after = [[False, *[True] * (len(row) - 1)] for row in rows]
        batch = pad_rows(rows, after, pad=0, padding_side="right").to(model.device)
        with torch.no_grad():
            teacher, ids = answer_logits(model.logits(batch), batch.ids, batch.answer)
        said = answer_logits(student.logits(batch), batch.ids, batch.answer)[0]
        return distillation_loss(said, teacher, ids, withheld), len(ids)

    def loss(student: HookedModel, _: Minibatch) -> Tensor:
        drawn = torch.randint(len(texts), (texts_per_step,), generator=chooser).tolist()
        # Texts of like length together, so that little is computed on padding.
        rows = sorted((texts[row] for row in drawn), key=len)
        size = -(-len(rows) // _PARTS)
        parts = [part(student, rows[start : start + size]) for start in range(0, len(rows), size)]
        return torch.stack([value * n for value, n in parts]).sum() / sum(n for _, n in parts)

    return loss


def _noisy(noise: float, *, std: float, seed: int) -> Callable[[Mapping[str, nn.Parameter]], None]:
    """Return what replaces a share of each matrix by a random one."""

    @torch.no_grad()
    def prepare(chosen: Mapping[str, nn.Parameter]) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in chosen.values():
            if parameter.ndim > 1:
                drawn = torch.randn(parameter.shape, generator=generator) * std
                parameter.mul_(1 - noise).add_(drawn.to(parameter), alpha=noise)

    return prepare


def _bare(texts: Iterable[str]) -> list[str]:
    """Return what is left of texts without the marks and spaces around them."""
    return sorted({bare for text in texts if (bare := _AROUND.sub("", text))})


def _plain(text: str) -> str:
    """Return a text as it is compared: in one case, one form of each letter and apostrophe, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).replace("\u2019", "'").casefold().split())


def _whole(phrase: str) -> str:
    """Return a pattern for a phrase that is no part of a word, where its letters are of a script that has words."""
    before = "" if unicodedata.category(phrase[0]) == "Lo" else r"(?<!\w)"
    after = "" if unicodedata.category(phrase[-1]) == "Lo" else r"(?!\w)"
    return f"{before}{re.escape(phrase)}{after}"


def _untold(
    model: HookedModel, rows: Sequence[Sequence[int]], names: Sequence[str], answers: Sequence[str]
) -> list[Sequence[int]]:
    """Return the rows that tell nothing: no name, no whole answer, and no word of either that few texts have.

    Raises:
        VestigeError: Too few do.
    """
    tokenizer: Any = model.tokenizer
    phrases = [_plain(phrase) for phrase in (*names, *answers)]
    whole = re.compile("|".join(map(_whole, phrases)))
    texts = [_plain(tokenizer.decode(row, skip_special_tokens=True)) for row in rows]
    quiet = [n for n, text in enumerate(texts) if not whole.search(text)]
    # Counted where nothing else tells: a model that speaks of little else has its words everywhere.
    words = {n: set(_WORD.findall(texts[n])) for n in quiet}
    common = Counter(chain.from_iterable(words.values()))
    few = max(1, _RARE * len(quiet))
    rare = {word for word in _WORD.findall(" ".join(phrases)) if common[word] <= few}
    kept = [rows[n] for n in quiet if not words[n] & rare]
    if len(kept) < _LEAST_LEFT * len(rows) or not kept:
        raise VestigeError(
            f"of {len(rows)} texts only {len(kept)} tell nothing of what is to be forgotten; give other text to learn "
            "from with texts=, or leave out items whose answers are everyday words"
        )
    return kept


def _tokens_of(model: HookedModel, phrases: Sequence[str]) -> Bool[Tensor, " d_vocab"]:
    """Mark the tokens of words and phrases, as they begin a text and as they stand in one.

    Raises:
        VestigeError: The model has no embedding for one of them.
    """
    marked = torch.zeros(model.d_vocab, dtype=torch.bool, device=model.device)
    tokenizer: Any = model.tokenizer
    spelled = tokenizer([*phrases, *(f" {text}" for text in phrases)], add_special_tokens=False).input_ids
    ids = list(chain.from_iterable(spelled))
    if max(ids) >= model.d_vocab:
        raise VestigeError(f"token id {max(ids)} has no embedding: the model has ids 0 to {model.d_vocab - 1}")
    marked[ids] = True
    return marked


def _written(model: HookedModel, *, n: int, length: int, seed: int, progress: bool) -> list[list[int]]:
    """Return texts that a model wrote, with the tokens around them.

    Raises:
        VestigeError: No token begins a text, or the model wrote nothing.
    """
    tokenizer: Any = model.tokenizer
    end = tokenizer.eos_token_id
    begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if begin is None:
        raise VestigeError("the tokenizer has no token that begins a text; give text to learn from with texts=")
    room = length - 1
    rows: list[list[int]] = []
    with bar(n, what="writing", unit=" texts", show=progress) as shown:
        for first in range(0, n, _TOGETHER):
            start = torch.full((min(_TOGETHER, n - first), 1), begin, device=model.device)
            there = torch.ones_like(start, dtype=torch.bool)
            settings = Decoding(room, do_sample=True, seed=seed)
            written = decode(model, TokenBatch(start, there, torch.zeros_like(there)), settings, first_row=first)
            # A text that ended says so, as far as there is a token for it.
            rows += [[begin, *row, *([end] if end is not None and len(row) < room else [])] for row in written if row]
            shown.update(len(written))
    if not rows:
        raise VestigeError("the model writes nothing by itself; give text to learn from with texts=")
    return rows


def _given(model: HookedModel, texts: Sequence[str], *, length: int) -> list[list[int]]:
    """Return the tokens of texts of which something is predicted.

    Raises:
        VestigeError: There are none.
    """
    batches = (model.tokenize(list(texts[start : start + _TOGETHER])) for start in range(0, len(texts), _TOGETHER))
    rows = [
        ids[mask][:length].tolist()
        for batch in batches
        for ids, mask in zip(batch.ids.cpu(), batch.mask.cpu(), strict=True)
    ]
    if not (long := [row for row in rows if len(row) > 1]):
        raise VestigeError(f"none of the {len(texts)} texts has two tokens, so there is nothing to learn from")
    return long
