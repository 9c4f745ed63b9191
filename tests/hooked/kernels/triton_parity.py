"""Triton kernels against their definitions. `test_triton.py` runs this file in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from operator import xor
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from hooked.kernels import reference
from hooked.kernels.formats import RowFormat
from hooked.kernels.matmul_topk import matmul_topk
from hooked.kernels.moments import moments
from hooked.kernels.pack import pack_rows
from hooked.kernels.packed import PackedRows
from hooked.kernels.sae_encode_topk import sae_encode_topk
from hooked.kernels.sparse_decode import sparse_decode
from hooked.kernels.unpack import unpack_rows
from tests.hooked.kernels.interpreter import hurry

# NumPy, on which the interpreter runs, warns of overflows that the kernels mean.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module", autouse=True)
def _hurried() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        yield


def errs_at_most_twice_as_torch(found: list[Tensor], plain: list[Tensor], exact: list[Tensor]) -> None:
    for ours, theirs, wanted in zip(found, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == wanted.shape
        if ours.numel():
            error, allowed = (float((x.double() - wanted).abs().max()) for x in (ours, theirs))
            # Few numbers may happen to be rounded well, hence one rounding of the largest.
            assert error <= 2 * allowed + torch.finfo(ours.dtype).eps * float(wanted.abs().max())


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(one.float(), nan=7e7), torch.nan_to_num(other.float(), nan=7e7))


@triton.jit  # type: ignore[untyped-decorator]
def _xors(tile, out):  # type: ignore[no-untyped-def]
    rows, columns = tl.arange(0, 4), tl.arange(0, 8)
    tl.store(out + rows, tl.xor_sum(tl.load(tile + rows[:, None] * 8 + columns[None, :]), 1))


def test_a_hurried_xor_is_an_xor(rng: torch.Generator) -> None:
    tile, out = torch.randint(-(2**62), 2**62, (4, 8), generator=rng), torch.empty(4, dtype=torch.int64)
    _xors[(1,)](tile, out)
    assert out.tolist() == [reduce(xor, row) for row in tile.tolist()]


@pytest.mark.parametrize("format", ["float32", "bfloat16", "float16", "int8", "float8_e4m3"])
@pytest.mark.parametrize(("d", "group"), [(1, None), (37, 8), (7, 20), (300, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_and_unpacking(
    format: str, d: int, group: int | None, dtype: torch.dtype, rng: torch.Generator
) -> None:
    acts = torch.randn(60, 2 * d, generator=rng)[:, ::2] * 10.0 ** torch.randint(-6, 4, (60, 1), generator=rng)
    acts[3] = 0.0
    acts[5, 0], acts[6, -1], acts[9, 0] = float("nan"), float("-inf"), float("inf")
    acts[7] = torch.finfo(dtype).tiny / 4
    acts[8] = 1e5
    acts = acts.to(dtype)
    index = torch.cat([torch.arange(3, 10), torch.randint(0, 60, (64,), generator=rng)])
    kind = RowFormat(format, group if format in ("int8", "float8_e4m3") else None)
    out = PackedRows.empty(len(index), d, kind)
    stats = pack_rows(acts, index, out=out)
    wanted, wanted_stats = reference.pack_rows(acts, index, format=kind)
    assert same(out.values, wanted.values)
    assert out.scales is None or torch.equal(out.scales, wanted.scales)
    assert torch.equal(stats.tally, wanted_stats.tally)
    assert torch.equal(stats.absmax, wanted_stats.absmax)
    torch.testing.assert_close(stats.mean, wanted_stats.mean, rtol=1e-6, atol=1e-6 * float(wanted_stats.absmax.max()))
    torch.testing.assert_close(stats.deviation, wanted_stats.deviation, rtol=1e-5, atol=1e-6)
    some = torch.randint(0, len(index), (19,), generator=rng)
    assert same(unpack_rows(out, some), reference.unpack_rows(wanted, some))
    room = torch.zeros(25, d)
    unpack_rows(out, some, out=room, to=torch.arange(24, 5, -1))
    assert same(room[6:].flip(0), reference.unpack_rows(wanted, some))
    assert not room[:6].any()


def test_offsets_beyond_32_bits(rng: torch.Generator, tmp_path: Path) -> None:
    """Rows lie 2^30 values apart in a sparse file, of which only they are ever written."""
    stride = 1 << 30
    storage = torch.from_file(str(tmp_path / "rows"), shared=True, size=3 * stride + 4, dtype=torch.float32)
    far, rows = storage.as_strided((4, 4), (stride, 1)), torch.randn(4, 4, generator=rng)
    far.copy_(rows)
    out = PackedRows.empty(4, 4, RowFormat("float32"))
    pack_rows(far, torch.arange(4), out=out)
    assert torch.equal(out.values, rows)
    assert torch.equal(unpack_rows(PackedRows(RowFormat("float32"), far), torch.tensor([3, 0])), rows[[3, 0]])
    torch.testing.assert_close(moments(far).deviation, moments(rows).deviation)
    assert torch.equal(matmul_topk(far, torch.eye(4), 2).indices, rows.topk(2).indices)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (600, 5), (33, 130)])
def test_moments(n: int, d: int, dtype: torch.dtype, rng: torch.Generator) -> None:
    rows = (8 + 0.1 * torch.randn(n, 2 * d, generator=rng)[:, ::2]).to(dtype)
    block, (mean, wanted) = moments(rows), reference.moments(rows)
    torch.testing.assert_close(block.mean, mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(block.deviation, wanted.diagonal(), rtol=1e-9, atol=1e-12)


# Tall tiles, which the interpreter takes seconds for, are for half precision alone.
@pytest.mark.parametrize(
    ("dtype", "n", "m"), [*((dtype, 3, 130) for dtype in DTYPES), *((dtype, 70, 40) for dtype in DTYPES[1:])]
)
def test_topk(dtype: torch.dtype, n: int, m: int, rng: torch.Generator) -> None:
    d, k = 259, 7
    a, b = torch.randn(n, d, generator=rng).to(dtype), torch.randn(m, d, generator=rng).to(dtype).T
    exact, plain = a.double() @ b.double(), a.float() @ b.float()
    found = matmul_topk(a, b, k)
    allowed = 2 * float((plain.double() - exact).abs().max()) + 1e-12
    wanted = reference.matmul_topk(a.double(), b.double(), k)[0]
    assert float((found.values.double() - wanted).abs().max()) <= allowed
    assert float((exact.gather(-1, found.indices) - wanted).abs().max()) <= 2 * allowed


def test_factors_of_two_dtypes_are_multiplied_as_float32() -> None:
    """Rounded to the other's dtype, one of them would lose its value."""
    for coarse in (torch.bfloat16, torch.float16):
        a, b = torch.full((2, 1), 1 + 2.0**-20), torch.full((1, 8), 1.5)
        assert torch.equal(matmul_topk(a, b.to(coarse), 3).values, (a @ b)[:, :3])
    a, b = torch.full((2, 1), 2.0**100), torch.full((1, 8), 1 + 2.0**-10)
    assert torch.equal(matmul_topk(a.bfloat16(), b.half(), 3).values, (a @ b)[:, :3])


def test_topk_ties(rng: torch.Generator) -> None:
    a, b = (torch.randint(-1, 2, shape, generator=rng).float() for shape in ((17, 3), (3, 140)))
    for largest in (True, False):
        found, wanted = matmul_topk(a, b, 9, largest=largest), reference.matmul_topk(a, b, 9, largest=largest)
        assert torch.equal(found.indices, wanted[1])
        assert torch.equal(found.values, wanted[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes(dtype: torch.dtype, rng: torch.Generator) -> None:
    n, d, m, k = 3, 67, 130, 7
    acts, W_enc, b_enc = (torch.randn(*shape, generator=rng).to(dtype) for shape in ((n, d), (d, m), (m,)))
    scale = (0.5 + torch.rand(m, generator=rng)).to(dtype)
    found = sae_encode_topk(acts, W_enc, b_enc, k, scale=scale)
    exact, _ = reference.sae_encode_topk(acts.double(), W_enc.double(), b_enc.double(), k, scale=scale.double())
    plain, places = reference.sae_encode_topk(acts, W_enc, b_enc, k, scale=scale)
    assert float((found.values - exact).abs().max()) <= 2 * float((plain - exact).abs().max()) + 1e-6
    assert torch.equal(found.indices, places)


def test_codes_with_ties_and_empty_places(rng: torch.Generator) -> None:
    acts, W_enc = (torch.randint(-1, 2, shape, generator=rng).float() for shape in ((9, 3), (3, 140)))
    b_enc, scale = (torch.randint(low, 3, (140,), generator=rng).float() for low in (-40, 0))
    for scales in (None, scale):
        found = sae_encode_topk(acts, W_enc, b_enc, 14, scale=scales)
        wanted = reference.sae_encode_topk(acts, W_enc, b_enc, 14, scale=scales)
        assert torch.equal(found.indices, wanted[1])
        assert torch.equal(found.values, wanted[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (5, 3, 4, 300), (0, 2, 4, 5), (3, 2, 40, 0)])
def test_decoding(shape: tuple[int, int, int, int], dtype: torch.dtype, rng: torch.Generator) -> None:
    n, k, m, d = shape
    values, W_dec = torch.randn(n, k, generator=rng), torch.randn(d, m, generator=rng).to(dtype).T
    indices, upstream = torch.randint(m, (n, k), generator=rng), torch.randn(n, d, generator=rng)

    def run(decode: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in given]
        with torch.enable_grad():
            sums = decode(leaves[0], indices, leaves[1])
            sums.backward(upstream.to(sums.dtype))
        return [sums.detach(), *(leaf.grad for leaf in leaves)]

    errs_at_most_twice_as_torch(
        run(sparse_decode, values, W_dec),
        run(reference.sparse_decode, values, W_dec),
        run(reference.sparse_decode, values.double(), W_dec.double()),
    )


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_codes(dtype: torch.dtype, scaled: bool, rng: torch.Generator) -> None:
    drawn = [torch.randn(*shape, generator=rng).to(dtype) for shape in ((9, 6), (6, 40), (40,))]
    given = [*drawn, (0.5 + torch.rand(40, generator=rng)).to(dtype)] if scaled else drawn
    upstream = torch.randn(9, 5, generator=rng)

    def run(encode: Callable[..., tuple[Tensor, Tensor]], *given: Tensor) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in given]
        with torch.enable_grad():
            values, _ = encode(*leaves[:3], 5, scale=leaves[3] if scaled else None)
            values.backward(upstream.to(values.dtype))
        return [leaf.grad for leaf in leaves]

    errs_at_most_twice_as_torch(
        run(sae_encode_topk, *given),
        run(reference.sae_encode_topk, *given),
        run(reference.sae_encode_topk, *(x.double() for x in given)),
    )
