"""Triton's interpreter without the work that it does again and again: the same results in a third of the time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import triton.language as tl
from triton.runtime import interpreter


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Let the interpreter look types up once, patch the language once a launch, and XOR in NumPy."""
    _look_types_up_once(patch)
    _patch_the_language_once_a_launch(patch)
    _exclusive_or_in_numpy(patch)


def _look_types_up_once(patch: pytest.MonkeyPatch) -> None:
    """The interpreter writes its table of types down anew for every look into it."""
    plain, known = interpreter._get_np_dtype, dict[str, Any]()

    def np_dtype(kind: Any) -> Any:
        # A block and its elements have one type in NumPy.
        name = kind.scalar.name
        if name not in known:
            known[name] = plain(kind)
        return known[name]

    patch.setattr(interpreter, "_get_np_dtype", np_dtype)


def _patch_the_language_once_a_launch(patch: pytest.MonkeyPatch) -> None:
    """A function called by a kernel looks through all of the language, which the launch has patched already."""
    whole, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: set[Any] = set()

    def patch_lang(function: Any) -> Any:
        # The language is known to a function under names of its own, and some know a part of it that others do not.
        modules = {id(value) for value in function.__globals__.values() if value is tl or value is tl.core}
        if modules <= patched:
            return interpreter._LangPatchScope()
        patched.update(modules)
        return whole(function)

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        patched.clear()
        return launch(self, *arguments, **options)

    patch.setattr(interpreter, "_patch_lang", patch_lang)
    patch.setattr(interpreter.GridExecutor, "__call__", call)


def _exclusive_or_in_numpy(patch: pytest.MonkeyPatch) -> None:
    """The interpreter reduces by sums and maxima in NumPy, and by everything else number by number in Python."""
    plain = interpreter.ReduceOps.apply_impl

    def apply_impl(self: Any, given: Any) -> Any:
        if self.combine_fn is not tl.standard._xor_combine:
            return plain(self, given)
        (numbers,) = given
        found = np.bitwise_xor.reduce(numbers.handle.data, axis=self.axis, keepdims=self.keep_dims)
        return self.to_tensor(found, numbers.dtype)

    patch.setattr(interpreter.ReduceOps, "apply_impl", apply_impl)
