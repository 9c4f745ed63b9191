"""What methods are given to keep, and what is asked."""

from __future__ import annotations

from hooked import Item, UnlearnData
from vestige.calibration.kept import given_and_asked


def test_what_tells_losses_is_not_what_methods_are_given() -> None:
    items = tuple(Item(f"p{n}", "a", concept=f"c{n % 5}") for n in range(20))
    given, asked = given_and_asked(UnlearnData(items[:1], items))
    one, other = ({item.concept for item in half.retain} for half in (given, asked))
    assert one.isdisjoint(other)
    assert (one | other, len(given.retain) + len(asked.retain)) == ({f"c{n}" for n in range(5)}, 20)
    assert given.forget == asked.forget == items[:1]
