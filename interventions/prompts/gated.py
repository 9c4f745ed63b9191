"""Any intervention, on the prompts that a gate picks."""

from __future__ import annotations

from dataclasses import replace

from hooked import Gate, Intervention, VestigeError


def gated(intervention: Intervention, gate: Gate) -> Intervention:
    """Return the intervention restricted to rows on whose prompt the gate fires; all others stay bit-identical.

    The gate is asked once per request, on prompt tokens and on the model without interventions. It protects nothing
    that it does not recognise: read what its kind misses where it is fitted. A document that is scored as one long
    answer has no prompt, and no gate fires on it.

    Args:
        intervention: Edits of activations, of the embedding or of logits.
        gate: From `fit_tfidf_gate`, `fit_centroid_gate`, `fit_key_gate`, or any `(raw, request) -> Bool[batch]`.

    Raises:
        VestigeError: The intervention changes weights, which no gate can switch per row, or has a gate already, or is
            made of parts.
    """
    name = intervention.spec.name
    if intervention.parts:
        raise VestigeError(
            f"'{name}' is made of parts, and a gate switches one; gate them apart: gated(a, gate) + gated(b, gate)"
        )
    if intervention.weights is not None:
        raise VestigeError(
            f"'{name}' changes weights, which act on every row, so a gate cannot switch it; use a form made of hooks"
        )
    if intervention.gate is not None:
        raise VestigeError(f"'{name}' has a gate already; use dataclasses.replace(intervention, gate=...) to change it")
    settings = {**intervention.spec.settings, "gate": type(gate).__name__}
    return replace(intervention, spec=replace(intervention.spec, settings=settings), gate=gate)
