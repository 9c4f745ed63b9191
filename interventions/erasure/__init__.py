"""Erasing knowledge at a chosen place: in one weight matrix, or as a linear subspace of activations."""

from .empty_response import empty_response
from .error_injection import error_injection
from .fact_erasure import fact_erasure, fact_erasure_loss
from .head_projection import head_projection, head_projection_loss
from .inlp import inlp
from .leace import leace
from .lens import select_layers
from .max_entropy import max_entropy, max_entropy_loss
from .memit_empty import memit_empty
from .one_matrix import kl_to_original
from .rephrase import rephrase

__all__ = [
    "empty_response",
    "error_injection",
    "fact_erasure",
    "fact_erasure_loss",
    "head_projection",
    "head_projection_loss",
    "inlp",
    "kl_to_original",
    "leace",
    "max_entropy",
    "max_entropy_loss",
    "memit_empty",
    "rephrase",
    "select_layers",
]
