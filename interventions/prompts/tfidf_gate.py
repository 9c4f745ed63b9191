"""A gate that knows forget prompts by their words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, Item, Request, TokenBatch, UnlearnData, VestigeError
from interventions.batches import split_of
from interventions.calibration import Calibration, calibrated

from .asked import prompt_batches, prompts_of

# What scikit-learn takes for a word: two letters or digits at least.
_WORD = re.compile(r"(?u)\b\w\w+\b")


@dataclass(frozen=True, eq=False)
class TfidfGate:
    """Fires on prompts whose words are those of the forget prompts. Build it with `fit_tfidf_gate`.

    Args:
        terms: The vocabulary: words, and runs of words joined by one space.
        idf: Inverse document frequency of each term.
        coefficients: Weight of each term in the log-odds, in nats.
        intercept: Log-odds of a prompt without known terms, in nats.
        ngrams: Fewest and most words of a term.
        calibration: Where it fires; a distance is a negative log-odds.
    """

    terms: tuple[str, ...]
    idf: Float[Tensor, " terms"]
    coefficients: Float[Tensor, " terms"]
    intercept: float
    ngrams: tuple[int, int]
    calibration: Calibration

    def __call__(self, raw: HookedModel, request: Request, /) -> Bool[Tensor, " batch"]:
        batch, asked = prompts_of(request)
        return (-self.log_odds(texts_of(raw, batch)) <= self.calibration.limit) & asked.cpu()

    @cached_property
    def _weights(self) -> dict[str, tuple[float, float]]:
        return dict(zip(self.terms, zip(self.idf.tolist(), self.coefficients.tolist(), strict=True), strict=True))

    def log_odds(self, texts: Sequence[str]) -> Float[Tensor, " texts"]:
        """Return the log-odds in nats that each text is a forget prompt: logistic regression on tf-idf of norm 1."""
        return torch.tensor([self._log_odds(text) for text in texts], dtype=torch.float64)

    def _log_odds(self, text: str) -> float:
        squares = product = 0.0
        for term, count in Counter(terms_of(text, self.ngrams)).items():
            if term in self._weights:
                idf, coefficient = self._weights[term]
                squares += (count * idf) ** 2
                product += count * idf * coefficient
        return self.intercept + (product / squares**0.5 if squares > 0 else 0.0)


def terms_of(text: str, ngrams: tuple[int, int]) -> list[str]:
    """Return all words of a text and all runs of words that long, in lower case."""
    words = _WORD.findall(text.lower())
    return [" ".join(words[i : i + n]) for n in range(ngrams[0], ngrams[1] + 1) for i in range(len(words) - n + 1)]


def texts_of(model: HookedModel, batch: TokenBatch) -> list[str]:
    """Return the text of each row without special tokens, which would tell documents from questions.

    Raises:
        VestigeError: There is no tokenizer.
    """
    if model.tokenizer is None:
        raise VestigeError("a TF-IDF gate reads words, and this HookedModel has no tokenizer; pass tokenizer= to it")
    rows = [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)]
    return [str(model.tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


def fit_tfidf_gate(
    model: HookedModel,
    data: UnlearnData,
    *,
    false_positive_rate: float = 0.05,
    ngrams: tuple[int, int] = (1, 2),
    seed: int = 0,
    batch_size: int = 64,
) -> TfidfGate:
    """Fit a gate that tells forget prompts from retain prompts by their words.

    TF-IDF of words and pairs of words, then logistic regression (both scikit-learn's, classes weighed alike). It fires
    from the log-odds on that at most a fraction `false_positive_rate` of the retain prompts reach (barring ties).

    The model is not run: only its tokenizer is used, so that the gate is fitted on what it will read. A paraphrase in
    other words, another language, an encoding, or a question split over turns gets past it; a retain prompt about the
    same people may not.

    Args:
        model: A model with a tokenizer; not changed.
        data: Needs `forget` and `retain`. Of a document the whole text counts as prompt.
        false_positive_rate: Largest fraction of retain prompts that may fire, in [0, 1).
        ngrams: Fewest and most words of a term.
        seed: Of the split into folds.
        batch_size: Prompts tokenised together.

    Returns:
        The gate, with its rates on items held out.

    Raises:
        VestigeError: A split is missing, a setting is out of range, or no prompt has a word of two letters.

    Source:
        The fallback of ECO without a pretrained classifier (Liu et al. 2024, arXiv:2406.07933, fine-tune a RoBERTa for
        it and set its threshold by hand, or by conformal prediction).
    """
    if not 1 <= ngrams[0] <= ngrams[1]:
        raise VestigeError(f"ngrams are the fewest and the most words of a term, at least 1, got {ngrams}")
    texts = [
        _all_texts(model, split_of(data, split, method="fit_tfidf_gate"), batch_size=batch_size)
        for split in ("forget", "retain")
    ]

    def distances(forget: Tensor, retain: Tensor) -> tuple[Tensor, Tensor]:
        kept = [
            [text for text, use in zip(t, rows, strict=True) if use]
            for t, rows in zip(texts, (forget, retain), strict=True)
        ]
        fitted = _fit(*kept, ngrams=(ngrams[0], ngrams[1]))
        return -fitted.log_odds(texts[0]), -fitted.log_odds(texts[1])

    calibration = calibrated(
        distances,
        n_forget=len(texts[0]),
        n_retain=len(texts[1]),
        rate=false_positive_rate,
        seed=seed,
        reads_retain=True,
    )
    return _fit(*texts, ngrams=(ngrams[0], ngrams[1]), calibration=calibration)


def _all_texts(model: HookedModel, items: Sequence[Item], *, batch_size: int) -> list[str]:
    return [text for batch in prompt_batches(model, items, batch_size=batch_size) for text in texts_of(model, batch)]


def _fit(
    forget: Sequence[str], retain: Sequence[str], *, ngrams: tuple[int, int], calibration: Calibration | None = None
) -> TfidfGate:
    vectorizer, regression = fit_pipeline(forget, retain, ngrams=ngrams)
    return TfidfGate(
        tuple(str(term) for term in vectorizer.get_feature_names_out()),
        torch.from_numpy(np.asarray(vectorizer.idf_, dtype=np.float64)),
        torch.from_numpy(np.asarray(regression.coef_[0], dtype=np.float64)),
        float(regression.intercept_[0]),
        ngrams,
        Calibration(-torch.inf, 0.0) if calibration is None else calibration,
    )


def fit_pipeline(forget: Sequence[str], retain: Sequence[str], *, ngrams: tuple[int, int]) -> tuple[Any, Any]:
    """Fit scikit-learn's vectorizer and regression.

    Raises:
        VestigeError: No text has a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=ngrams)
    try:
        rows = vectorizer.fit_transform([*forget, *retain])
    except ValueError as error:
        raise VestigeError(
            "no prompt has a word of two letters or digits, so their words cannot tell them apart; "
            "use fit_centroid_gate or fit_key_gate"
        ) from error
    labels = np.repeat([1, 0], [len(forget), len(retain)])
    return vectorizer, LogisticRegression(class_weight="balanced", max_iter=1000).fit(rows, labels)
