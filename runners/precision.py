"""Where and in which precision models are trained."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from space.product import bfloat16_products


def training_device() -> torch.device:
    """The CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones.

    On a CPU only with instructions for them (AVX512-BF16, AMX): without, torch computes them the slow way.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    find = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 and later
    found: dict[str, object] = find() if find is not None else {"avx512_bf16": _older_torch_says()}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _older_torch_says() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where it is fast, else a context that changes nothing. Parameters stay float32 in both."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_fast_bfloat16(device))


def student_precision(device: torch.device) -> AbstractContextManager[object]:
    """The same for a student. On a CPU its products alone are in bfloat16 (`space.product` says why)."""
    if device.type == "cpu":
        return bfloat16_products(has_fast_bfloat16(device))
    return autocast(device)
