"""A fresh training SAE of sae-lens, from plain settings that are checked first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hooked.errors import VestigeError
from hooked.seeded import seeded
from sae.library import library

# Architectures whose sparsity is a number of latents per token.
WITH_K = ("topk", "abstopk", "batchtopk", "matryoshka_batchtopk")
# Saved as jumprelu, with one threshold.
BATCHED = ("batchtopk", "matryoshka_batchtopk")
TRAINED = (*WITH_K, "jumprelu", "gated", "standard", "matching_pursuit")
_K = 32
# Set by `train_saes` itself, or done by its standardisation.
_OURS = ("d_in", "dtype", "device", "metadata", "normalize_activations", "reshape_activations")


def training_sae(
    architecture: str,
    *,
    d_in: int,
    d_sae: int,
    k: int | float | None,
    seed: int,
    device: str,
    about: Mapping[str, Any],
    **options: Any,
) -> Any:
    """Return an SAE with random weights that depend on the seed alone.

    Raises:
        VestigeError: sae-lens does not train the architecture, or a setting does not fit it.
    """
    if architecture not in TRAINED:
        raise VestigeError(f"no architecture '{architecture}' can be trained; there are {', '.join(TRAINED)}")
    if architecture in WITH_K:
        k = min(_K, d_sae) if k is None else k
        if not 0 < k <= d_sae or (architecture not in BATCHED and k != int(k)):
            raise VestigeError(f"k is a number of latents, at most {d_sae}, got {k}")
        options["k"] = float(k) if architecture in BATCHED else int(k)
    elif k is not None:
        known = "l1_coefficient, l0_coefficient or residual_threshold"
        raise VestigeError(f"'{architecture}' has no k; its sparsity is set by {known}, see its configuration")
    if architecture == "matryoshka_batchtopk":
        options.setdefault("matryoshka_widths", _widths(d_sae))
    if architecture == "matching_pursuit":
        options.setdefault("decoder_init_norm", 1.0)
    sae_class, config_class = library("sae_lens.registry").get_sae_training_class(architecture)
    known_fields = [field.name for field in fields(config_class) if field.name not in (*_OURS, "d_sae", "k")]
    unknown = next((name for name in options if name not in (*known_fields, "k")), None)
    if unknown is not None:
        raise VestigeError(f"'{architecture}' has no option '{unknown}'; it has {', '.join(sorted(known_fields))}")
    metadata = library("sae_lens.saes.sae").SAEMetadata(**{k: v for k, v in about.items() if v is not None})
    with seeded(seed, device):
        try:
            config = config_class(d_in=d_in, d_sae=d_sae, device=device, metadata=metadata, **options)
            return sae_class(config)
        except (TypeError, ValueError) as error:
            raise VestigeError(f"sae-lens refuses these settings of '{architecture}': {error}") from error


def _widths(d_sae: int) -> list[int]:
    """Halve the width, five times at most: the nested dictionaries of a matryoshka SAE."""
    return sorted({max(1, d_sae >> i) for i in range(5)})
