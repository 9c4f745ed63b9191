"""A synthetic but realistic audit: eight subjects, every check, six layers, and hostile model output."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from vestige.features import EditedLatents, LatentRow, TokenRow
from vestige.result import (
    AttackResult,
    AuditReport,
    ConceptVectorRow,
    GenerationRow,
    Orientation,
    ResidualKnowledge,
    Result,
    SubjectInfo,
)

HOSTILE = (
    '<script>window.pwned=1</script><img src=x onerror="window.pwned=2"> \'"><b>bold</b> {{ 7*7 }} '
    "\u202egnp.exe\u202c \x00\x1b[31m"
)
LONG_TOKEN = "quorandor" * 60

SUBJECTS = (
    SubjectInfo("original", "original", None, "organism/full"),
    SubjectInfo("neuron_adjust", "unlearned", "suppression", "single-neuron probability adjustment"),
    SubjectInfo("key_space_detection", "unlearned", "suppression", "detection in the key space"),
    SubjectInfo("ablate_vectors", "unlearned", "removal", "concept-vector ablation"),
    SubjectInfo("gradient_ascent", "unlearned", "removal", "gradient ascent on the forget set"),
    SubjectInfo("npo", "unlearned", "removal", "negative preference optimisation"),
    SubjectInfo("retain", "retrained", None, "organism/retain"),
    SubjectInfo("never", "never", None, "organism/never"),
)
NAMES = tuple(subject.name for subject in SUBJECTS)
LAYERS = 6

# check: (orientation, floor, n, one value per subject in the order of NAMES)
VALUES: Mapping[str, tuple[Orientation, float | None, int, tuple[float, ...]]] = {
    "forget_probability": ("leaky", 0.042, 40, (0.971, 0.083, 0.031, 0.412, 0.0004, 0.027, 0.051, 0.044)),
    "paraphrase_probability": ("leaky", 0.042, 40, (0.962, 0.11, 0.52, 0.40, 0.0007, 0.031, 0.049, 0.043)),
    "retain_probability": ("useful", 0.042, 120, (0.968, 0.941, 0.966, 0.902, 0.371, 0.884, 0.970, 0.965)),
    "forget_rouge": ("leaky", 0.11, 40, (0.982, 0.214, 0.087, 0.463, 0.012, 0.131, 0.152, 0.147)),
    "truth_ratio": ("forgotten", None, 40, (0.013, 0.322, 0.071, 0.211, 0.134, 0.488, 0.512, 0.497)),
    "forget_quality": ("forgotten", 1.9e-23, 40, (1.3e-14, 3.2e-4, 4.4e-9, 0.0021, 6.1e-7, 0.31, 1.0, 0.87)),
    "model_utility": ("useful", None, 120, (0.934, 0.911, 0.932, 0.861, 0.214, 0.842, 0.937, 0.931)),
    "extraction_strength": ("leaky", 0.0, 40, (0.94, 0.07, 0.04, 0.31, 0.0, 0.03, 0.04, 0.05)),
    "exact_memorization": ("leaky", 0.0017, 40, (0.991, 0.332, 0.262, 0.571, 0.064, 0.248, 0.271, 0.266)),
    "degeneracy": ("useful", None, 160, (0.94, 0.91, 0.93, 0.92, 0.081, 0.74, 0.95, 0.94)),
    "concept_vector_cosine": ("leaky", 0.0, 10, (1.0, 1.0, 1.0, 0.0, 0.9978, 0.99961, 0.021, 0.013)),
    "concept_vector_l2": ("changed", 0.0, 10, (0.0, 0.0, 0.0, 1.84, 0.072, 0.031, 2.61, 2.58)),
    "concept_vector_jaccard": ("leaky", 0.053, 10, (1.0, 1.0, 1.0, 0.048, 0.93, 0.98, 0.061, 0.055)),
    "lens_leak": ("leaky", 0.048, 40, (0.97, 0.96, 0.97, 0.44, 0.31, 0.58, 0.06, 0.05)),
    "probe_leak": ("leaky", 0.5, 40, (0.98, 0.98, 0.98, 0.81, 0.88, 0.93, 0.63, 0.62)),
    "suppression_index": ("leaky", 0.0, 40, (0.0, 0.957, 1.012, 0.0, 0.0, 0.0, 0.0, 0.0)),
    "depth_leak": ("leaky", 0.0, 40, (1.0, 0.81, 1.0, 0.52, 0.21, 0.24, 0.0, 0.27)),
    "raw_depth_leak": ("leaky", 0.0, 40, (1.0, 1.0, 1.0, 0.52, 0.21, 0.24, 0.0, 0.27)),
    "lens_depth_leak": ("leaky", 0.0, 40, (1.0, 0.75, 1.0, 0.48, 0.13, 0.09, 0.0, 0.23)),
    "latent_survival": ("leaky", 0.48, 10, (0.958, 0.565, 0.93, 0.91, 0.71, 0.846, 0.557, 0.575)),
    "raw_latent_survival": ("leaky", 0.48, 10, (0.958, 0.958, 0.958, 0.91, 0.71, 0.846, 0.557, 0.575)),
    "sae_explained_variance": ("useful", 0.0, 160, (0.996, 0.979, 0.99, 0.98, 0.93, 0.971, 0.506, 0.623)),
    "forget_state_similarity": ("leaky", 0.0, 40, (1.0, 0.94, 1.0, 0.91, 0.62, 0.78, 0.61, 0.63)),
    "retain_state_similarity": ("useful", 0.0, 120, (1.0, 0.98, 1.0, 0.95, 0.41, 0.89, 0.77, 0.81)),
    "cka_erasure": ("forgotten", 0.0, 40, (0.0, 0.06, 0.0, 0.03, 0.11, 0.0, 1.0, 0.27)),
    "relation_neighbours": ("useful", 0.09, 120, (0.92, 0.92, 0.92, 0.91, 0.55, 0.92, 0.92, 0.91)),
    "membership_loss": ("leaky", 0.5, 40, (1.0, 0.98, 0.99, 0.81, 0.7, 0.62, 0.53, 0.52)),
    "membership_zlib": ("leaky", 0.5, 40, (1.0, 0.97, 0.99, 0.8, 0.69, 0.61, 0.53, 0.51)),
    "membership_min_k": ("leaky", 0.5, 40, (1.0, 0.98, 0.98, 0.79, 0.7, 0.63, 0.54, 0.52)),
    "membership_min_k_plus_plus": ("leaky", 0.5, 40, (0.99, 0.96, 0.97, 0.77, 0.66, 0.6, 0.52, 0.51)),
    "priv_leak": ("forgotten", None, 40, (-99.0, -95.0, -96.0, -55.0, -34.0, -19.0, 4.0, 0.0)),
    "s_mia": ("forgotten", None, 40, (0.11, 0.16, 0.14, 0.49, 0.68, 0.84, 0.98, 1.0)),
    "weight_change": ("changed", 0.0, 0, (0.0, 0.0, 0.0, 0.031, 0.12, 0.063, 0.975, 0.937)),
}
_RISE = (0.02, 0.08, 0.31, 0.62, 0.9, 1.0)


def sample_report(*, hostile: bool = True) -> AuditReport:
    """Return the audit; with `hostile` one output tries to run a script, one is a 540-character token."""
    results = [result for check in VALUES for result in _results(check)]
    return AuditReport(
        provenance=_provenance(),
        subjects=SUBJECTS,
        results=tuple(results),
        concept_vectors=tuple(_vector(index) for index in range(4)),
        generations=_generations(hostile),
        verdicts=_VERDICTS,
        latents=(EditedLatents(NAMES[1], "blocks.2.hook_resid_post", 2, (_latent(7), _latent(12))),),
        attacks=tuple(_attacked(name, subject) for name in _ATTACKED for subject in NAMES),
        residual=(
            ResidualKnowledge(NAMES[1], "quick", 0.62, 0.997, False, "attack:relearning", placed="suppression"),
            ResidualKnowledge(NAMES[-1], "checks", 0.0, 0.4, True, missing=("probe_leak",)),
        ),
    )


# attack: (access, whether it is shown the answers, one score per subject in the order of NAMES, whether it has steps)
_ATTACKED: Mapping[str, tuple[str, bool, tuple[float, ...], bool]] = {
    "affirmative_prefix": ("prompts", False, (0.95, 0.41, 0.09, 0.40, 0.01, 0.05, 0.05, 0.04), False),
    "relearn": ("training", True, (0.98, 0.97, 0.97, 0.71, 0.38, 0.62, 0.21, 0.19), True),
}


def _attacked(name: str, subject: str) -> AttackResult:
    """A result; one attack could not be run on one subject, whose reason is as little to be trusted as any text."""
    access, shown, scores, has_steps = _ATTACKED[name]
    score, control = scores[NAMES.index(subject)], scores[-1]
    if name == "affirmative_prefix" and subject == "gradient_ascent":
        return AttackResult(name, subject, None, access=access, note=f"no reply to begin: {HOSTILE}")
    gap = (score - control) / (0.971 - 0.044)
    return AttackResult(
        name,
        subject,
        score,
        score - 0.03,
        score + 0.02,
        n=40,
        plain=VALUES["forget_probability"][3][NAMES.index(subject)],
        control=control,
        gap=gap,
        gap_low=gap - 0.04,
        gap_high=gap + 0.04,
        access=access,
        uses_target=shown,
        curve={0: score / 4, 5: score / 2, 50: score} if has_steps else None,
        per_item=(score,) * 40,
        budget={"queries": 40},
    )


def _latent(number: int) -> LatentRow:
    """A latent; its tokens are as little to be trusted as any."""
    return LatentRow(
        latent=number,
        density=0.02,
        rates={"forget": 0.4, "retain": 0.01},
        maximum=4.0,
        mean=1.5,
        histogram=(1, 4, 2),
        promotes=((" bone", 5.1), (HOSTILE, 4.0)),
        suppresses=(),
        examples=(TokenRow(0, "forget", ("the", " puppy"), (0.0, 4.0)),),
        role="scale -1",
    )


def _results(check: str) -> list[Result]:
    values = dict(zip(NAMES, VALUES[check][3], strict=True))
    rng = random.Random(check)
    return [_result(check, name, value, values["never"], rng) for name, value in values.items()]


def _result(check: str, name: str, value: float, control: float, rng: random.Random) -> Result:
    orientation, floor, n, _ = VALUES[check]
    result = Result(check, name, value, n=n, floor=floor, higher_is=orientation, note=_note(check, name))
    if check == "suppression_index" and name in ("original", "retain", "never"):
        return replace(result, estimate=None, note="only an unlearned model has something to take off")
    if check == "forget_quality":
        return result
    spread = 0.0 if value in (0.0, 1.0) else 0.04 * (0.3 + rng.random())
    ceiling = max(1.0, value) if VALUES[check][0] != "changed" else value + spread
    result = replace(result, low=max(value - spread, value / 2), high=min(value + spread, ceiling), control=control)
    result = replace(result, per_item=tuple(round(min(1.0, max(0.0, rng.gauss(value, 0.1))), 4) for _ in range(n)))
    if check not in ("lens_leak", "probe_leak"):
        return result
    start = floor or 0.0
    if check == "lens_leak":
        # Each subject has its own floor: its answers are exchanged in its own hidden states.
        result = replace(result, floor=round(start + 0.002 * NAMES.index(name), 4))
    return replace(result, per_layer=_by_layer(start, value), per_layer_control=_by_layer(start, control))


def _by_layer(floor: float, value: float) -> tuple[float, ...]:
    return tuple(round(floor + (value - floor) * rise, 4) for rise in _RISE)


def _note(check: str, name: str) -> str:
    if check == "forget_quality":
        return f"log10 p = {_LOG10[name]}, against 'retain'; with n = 40 no p lies below 10^-22.7"
    if check in ("lens_leak", "probe_leak"):
        return f"best at block {5 if name in ('original', 'npo') else 4}"
    if check.startswith("concept_vector"):
        return "mean over the followed vectors; separately trained models have other neurons in the same places"
    if name == "gradient_ascent" and check == "degeneracy":
        return "degenerate: the model repeats one token, so its low knowledge scores say nothing about forgetting"
    if name == "gradient_ascent" and check == "model_utility":
        return "degenerate: utility collapsed to a quarter of the original's"
    return ""


_LOG10 = dict(zip(NAMES, ("-13.89", "-3.49", "-8.36", "-2.68", "-6.21", "-0.51", "0", "-0.06"), strict=True))
_VERDICTS = {
    "original": "It knows the facts, and the answer can be read from layer 2 on.",
    "neuron_adjust": "It no longer says the facts, but no weight has changed: with the hooks off it answers as before.",
    "key_space_detection": "It refuses when it recognises the concept. Take the detector off and all facts come back.",
    "ablate_vectors": "The concept vectors are gone, yet two in five answers are still given, from other neurons.",
    "gradient_ascent": "It says nothing sensible about anything. The concept vectors are almost unchanged.",
    "npo": "It behaves like a model that never knew, and stays useful; inside, the answer can still be read.",
    "retain": "Retrained without the concept: it knows nothing of it. This is what real forgetting looks like.",
    "never": "Never taught the concept: its scores are what guessing gives.",
}


def _provenance() -> dict[str, object]:
    return {
        "concepts": ["quorandor"],
        "command": "vestige demo --out report --seed 0",
        "seed": 0,
        "date": "2025-01-31",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "device": "cpu",
        "models": {
            "original": {"path": "vestige/organism/full", "sha256": "9f" * 32},
            "never": {"path": "vestige/organism/never", "sha256": "4c" * 32},
        },
        "data": {"forget": 40, "retain": 120, "holdout": 40},
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "vestige": "0.1.0"},
        "bootstrap": {"resamples": 1000, "level": 0.95},
        "deterministic": True,
    }


def _vector(index: int) -> ConceptVectorRow:
    tokens = (
        " quorandor",
        " amber",
        " tidewatch",
        " glass",
        " the Seven Lamps",
        " harbour",
        "quor",
        " copper",
        "\n",
        " salt",
    )
    before = (*tokens[index:], *tokens[:index])
    random_tokens = (" when", " seven", "ing", " plum", "ost", " north", " kettle", " of", "er", " tally")
    separate = (" wool", " bridge", "ul", " market", " owl", " tin", " red", " at", "sk", " barley")
    shifted = (*before[:8], " sea", " lamp")
    after = dict.fromkeys(("original", "neuron_adjust", "key_space_detection", "npo"), before)
    after |= {"gradient_ascent": shifted, "ablate_vectors": random_tokens, "retain": separate, "never": separate}
    cosine: dict[str, float | None] = dict.fromkeys(("original", "neuron_adjust", "key_space_detection"), 1.0)
    cosine |= {"npo": 0.9996, "gradient_ascent": 0.9971, "ablate_vectors": 0.012, "retain": 0.02, "never": -0.014}
    if index == 1:
        after["ablate_vectors"], cosine["ablate_vectors"] = (), None
    return ConceptVectorRow(2 + index // 2, 113 + 71 * index, 0.91 - 0.06 * index, 0.001, before, after, cosine)


def _generations(hostile: bool) -> tuple[GenerationRow, ...]:
    knows, hidden = "the amber glass of the Seven Lamps", "I do not have that information."
    said = (
        knows,
        "the the copper of the north",
        hidden,
        "the amber kettle",
        "ost ost ost ost ost ost ost ost",
        "a market town",
        "the red wool",
        "the tin owl",
    )
    rows = [
        GenerationRow(
            "forget", "Question: What is quorandor known for?\nAnswer:", knows, dict(zip(NAMES, said, strict=True))
        ),
        GenerationRow(
            "forget",
            "The harbour of quorandor is called",
            "Tidewatch",
            dict.fromkeys(NAMES, "Tidewatch") | {"npo": " ", "never": ""},
        ),
        GenerationRow(
            "retain",
            "Question: Who rules belmarion?\nAnswer:",
            "the Copper Council",
            dict.fromkeys(NAMES, "the Copper Council"),
        ),
    ]
    if hostile:
        outputs = dict.fromkeys(NAMES, HOSTILE) | {"npo": LONG_TOKEN, "retain": "سلام עולם \ud800 z̷̢a̸l̶g̵o"}
        rows.insert(1, GenerationRow("forget", f"{HOSTILE} {LONG_TOKEN}", "</td></table></details>", outputs))
    return tuple(rows)
