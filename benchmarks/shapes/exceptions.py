"""Why shapes did not come out, as far as it can be told."""

from __future__ import annotations

from collections.abc import Mapping

_COLLAPSE = "a model that says one token gives right and wrong answers alike, as one does that never knew them."
_FLOOR = "with 20 questions no p lies below 10^-10.8, and the original stands there too."
_SEEN = "the audit asks the very kept facts that methods train on, so that utility rises."
_POOL = "the pool is small and what it hides is found by this metric as well; both are at the ceiling."
_DEEP = "at rates that silence the organism at all, NPO takes its answers below those of the retrained model."
_SHORT = "at the rate chosen for it, GradDiff ends with answers likelier than to a model that never knew."
_RMU = "RMU forgets at one of three settings; the other two leave 0.6 to 0.9, so that their low UDS says nothing."
_ALL_TELL = "on seed 2 ROUGE is at the ceiling as well."
_BEFORE = "a defence guards the lens from its block on; the facts stand in the block before, whatever the loss."
_NO_CONTEXT = "the organism was never trained to read facts off its prompt; a long prompt confuses even the original."
_ROUNDING = (
    "rounding keeps the sum of many small changes of one direction, and the organism's matrices are small; "
    "`vestige.attacks.weights.quantisation` has the argument."
)

# The words of a shape, or their beginning, to the likely reason.
REASONS: Mapping[str, str] = {
    "ascent to the end: forget quality collapses": _COLLAPSE,
    "few questions are easy": (
        "on seeds 1 and 3 the p of all questions is above 0.3, which leaves no decade above it."
    ),
    "NPO has the best forget quality": f"{_COLLAPSE} Ascent to the end is such a model.",
    "IDK-DPO: forget quality between": (f"it leaves half of the answers or more; {_FLOOR}"),
    "RMU: forget quality between": _FLOOR,
    "truth ratio: ascent, GradDiff and SimNPO": (
        "the original is nearly sure of each answer, so its truth ratio leaves no room below."
    ),
    "truth ratio: NPO and RMU end": "on seed 2 RMU forgets least (left 0.19) and ends 0.003 below the retrained model.",
    "utility: NPO costs": _SEEN,
    "utility: GradDiff costs": ("on seed 1 it costs 0.007; the audit asks the very kept facts that it trains on."),
    "GradDiff reaches deep": ("on seed 1 it costs 0.007; the audit asks the very kept facts that it trains on."),
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
    "utility: IDK-DPO costs some": ("it costs less than 0.01 and leaves half of the answers or more; NPO gains."),
    "UDS over a sweep: the median of RMU below": (_RMU),
    "RMU leaves most of the knowledge": _RMU,
    "IDK-NLL leaves most": ("on seed 3 the two higher rates take more away than they cover (UDS 0.65 and 0.70)."),
    "the probe stays above": (
        "the retrained model's own probe is no better than chance, and on seeds 2 and 3 one of the four ends below it."
    ),
    "an edit of the last block": ("on seed 2 the lens attack finds 0.80 of the facts."),
    "faithfulness: answers in words (ROUGE) rank": _ALL_TELL,
    "faithfulness: the lens twin ranks above": _ALL_TELL,
    "faithfulness: the truth ratio ranks above": _ALL_TELL,
    "one learning rate can make": ("on seeds 1 and 2 the rate costs the model that never knew as much, or nearly."),
    "4 bits bring nothing of ablated rows": "zeroed rows had taken no facts away, so nothing could come back.",
    "UDS over a sweep: the median of NPO below": f"{_SHORT} NPO goes past it.",
    "FLAT hides": "FLAT stops where the answers are gone, which on a small model takes more than its readout.",
    "the retrained model's own probe": (
        "that was measured on classes of images, which share features; the values of made-up names share nothing."
    ),
    "faithfulness: the probability ranks below": _POOL,
    "faithfulness: exact memorisation ranks below": _POOL,
    "faithfulness: CKA erasure ranks last": (
        "it tells all models that know from those that do not; ROUGE tells fewer on seeds 1 and 3."
    ),
    "relearning robustness: CKA erasure ranks last": "other metrics move even less alike on the retrained model.",
    "the lens attack recovers what RMU hides": (
        "on seed 1 RMU forgets the most (left 0.02), and no block before the steered one shows the facts."
    ),
    "error injection leaves": _BEFORE,
    "head projection leaves": _BEFORE,
    "deleted facts come back": "the edited block is the one that recalls; only edits behind it leave facts in sight.",
    "the output falls alike at every depth": "five blocks leave one step from where facts are to where they are not.",
    "head projection lowers the lens attack": _BEFORE,
    "ablated rows are relearned": (
        "zeroed rows take no facts away here (docs/results/methods.md); nothing is left to relearn."
    ),
    "taught half of the facts": (
        "IDK and RMU recall it on every seed (0.5 and more); NPO recalls 0.13 to 0.37, less than half."
    ),
    "benign relearning, on kept facts alone": (
        "IDK and RMU come back by 0.1 to 0.2; NPO's answers are gone deeper than kept facts reach."
    ),
    "4 bits bring ascent at a low rate back": _ROUNDING,
    "4 bits bring NPO at a low rate back": _ROUNDING,
    "a high rate is brought back less": f"nothing is brought back at either rate: {_ROUNDING}",
    "prompts recover NPO, GradDiff and IDK-DPO": (
        "prompts recover nothing after NPO, and IDK-DPO had not forgotten; the needle diverged on seed 3 (no numbers)."
    ),
    "soft prompts make a model say": "in a million parameters free embeddings find no way to unknown answers.",
    "with the facts in the prompt all answer": _NO_CONTEXT,
    "with the facts in the prompt, which help": _NO_CONTEXT,
    "clues betray suppression": _NO_CONTEXT,
    "a PrivLeak near 0 (26 points)": "only NPO comes near (14 to 26), and its UDS is 0.98 and more.",
}


def reason(says: str) -> str:
    """Return the likely reason why a shape did not come out."""
    return next((why for start, why in REASONS.items() if says.startswith(start)), "the reason is not known.")
