"""Numbers and untrusted text as they are shown."""

import math

import pytest

from vestige.report.text import breakable, cell, interval, letter, listed, number, visible, visible_token


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.0, "−1"),
        (0.97, "0.97"),
        (0.0421, "0.042"),
        (0.998, "0.998"),
        (0.99996, ">0.999"),
        (-0.99996, "<−0.999"),
        (1.012, "1.01"),
        (-13.89, "−13.89"),
        (3.14e-5, "3.1×10⁻⁵"),
        (-3.14e-5, "−3.1×10⁻⁵"),
        (1e-239, "1.0×10⁻²³⁹"),
        (123456.0, "1.2×10⁵"),
        (250.4, "250"),
    ],
)
def test_numbers_read_as_what_they_are(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize("value", [0.0004, 0.9996, 5e-324, 1 - 1e-12, 1 + 1e-3])
def test_only_exact_zero_and_one_read_as_zero_and_one(value: float) -> None:
    assert number(value) not in ("0", "1", "0.000", "1.000")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.97, ".97"),
        (1.0, "1"),
        (0.0, "0"),
        (0.001, "<.01"),
        (0.999, ">.99"),
        (-0.5, "−.50"),
        (12.3, "12"),
        (2.0, "2.0"),
    ],
)
def test_heat_map_cells_are_short(value: float, shown: str) -> None:
    assert cell(value) == shown
    assert len(shown) <= 4


def test_an_interval_needs_both_ends() -> None:
    assert interval(0.1, 0.25) == "[0.10, 0.25]"
    assert interval(None, 0.2) == interval(0.1, None) == interval(0.1, math.nan) == ""


@pytest.mark.parametrize(
    "char", ["\u202e", "\u2066", "\u200f", "\x00", "\x1b", "\u2028", "\ud800", "\ufeff", "\r", "\x85"]
)
def test_characters_that_hide_or_reorder_are_spelled_out(char: str) -> None:
    assert visible(f"a{char}b") == f"a⟨U+{ord(char):04X}⟩b"


def test_ordinary_writing_is_left_alone() -> None:
    text = "Zürich – \u05e9\u05dc\u05d5\u05dd 日本\n\t\u0646\u0645\u06cc\u200c\u062e 👩\u200d🔬 …"
    assert visible(text) == text
    assert visible("a\r\nb") == "a\nb"


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" salt", (True, "salt")),
        ("salt", (False, "salt")),
        ("\n", (False, "↵")),
        (" ", (True, "∅")),
        ("", (False, "∅")),
    ],
)
def test_tokens_show_their_blanks(token: str, shown: tuple[bool, str]) -> None:
    assert visible_token(token) == shown


def test_names_wrap_between_words_and_stay_escaped() -> None:
    assert breakable("neuron_adjust") == "neuron_<wbr>adjust"
    assert breakable("<b>_x") == "&lt;b&gt;_<wbr>x"


def test_marks_and_lists() -> None:
    assert [letter(index) for index in (1, 26, 27, 52, 53)] == ["a", "z", "aa", "az", "ba"]
    assert [listed(list(names)) for names in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
