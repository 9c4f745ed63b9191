"""Gates that decide on the prompt, and what is done to the prompts that they pick."""

from .centroid_gate import CentroidGate, fit_centroid_gate
from .corruptions import FAMILIES, Corruption, corruption_of
from .eco import eco
from .gated import gated
from .key_gate import KeyGate, fit_key_gate
from .tfidf_gate import TfidfGate, fit_tfidf_gate
from .tokens_hit import Which, which_tokens

__all__ = [
    "FAMILIES",
    "CentroidGate",
    "Corruption",
    "KeyGate",
    "TfidfGate",
    "Which",
    "corruption_of",
    "eco",
    "fit_centroid_gate",
    "fit_key_gate",
    "fit_tfidf_gate",
    "gated",
    "which_tokens",
]
