"""The GPU that torch can use, and the precision that a device computes in fastest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# NVIDIA's Turing cards without tensor cores: GTX 16, MX450 and MX550, T500 to T2000, CMP 30HX.
NO_TENSOR_CORES = re.compile(r"\b(16[3-6]0|MX[45]50|T5[05]0|T600|T1000|T1200|T2000|30HX)\b")


def usable_gpu() -> bool:
    """Whether torch finds a GPU and was built for it; with another one, the first kernel fails.

    Code for sm_86 runs on 8.6 and later 8.x; the driver compiles that for compute_90 on 9.0 and everything later.
    """
    if not torch.cuda.is_available() or torch.version.hip:
        return torch.cuda.is_available()
    capability = torch.cuda.get_device_capability()
    names = re.findall(r"(sm|compute)_(\d+)(\d)\b", " ".join(torch.cuda.get_arch_list()))
    built = [(kind, (int(major), int(minor))) for kind, major, minor in names]
    return any(code <= capability and (kind == "compute" or code[0] == capability[0]) for kind, code in built)


def best_precision(gpu: bool) -> str:
    """Accelerate's name of the fastest precision of the first GPU, or of the CPU: bf16, fp16, or no for fp32."""
    if not gpu:
        return "bf16" if cpu_has_bf16() else "no"
    if torch.version.hip:
        return amd_precision(torch.cuda.get_device_properties(0).gcnArchName)
    return nvidia_precision(torch.cuda.get_device_capability(), torch.cuda.get_device_name())


def amd_precision(architecture: str) -> str:
    """The fastest precision of an AMD GPU by its gcnArchName, such as gfx90a:sramecc+:xnack-.

    MI100 (gfx908) and RDNA 3 (gfx11) are the first of their lines with matrix products in bf16.
    """
    return "fp16" if re.match(r"gfx(8|90[0-79c]|10)", architecture) else "bf16"


def nvidia_precision(capability: tuple[int, int], name: str) -> str:
    """The fastest precision of an NVIDIA GPU, by its compute capability and name. Before Ampere (8.0) bf16 is emulated,
    though torch counts it as supported; Volta and Turing (7.x) are fast in fp16, except for cards without tensor cores,
    whose fp16 also gives NaN in places; older ones are slower in fp16 than in fp32."""
    if capability >= (8, 0):
        return "bf16"
    return "fp16" if capability >= (7, 0) and not NO_TENSOR_CORES.search(name) else "no"


def cpu_has_bf16() -> bool:
    """Whether the CPU has AVX512's bf16 instructions; without them it emulates bf16, slower than fp32."""
    # torch 2.4 has no get_capabilities.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16"))


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Set torch's precision of fp32 matrix products, and restore the process's setting afterwards.

    "highest" is fp32; "high" lets GPUs round to TF32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
