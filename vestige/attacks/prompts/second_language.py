"""Translation: the same fact asked in another language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hooked import Item, UnlearnData, VestigeError
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Measure, Target
from vestige.attacks.prompts.framing import fitted


def second_language(
    target: Target,
    data: UnlearnData,
    *,
    translated: Mapping[str, str] | Sequence[Item] = (),
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Ask translations of the questions.

    Args:
        target: The subject.
        data: Its forget items are what is translated.
        translated: For every forget item an item in the other language, in the same order, whose answer is scored; or
            each prompt's translation, with the answers as they are.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: A translation is missing, there are more than items, or one has no answer.

    Source:
        Jin et al. 2024, RWKU, arXiv:2406.10890 (cross-lingual).
    """
    items, note = fitted(target.view, _translations(data, translated))
    measure: Measure = "probability" if isinstance(translated, Mapping) else "translation"
    return asked(target.view, items, batch_size=batch_size, note=note, measure=measure)


def _translations(data: UnlearnData, translated: Mapping[str, str] | Sequence[Item]) -> list[Item]:
    if isinstance(translated, Mapping):
        missing = next((item.prompt for item in data.forget if item.prompt not in translated), None)
        if missing is not None:
            raise VestigeError(f"translated has no translation of the forget prompt {missing[:60]!r}")
        return [replace(item, prompt=translated[item.prompt]) for item in data.forget]
    if len(translated) != len(data.forget):
        raise VestigeError(
            f"second_language needs one translation per forget item, {len(data.forget)} in all, got {len(translated)}; "
            "give them as translated="
        )
    return list(translated)
