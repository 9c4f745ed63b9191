"""Read: turn activations and weights into scores, directions and rankings. Leaves every model as it was."""

from probes.answers import AnswerProbe, fit_answer_probe, win_rates
from probes.causal import CausalEffect, ablated_probability, answer_probability, causal_effect
from probes.concept_vectors import ConceptVector, find_concept_vectors
from probes.directions import Direction, HeldOutAUC, held_out_auc, logistic, mean_difference, paired_pca
from probes.lens import LensFloor, LensReading, lens_floor, logit_lens
from probes.lexicon import lexicon_weights, seed_text_weights
from probes.linear import ProbeResult, fit_linear_probe, probe_per_layer
from probes.vocabulary import VocabularyProjection, default_k, project_to_vocabulary

__all__ = [
    "AnswerProbe",
    "CausalEffect",
    "ConceptVector",
    "Direction",
    "HeldOutAUC",
    "LensFloor",
    "LensReading",
    "ProbeResult",
    "VocabularyProjection",
    "ablated_probability",
    "answer_probability",
    "causal_effect",
    "default_k",
    "find_concept_vectors",
    "fit_answer_probe",
    "fit_linear_probe",
    "held_out_auc",
    "lens_floor",
    "lexicon_weights",
    "logistic",
    "logit_lens",
    "mean_difference",
    "paired_pca",
    "probe_per_layer",
    "project_to_vocabulary",
    "seed_text_weights",
    "win_rates",
]
