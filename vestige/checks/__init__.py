"""The checks of an audit: each is a pure function from evidence to one result per subject."""

from vestige.checks.concept_vectors import concept_vector_checks
from vestige.checks.depth import depth_leak, lens_depth_leak, raw_depth_leak
from vestige.checks.generation import degeneracy, forget_rouge
from vestige.checks.latents import latent_survival
from vestige.checks.lens import lens_leak
from vestige.checks.memorization import exact_memorization, extraction_strength
from vestige.checks.neighbours import relation_neighbours
from vestige.checks.privacy import membership
from vestige.checks.probability import forget_probability, paraphrase_probability, retain_probability
from vestige.checks.probe import probe_leak
from vestige.checks.representation import cka_erasure, state_similarity
from vestige.checks.suppression import suppression_index
from vestige.checks.truth_ratio import forget_quality, truth_ratio
from vestige.checks.utility import model_utility
from vestige.checks.weights import weight_change

CHECKS = (
    forget_probability,
    paraphrase_probability,
    retain_probability,
    forget_rouge,
    truth_ratio,
    forget_quality,
    model_utility,
    extraction_strength,
    exact_memorization,
    degeneracy,
    concept_vector_checks,
    lens_leak,
    probe_leak,
    depth_leak,
    raw_depth_leak,
    lens_depth_leak,
    latent_survival,
    state_similarity,
    cka_erasure,
    relation_neighbours,
    suppression_index,
    weight_change,
    membership,
)

__all__ = ["CHECKS"]
