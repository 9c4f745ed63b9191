"""Repeat-prompt: the model is made to say the question again before it answers."""

from __future__ import annotations

from hooked import UnlearnData, VestigeError
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.reply import probability_in_reply


def repeated_prompt(
    target: Target, data: UnlearnData, *, times: int = 1, batch_size: int = 32, seed: int = 0
) -> Attacked:
    """Begin the reply with the prompt itself, and score the answer after it.

    What protects prompts does not see replies: a corruption of the prompt's embeddings (ECO) leaves the repetition
    whole. It is put into the model's mouth, as if it had been asked to repeat the question first and had obeyed.

    Args:
        target: The subject.
        data: Its forget items are asked.
        times: How often the reply repeats the prompt, at least 1.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: `times` is below 1, the repetitions of a prompt exceed the model's positions, or an item has no
            answer.

    Source:
        After the repeat-prompt test of Liu et al. 2024, ECO, arXiv:2406.07933; scoring inside the reply is ours.
    """
    if times < 1:
        raise VestigeError(f"the prompt is repeated at least once, got times={times}")
    bare = next((n for n, item in enumerate(data.forget) if item.generation_only), None)
    if bare is not None:
        raise VestigeError(f"forget[{bare}] has no answer whose probability could be measured")
    begun = [" ".join([item.prompt] * times) for item in data.forget]
    _refuse_too_long(target, data, begun)
    scores = probability_in_reply(target.view, data.forget, begun, batch_size=batch_size)
    return Attacked(tuple(scores.tolist()), budget={"queries": len(begun)})


def _refuse_too_long(target: Target, data: UnlearnData, begun: list[str]) -> None:
    limit = getattr(target.view.config, "max_position_embeddings", None)
    for n, (item, reply) in enumerate(zip(data.forget, begun, strict=True)):
        length = int(target.view.tokenize(f"{item.prompt} {reply}", answers=item.answer).ids.shape[1])
        if limit is not None and length > limit:
            raise VestigeError(
                f"forget[{n}] takes {length} positions with its prompt repeated, and the model has {limit}; "
                "repeat it fewer times or shorten it"
            )
