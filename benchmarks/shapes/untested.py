"""Shapes of the specification that are not asked here, each with the reason."""

from __future__ import annotations

# Section, what is reported, why it is not asked.
UNTESTED: tuple[tuple[str, str, str], ...] = (
    ("15.1", "RMU's utility on TOFU", "the two published models disagree (.03 and .59)"),
    ("15.1", "forget01 ranks NPO, GradDiff, SimNPO, GA, RMU", "the specification calls forty questions easy and noisy"),
    ("15.2", "VerbMem: what is left of texts learnt by heart", "the organism knows facts and no text by heart"),
    ("15.2", "GradDiff and RMU between original and retrained model", "News and Books disagree in both"),
    (
        "15.3",
        "UDS medians of UNDIAL, AltPO, SimNPO and IDK-DPO",
        "ranges overlap and the order needs a grid of hyper-parameters; AltPO is not implemented",
    ),
    ("15.3", "Fisher-masked metrics: unstable under quantisation", "not implemented"),
    ("15.3", "rows of the meta-evaluation for jailbreak and paraphrase ROUGE", "the audit does not measure them"),
    ("15.4", "WHP: familiarity .290 to .007", "recalled by the specification, not read; it needs a judge"),
    ("15.4", "ULD: forget quality falls with the size of the forget set", "recalled; the forget set has one size"),
    ("15.4", "ECO: accuracy on WMDP near chance", "recalled; WMDP has no place on toys"),
    ("15.4", "LoKU above GA, GradDiff and NPO in forget quality", "recalled"),
    ("2", "unlearning stops at EL_10 and MA below thresholds", "thresholds are means over unseen text of large models"),
    ("4", "CKA by batches keeps its bias", "an identity; pinned in tests/probes"),
    ("4", "agreement with retrain (AGL, AGR, H-LR)", "definitions are open in the specification"),
    ("6", "PD and PD2 above HP", "the specification forbids the claim: PD2 fails on one of two seeds"),
    ("6.1", "the tuned lens beats the logit lens", "open in the specification"),
    ("6", "attack floors: skewed targets lift the permutation floor over B/V", "an identity; pinned in tests"),
    ("6", "larger models are more robust, and so is the best defence", "the organism has one size"),
    ("vision 8", "questions with text and image extract more than either", "no model here sees images"),
    (
        "vision 3-6",
        "class forgetting: relabelling moves CKA away from the retrained model; probes and kNN of classes",
        "needs the image classifier of vision.md; the readout row is asked on text",
    ),
    ("vision 7", "SIU leaves probe and lens traces", "no model here sees images"),
    ("vision 4, 5, 9", "orderings of SalUn, LAF and Text-to-Unlearn", "methods on images, not metrics or attacks"),
    (
        "sae 18",
        "orderings of SAE edits, and damage to the concept's other attribute",
        "methods; measured on an image model in the specification; docs/results/methods.md has them on facts",
    ),
    (
        "contrastive 10",
        "direction tests of contrastive heads",
        "not about unlearning; tests/probes/contrastive has them",
    ),
    (
        "8 C",
        "five to a thousand examples through LoRA",
        "asked with all weights instead; the attack is relearning:lora",
    ),
    ("10 C", "translation recovers what was forgotten", "the organism speaks one language well"),
    ("10 E", "optimised suffixes (GCG) recover", "section 16: needs real checkpoints"),
    ("10 J", "ECO: a linear probe on logits at chance", "no options whose letter a probe could learn"),
    ("10 N", "pruning for refusal", "no direction is reported in the specification"),
    ("10 O", "latent adversary", "no direction is reported in the specification; an upper bound by construction"),
    (
        "text 1",
        "target answers suffer more than unrelated under noise on concept vectors",
        "of a method; docs/results/methods.md",
    ),
    (
        "text 2-5, 9, 12-26",
        "what each unlearning method does to forget and retain answers, and what hooks leave of the weights",
        "of methods; 20 of 29 come out in docs/results/methods.md",
    ),
    ("text 11", "sequential requests do not come back", "no direction is measured in a paper"),
    ("text 13", "truthful decoding raises TruthfulQA", "the original is right already; docs/results/methods.md"),
    (
        "text 22",
        "CRISP survives the removal of hooks",
        "needs an SAE for each world; it changes weights by construction",
    ),
    (
        "text 23",
        "PISCES is robust to relearning",
        "needs an SAE for each world, and does not forget on the shipped model",
    ),
    ("text 24", "circuit breakers are relearned quickly", "not run: its fit costs as much as six others"),
    ("text 25", "LEACE leaves a linear probe at the majority", "a theorem; pinned in tests/interventions/erasure"),
    ("text 27", "defences cost other facts more than erasure", "of methods; docs/results/methods.md"),
)
