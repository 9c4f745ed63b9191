"""Vestige: after a language model was made to forget something, what does it still know, and where?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vestige.auditing import audit
    from vestige.result import AuditReport, ConceptVectorRow, GenerationRow, Result, SubjectInfo

_HOMES = {
    "audit": "vestige.auditing",
    "AuditReport": "vestige.result",
    "ConceptVectorRow": "vestige.result",
    "GenerationRow": "vestige.result",
    "Result": "vestige.result",
    "SubjectInfo": "vestige.result",
}

__all__ = ["AuditReport", "ConceptVectorRow", "GenerationRow", "Result", "SubjectInfo", "audit"]


def __getattr__(name: str) -> Any:
    # The command line has to answer --help without paying for torch, so the audit is imported on first use. Its module
    # has another name than its function, or importing the one would hide the other.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vestige' has no attribute {name!r}")
