"""Why shapes did not come out, as far as it can be told."""

from __future__ import annotations

from collections.abc import Mapping

_COLLAPSE = "a model that says one token gives right and wrong answers alike, as one does that never knew them."
_FLOOR = "with 20 questions no p lies below 10^-10.8, and the original stands there too."
_SEEN = "the audit asks the very kept facts that methods train on, so that utility rises."
_POOL = "the pool is small and what it hides is found by this metric as well; both are at the ceiling."
_DEEP = "at rates that silence the organism at all, NPO takes its answers below those of the retrained model."
_SHORT = "at the rate chosen for it, GradDiff ends with answers likelier than to a model that never knew."
_BEFORE = "a defence guards the lens from its block on; the facts stand in the block before, whatever the loss."
_NO_CONTEXT = "the organism was never trained to read facts off its prompt; a long prompt confuses even the original."
_ROUNDING = (
    "rounding keeps the sum of many small changes of one direction, and the organism's matrices are small; "
    "`vestige.attacks.weights.quantisation` has the argument."
)

# The words of a shape, or their beginning, to the likely reason.
REASONS: Mapping[str, str] = {
    "ascent to the end: forget quality collapses": _COLLAPSE,
    "few questions are easy": _COLLAPSE,
    "NPO has the best forget quality": f"{_COLLAPSE} Ascent to the end is such a model.",
    "IDK-DPO: forget quality between": _FLOOR,
    "RMU: forget quality between": _FLOOR,
    "truth ratio: ascent, GradDiff and SimNPO": (
        "the original is nearly sure of each answer, so its truth ratio leaves no room below."
    ),
    "utility: NPO costs": _SEEN,
    "utility: GradDiff costs": _SEEN,
    "utility: IDK-DPO costs": _SEEN,
    "GradDiff reaches deep": _SEEN,
    "a model of noise passes": "noise gives all answers alike, and the retrained model prefers some of the wrong ones.",
    "a p above 0.05 is no evidence": "none of these methods ends near the retrained model's truth ratios.",
    "membership: the retrained model is near chance": (
        "20 facts of one concept beside 60 of three others: the two differ before anything is learnt."
    ),
    "PrivLeak: GradDiff above NPO": _SHORT,
    "PrivLeak: GradDiff is over-unlearned": _SHORT,
    "PrivLeak: NPO is under-unlearned": _DEEP,
    "answers in words: NPO leaves more": _DEEP,
    "PrivLeak near 0 without deletion": "the scale begins at the retrained model's AUC, which is not 0.5 here.",
    "UDS over a sweep: the median of NPO below": f"{_SHORT} NPO goes past it.",
    "FLAT hides": "FLAT stops where the answers are gone, which on a small model takes more than its readout.",
    "the retrained model's own probe": (
        "that was measured on classes of images, which share features; the values of made-up names share nothing."
    ),
    "faithfulness: the probability ranks below": _POOL,
    "faithfulness: exact memorisation ranks below": _POOL,
    "faithfulness: CKA erasure ranks last": "it tells all models that know from most that do not; ROUGE tells fewer.",
    "relearning robustness: CKA erasure ranks last": "other metrics move even less alike on the retrained model.",
    "the lens attack recovers what RMU hides": (
        "RMU steers the block in which the facts are recalled, so that no block before shows them."
    ),
    "error injection leaves": _BEFORE,
    "head projection leaves": _BEFORE,
    "deleted facts come back": "the edited block is the one that recalls; only edits behind it leave facts in sight.",
    "the output falls alike at every depth": "five blocks leave one step from where facts are to where they are not.",
    "head projection lowers the lens attack": _BEFORE,
    "ablated rows are relearned": "zeroed rows take no facts away here (docs/results/methods.md).",
    "taught half of the facts": "after NPO the other half is learnt as by a model that never knew.",
    "benign relearning, on kept facts alone": "NPO's answers are gone deeper than kept facts reach.",
    "4 bits bring ascent at a low rate back": _ROUNDING,
    "4 bits bring NPO at a low rate back": _ROUNDING,
    "a high rate is brought back less": f"nothing is brought back at either rate: {_ROUNDING}",
    "prompts recover NPO, GradDiff and IDK-DPO": "prompts recover nothing after NPO, and a little after the needle.",
    "soft prompts make a model say": "in a million parameters free embeddings find no way to unknown answers.",
    "with the facts in the prompt all answer": _NO_CONTEXT,
    "with the facts in the prompt, none is ahead": _NO_CONTEXT,
    "clues betray suppression": _NO_CONTEXT,
    "a PrivLeak near 0 (26 points)": "methods of this list end far above or far below the retrained model.",
}


def reason(says: str) -> str:
    """Return the likely reason why a shape did not come out."""
    return next((why for start, why in REASONS.items() if says.startswith(start)), "the reason is not known.")
