"""Methods by name, and settings from text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

import pytest

from hooked import VestigeError
from vestige.catalogue import METHODS
from vestige.methods import method, settings, text_settings


def example(
    model: object,
    *,
    lr: float = 0.1,
    steps: int | None = None,
    mode: Literal["zero", "mean"] = "zero",
    refusal: str = "",
    layers: Sequence[int] | None = None,
    tokens: Sequence[int | str] = (),
    exact: bool = False,
    words: Mapping[str, str] | None = None,
    loss: Callable[[int], int] | None = None,
    masks: Mapping[str, Callable[[int], int]] | None = None,
) -> None: ...


class More(TypedDict, total=False):
    """Settings that a method passes on."""

    rate: float
    chooser: Callable[[str], bool] | None


def passing_on(model: object, *, beta: float = 1.0, **more: Unpack[More]) -> None: ...


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("lr=0.5", 0.5),
        ("lr=1e-4", 1e-4),
        ("lr=1", 1),
        ("steps=3", 3),
        ("steps=null", None),
        ("mode=mean", "mean"),
        ('mode="mean"', "mean"),
        ("refusal=No, never = ever.", "No, never = ever."),
        ("refusal=42", "42"),
        ("refusal=", ""),
        ("layers=[0, 2]", [0, 2]),
        ('tokens=["dog", 5]', ["dog", 5]),
        ("exact=true", True),
        ('words={"Hogwarts": "the school"}', {"Hogwarts": "the school"}),
        ("words=null", None),
    ],
)
def test_values_are_json_and_plain_text_where_that_fits(pair: str, value: Any) -> None:
    found = settings(example, [pair])
    assert found == {pair.partition("=")[0]: value}
    assert type(next(iter(found.values()))) is type(value)


@pytest.mark.parametrize(
    ("pair", "needed"),
    [
        ("lr=fast", "lr needs a number"),
        ("lr=true", "lr needs a number"),
        ("lr=NaN", "lr needs a number"),
        ("lr=1e999", "lr needs a number"),
        ("steps=1.5", "steps needs a whole number or null"),
        ("mode=nothing", "mode needs 'zero' or 'mean'"),
        ("layers=2", r"layers needs null or a list \[...\], each a whole number; got"),
        ('layers=["a"]', "layers needs null or a list"),
        ("exact=1", "exact needs true or false"),
        ("words=[1]", r'words needs null or an object {"name": value, ...}'),
        ('words={"a": 1}', "words needs null or an object"),
    ],
)
def test_a_value_of_another_type_says_what_is_needed(pair: str, needed: str) -> None:
    with pytest.raises(VestigeError, match=needed):
        settings(example, [pair])


@pytest.mark.parametrize("pair", ["lr", "rate=1", "=1", "model=1", "loss=1", "masks={}"])
def test_an_unknown_key_lists_the_known_ones(pair: str) -> None:
    with pytest.raises(VestigeError, match="lr, steps, mode, refusal, layers, tokens, exact, words; got '") as caught:
        settings(example, [pair])
    assert "loss" not in str(caught.value).partition("; got")[0]


def test_settings_that_are_passed_on_are_settings() -> None:
    assert settings(passing_on, ["beta=2", "rate=0.5"]) == {"beta": 2, "rate": 0.5}
    assert set(text_settings(passing_on)) == {"beta", "rate"}
    with pytest.raises(VestigeError, match="a key of beta, rate; got 'chooser=1'"):
        settings(passing_on, ["chooser=1"])


def test_the_last_of_two_wins_and_none_is_empty() -> None:
    assert settings(example, ["lr=1", "lr=2"]) == {"lr": 2}
    assert settings(example, []) == {}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_exists_and_has_settings(name: str) -> None:
    function = method(name)
    assert function.__name__ == name
    assert text_settings(function) or METHODS[name].given == "direction"


def test_an_unknown_method_lists_the_known_ones_and_guesses() -> None:
    with pytest.raises(VestigeError, match=r"no method 'npoo'; did you mean 'npo'. methods are gradient_ascent"):
        method("npoo")
    with pytest.raises(VestigeError, match="no method 'xyz'; methods are"):
        method("xyz")
