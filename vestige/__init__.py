"""Vestige: after a language model was made to forget something, what does it still know, and where?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vestige.attacking import attack
    from vestige.auditing import audit
    from vestige.result import AttackResult, AuditReport, ConceptVectorRow, GenerationRow, Result, SubjectInfo

_HOMES = {
    "attack": "vestige.attacking",
    "audit": "vestige.auditing",
    "AttackResult": "vestige.result",
    "AuditReport": "vestige.result",
    "ConceptVectorRow": "vestige.result",
    "GenerationRow": "vestige.result",
    "Result": "vestige.result",
    "SubjectInfo": "vestige.result",
}

__all__ = [
    "AttackResult",
    "AuditReport",
    "ConceptVectorRow",
    "GenerationRow",
    "Result",
    "SubjectInfo",
    "attack",
    "audit",
]


def __getattr__(name: str) -> Any:
    # The command line has to answer --help without paying for torch, so functions are imported on first use. Their
    # modules have other names than they, or importing the one would hide the other.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vestige' has no attribute {name!r}")
