"""The settings that the benchmark tries for each method: `key=value` as `vestige unlearn --set` takes them.

The organism has a million parameters, so learning rates are above the published ones, which are for billions. Strengths
span what the papers use, and one step beyond where that is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

Settings = tuple[str, ...]


def _all(**choices: Sequence[object]) -> tuple[Settings, ...]:
    """Every combination, in the order given."""
    return tuple(
        tuple(f"{key}={value}" for key, value in zip(choices, values, strict=True))
        for values in product(*choices.values())
    )


GRID: Mapping[str, tuple[Settings, ...]] = {
    "gradient_ascent": _all(lr=("3e-5", "1e-4"), stop_fraction=(0.2, 0.05)),
    "gradient_difference": _all(lr=("3e-5", "1e-4", "3e-4"), stop_fraction=(0.05,)),
    "gradient_ascent_kl": _all(lr=("1e-4", "3e-4"), retain_weight=(1, 30, 100)),
    "llmu": _all(lr=("1e-4", "2e-4"), retain_weight=(1, 30), epochs=(20,)),
    "idk_finetune": _all(lr=("1e-4", "3e-4")),
    "idk_dpo": _all(lr=("1e-4", "3e-4"), beta=(0.1, "auto")),
    "npo": _all(lr=("1e-4", "3e-4"), beta=(0.1, 0.5)),
    "simnpo": _all(lr=("1e-4", "3e-4"), delta=(0, 2)),
    "undial": _all(lr=("3e-4",), beta=(10, "auto"), retain_weight=(0, 1)),
    "wga": _all(lr=("1e-4", "3e-4"), beta=(1, 0.5)),
    "flat": _all(lr=("3e-5", "1e-4"), divergence=("total_variation", "kl")),
    "task_vector": _all(alpha=(0.1, 0.3, 1, 2)),
    "rmu": _all(layer=(2, 3), alpha=(100,), epochs=(20,)),
    "circuit_breakers": _all(lr=("1e-3",), alpha=(10, 30), steps=(75,)),
    "loku": _all(lr=("3e-4", "1e-3"), epochs=(10,)),
    "distilled_removal": _all(noise=(0.4, 0.6)),
    "whp": _all(lr=("3e-4", "1e-3")),
    "neuron_adjust": _all(top=(0.015, 0.03, 0.1), mode=("deterministic", "mean")),
    "selective_pruning": _all(top=(0.001, 0.005, 0.02, 0.05)),
    "key_space_detection": _all(layers=("[2]", "[3]", "[4]")),
    "ablate_vectors": _all(mode=("zero", "gauss")),
    "needle_tune": _all(lr=(0.1, 0.5), epochs=(5, 20)),
    "ablate_direction": ((),),
    "orthogonalize": (("allow_tied=true",),),
    "steer": _all(coefficient=(-1, -3)),
    "leace": _all(site=("resid_post.1", "resid_post.2", "resid_post.3")),
    "inlp": _all(site=("resid_post.1", "resid_post.2", "resid_post.3")),
    "uld": _all(n_layers=(2, 3), weight=(-1.5,), cutoff=(0.01, 0.1)),
    "offset_unlearning": _all(n_layers=(2, 3), weight=(1, 2)),
    "whp_ensemble": _all(alpha=(1, 5), lr=("1e-3", "3e-3")),
    "dola": ((),),
    "icd": _all(weight=(0.5, 1), epochs=(1,)),
    "lol": _all(omega=(0.2, 0.5), epochs=(1,)),
    "eco": _all(corruption=("rand_noise_first_n", "zero_out_top_k"), n=(1, 32)),
    "fact_erasure": _all(layer=(0, 1), epochs=(20,)),
    "empty_response": _all(layer=(0, 1), epochs=(20,)),
    "error_injection": _all(layer=(0, 1), epochs=(20,)),
    "head_projection": _all(layer=(0, 1), epochs=(20,)),
    "max_entropy": _all(layer=(0, 1), epochs=(20,)),
    "rephrase": _all(keep_originals=("true", "false")),
    "memit_empty": _all(layers=("[1]", "[2]", "[1, 2, 3]")),
    "sauce": ((),),
    "negative_clamp": ((),),
    "conditional_clamp": ((),),
    "sae_bench_unlearning": ((),),
    "saeuron": ((),),
    "crisp": _all(lr=("1e-3",), retain_weight=(0.99, 0.5)),
    "pisces": ((),),
}
