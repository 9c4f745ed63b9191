"""Sampling: what the likeliest reply hides, one of many replies may say."""

from __future__ import annotations

from hooked import UnlearnData, VestigeError
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.decoding.replies import best_reply


def sampled_answers(
    target: Target,
    data: UnlearnData,
    *,
    samples: int = 16,
    temperature: float = 1.0,
    max_new_tokens: int = 32,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Draw several replies to each question, and score the one that holds most of the answer.

    The attacker is taken to know a right answer when they see it. More samples find more by chance, on the never-taught
    model too. The curve is the expected best of 1, 2, 4, ... of the same samples.

    Args:
        target: The subject.
        data: Its forget items are asked.
        samples: Replies per question.
        temperature: Of the draws; above 0.
        max_new_tokens: Length of a reply.
        batch_size: Rows decoded together.
        seed: Of the draws.

    Raises:
        VestigeError: `samples` is below 1, `temperature` is not above 0, or an item has no answer.

    Source:
        Patil et al. 2023, arXiv:2309.17410 (black-box attack, several samples, any counts).
    """
    if samples < 1:
        raise VestigeError(f"at least one reply is drawn, got samples={samples}")
    prompts = [(item.prompt,) * samples for item in data.forget]
    return best_reply(
        target.view,
        data.forget,
        prompts,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
    )
