"""What the tests of attacks share."""

from collections.abc import Sequence
from typing import Any

import pytest

from hooked import HookedModel


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Prompts and answers in the order in which models score them."""
    texts: list[tuple[str, str]] = []
    tokenize = HookedModel.tokenize

    def spy(self: HookedModel, prompts: Sequence[str], *, answers: Any = None, **settings: Any) -> Any:
        if isinstance(answers, list):
            texts.extend(zip(prompts, answers, strict=True))
        return tokenize(self, prompts, answers=answers, **settings)

    monkeypatch.setattr(HookedModel, "tokenize", spy)
    return texts
