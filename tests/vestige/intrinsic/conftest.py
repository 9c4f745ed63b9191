"""Subjects for patching: tiny models of one shape, as an original, an unlearned and a retrained one."""

from __future__ import annotations

import pytest

from hooked import HookedModel, Item
from tests.tiny import tiny_model
from vestige.intrinsic.spans import Spans, answer_spans

ITEMS = (
    Item("t5 t6", "t7"),
    Item("t9", "t10 t11 t12"),
    Item("t3 t4 t5 t6 t7 t8 t9", "t20 t21"),
    Item("t40", "t41"),
    Item("t30 t31 t32", "t50 t51 t52 t53 t54"),
)


@pytest.fixture(scope="session")
def original() -> HookedModel:
    return tiny_model("llama")


@pytest.fixture(scope="session")
def retrained() -> HookedModel:
    return tiny_model("llama", seed=7)


@pytest.fixture(scope="session")
def unlearned() -> HookedModel:
    return tiny_model("llama", seed=9)


@pytest.fixture(scope="session")
def spans(original: HookedModel) -> Spans:
    return answer_spans(original, ITEMS)
