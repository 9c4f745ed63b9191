"""Read: turn activations and weights into scores, directions and rankings. Leaves every model as it was."""

from probes.answers import AnswerProbe, fit_answer_probe, win_rates
from probes.causal import CausalEffect, answer_probability, causal_effect
from probes.concept_vectors import ConceptVector, find_concept_vectors
from probes.directions import Direction, HeldOutAUC, held_out_auc, logistic, mean_difference, paired_pca
from probes.lens import LensFloor, LensReading, lens_floor, logit_lens
from probes.linear import ProbeResult, fit_linear_probe, probe_per_layer
from probes.vocabulary import VocabularyProjection, project_to_vocabulary

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
    "answer_probability",
    "causal_effect",
    "find_concept_vectors",
    "fit_answer_probe",
    "fit_linear_probe",
    "held_out_auc",
    "lens_floor",
    "logistic",
    "logit_lens",
    "mean_difference",
    "paired_pca",
    "probe_per_layer",
    "project_to_vocabulary",
    "win_rates",
]
