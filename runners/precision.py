"""Where and in which precision models are trained."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

# Measured with a student of 3 layers, 192 wide, at batches of 32: bfloat16 is 15 to 20 % slower at 12 word pieces,
# 14 % faster at 40.
LONG_INPUT = 24


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


def autocast(device: torch.device, student_length: float | None = None) -> AbstractContextManager[object]:
    """bfloat16 where it is fast, else a context that changes nothing. Parameters stay float32 in both.

    Args:
        device: where the products run.
        student_length: mean length of a student's inputs. On a CPU the products of a student are so small that
            converting their operands only pays from `LONG_INPUT` word pieces on.
    """
    short = student_length is not None and student_length < LONG_INPUT and device.type == "cpu"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=not short and has_fast_bfloat16(device))
