"""The numbers of an audit under the names that open-unlearning gives them, so that both can stand in one table."""

from __future__ import annotations

from vestige.result import AuditReport

# open-unlearning's name to ours, where both mean the same number; checkpoints of its collection load like any other.
NAMES = {
    "forget_quality": "forget_quality",
    "model_utility": "model_utility",
    "forget_truth_ratio": "truth_ratio",
    "forget_Q_A_Prob": "forget_probability",
    "forget_Q_A_ROUGE": "forget_rouge",
    "extraction_strength": "extraction_strength",
    "exact_memorization": "exact_memorization",
    "privleak": "priv_leak",
    "mia_loss": "membership_loss",
    "mia_zlib": "membership_zlib",
    "mia_min_k": "membership_min_k",
    "mia_min_k_plus_plus": "membership_min_k_plus_plus",
}


def tofu_summary(report: AuditReport, subject: str) -> dict[str, float]:
    """Return what `TOFU_SUMMARY.json` would hold of a subject; what was not measured is left out.

    Membership scores are AUCs of members against non-members (1: the forget set looks like training data), and
    `privleak` is in percent. Our model utility is the harmonic mean over the splits that the audit was given, so it is
    TOFU's only with TOFU's three retain sets.

    Args:
        report: From `audit`.
        subject: Name of one of its subjects.

    Raises:
        KeyError: There is no such subject, or the report holds attacks alone.

    Source:
        Dorna et al. 2025, *OpenUnlearning*, arXiv:2506.12618.
    """
    found = {theirs: report.result(ours, subject).estimate for theirs, ours in NAMES.items()}
    return {name: value for name, value in found.items() if value is not None}
