"""Why shapes did not come out, as far as it can be told."""

from __future__ import annotations

from collections.abc import Mapping

_COLLAPSE = "a model that says one token gives right and wrong answers alike, as one does that never knew them."
_FLOOR = "with 20 questions no p lies below 10^-10.8, where the original stands, and often what is asked too."
_POOL = "the pool is small and what it hides is found by this metric as well; both are at the ceiling."
_BEFORE = "a defence guards the lens from its block on; the facts stand in the block before, whatever the loss."
_NO_CONTEXT = "the organism was never trained to read facts off its prompt; a long prompt confuses even the original."
_ROUNDING = (
    "rounding keeps the sum of many small changes of one direction, and the organism's matrices are small; "
    "`vestige.attacks.weights.quantisation` has the argument."
)
_NO_ROOM = "a rate above the point of forgetting leaves little to patch in five blocks"

# The words of a shape, or their beginning, to the likely reason.
REASONS: Mapping[str, str] = {
    "ascent to the end: forget quality collapses": _COLLAPSE,
    "few questions are easy": "on seeds 3 and 7 the p of all questions is above 0.3, which leaves no decade above it.",
    "NPO has the best forget quality": f"{_COLLAPSE} Ascent to the end is such a model.",
    "IDK-DPO: forget quality between": _FLOOR,
    "RMU: forget quality between": _FLOOR,
    "truth ratio: ascent, GradDiff and SimNPO": (
        "the original is nearly sure of each answer, so its truth ratio leaves no room below."
    ),
    "truth ratio: NPO and RMU end": "on seed 4 RMU forgets least and ends below the retrained model.",
    "utility: NPO costs": "on seeds 3, 4 and 7 it costs less than 0.02; on seed 2 it costs 0.15.",
    "utility: GradDiff costs": "on seed 7 it costs just less than 0.02.",
    "utility: IDK-DPO costs some": "on seed 2 NPO costs more, and on seed 7 neither costs 0.02.",
    "a model of noise passes": "noise gives all answers alike, and the retrained model prefers some of the wrong ones.",
    "a p above 0.05 is no evidence": "none of these methods ends near the retrained model's truth ratios.",
    "UDS over a sweep: the median of IDK-NLL below": (
        "the first rungs of NPO leave as much to patch as those of IDK-NLL; at higher rates they differ as published."
    ),
    "UDS over a sweep: the median of RMU below": (
        f"{_NO_ROOM}: RMU goes from 0.3 to 0.7 in one rung, while NPO's first rungs leave much."
    ),
    "taught half of the facts": (
        "NPO gains 0.44 to 0.50 on seeds 2, 3 and 7, where 0.2 to 0.4 was left before; IDK and RMU gain more than 0.5."
    ),
    "RMU leaves most of the knowledge": f"{_NO_ROOM}: the first rung leaves more, the next two reach 0.5 and above.",
    "IDK-NLL leaves most": f"{_NO_ROOM}: on seeds 3, 4 and 7 the three rungs have a median of 0.5 to 0.6.",
    "the probe stays above": "the retrained model's own probe is no better than chance; one of the four ends below.",
    "an edit of the last block": "on seed 2 the lens attack finds 0.80 of the facts, and on seed 7 0.95, the margin.",
    "one learning rate can make": "on seeds 2, 4 and 7 the rate costs the model that never knew as much, or nearly.",
    "4 bits bring nothing of ablated rows": "zeroed rows had taken no facts away, so nothing could come back.",
    "the retrained model's own probe": (
        "that was measured on classes of images, which share features; the values of made-up names share nothing."
    ),
    "faithfulness: the probability ranks below": _POOL,
    "faithfulness: exact memorisation ranks below": _POOL,
    "faithfulness: CKA erasure ranks last": (
        "it tells most models that know from those that do not; the worst of the others tells fewer."
    ),
    "relearning robustness: CKA erasure ranks last": "other metrics move even less alike on the retrained model.",
    "relearning robustness: UDS above the truth ratio": "on seed 2 the truth ratio is within 0.05 of it.",
    "the lens attack recovers what RMU hides": "on seed 2 it stands 0.1 above the reply, which is the margin.",
    "error injection leaves": _BEFORE,
    "head projection leaves": _BEFORE,
    "head projection lowers the lens attack": _BEFORE,
    "ablated rows are relearned": (
        "zeroed rows take no facts away here (docs/results/methods.md); nothing is left to relearn."
    ),
    "benign relearning, on kept facts alone": (
        "IDK comes back by 0.3 and NPO by 0.2 and more on every seed; RMU does not on seeds 2 and 3."
    ),
    "4 bits bring ascent at a low rate back": _ROUNDING,
    "4 bits bring NPO at a low rate back": _ROUNDING,
    "a high rate is brought back less": f"nothing is brought back at either rate: {_ROUNDING}",
    "prompts recover NPO, GradDiff and IDK-DPO": (
        "they recover 0.05 and more of each on every seed; the needle is recovered as well, diverged (seed 3) or had "
        "not forgotten (seed 7)."
    ),
    "soft prompts make a model say": "in a million parameters free embeddings find no way to unknown answers.",
    "with the facts in the prompt all answer": _NO_CONTEXT,
    "with the facts in the prompt, which help": _NO_CONTEXT,
    "stripping hooks gives everything back": (
        "on seed 7 neuron adjustment leaves half of the answers, so it had not forgotten; stripped, all are as before."
    ),
    "SimNPO's forget quality": "on seed 7 both have the same p; of twenty questions a p has few values.",
    "clues betray suppression": _NO_CONTEXT,
    "a PrivLeak near 0 (26 points)": "none of these methods comes near: NPO ends above 26, the others below -26.",
}


def reason(says: str) -> str:
    """Return the likely reason why a shape did not come out."""
    return next((why for start, why in REASONS.items() if says.startswith(start)), "the reason is not known.")
