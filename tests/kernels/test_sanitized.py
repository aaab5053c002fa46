"""The native kernels under address and undefined-behaviour sanitizers."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

import llmpq_jax
from llmpq_jax.kernels import kernel_path
from llmpq_jax.kernels.native import KERNELS

COMPILER = shutil.which("g++") or shutil.which("clang++") or ""
NATIVE = Path(llmpq_jax.__file__).parent / "kernels" / "native"
FUZZ = Path(__file__).with_name("fuzz_kernels.cc")
FLAGS = (
    *("-std=c++17", "-O1", "-g", "-fsanitize=address,undefined"),
    *("-fno-sanitize-recover=all", f"-I{NATIVE}"),
)


@pytest.mark.full
@pytest.mark.skipif(
    not COMPILER or kernel_path("cpu") == "xla", reason="there is no C++ compiler"
)
def test_no_kernel_leaves_its_arrays(tmp_path):
    is_x86 = platform.machine() == "x86_64"
    has_amx = is_x86 and platform.system() == "Linux"
    flags = (*FLAGS, "-DLLMPQ_FOR_X86") if is_x86 else FLAGS
    flags = (*flags, "-DLLMPQ_FOR_AMX") if has_amx else flags
    sources: dict[Path, tuple[str, ...]] = {
        FUZZ: (),
        NATIVE / "choice.cc": (),
        NATIVE / "kernels_portable.cc": (),
    }
    if is_x86:
        sources[NATIVE / "kernels_avx2.cc"] = ("-mavx2", "-mfma")
        avx512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma")
        sources[NATIVE / "kernels_avx512.cc"] = avx512
        sources[NATIVE / "few_rows.cc"] = (*avx512, "-mavx512vnni")
        bfloat16 = (*avx512, "-mavx512bf16")
        sources[NATIVE / "kernels_avx512bf16.cc"] = bfloat16
        if has_amx:
            amx = (*bfloat16, "-mamx-tile", "-mamx-bf16")
            sources[NATIVE / "kernels_amx.cc"] = amx
    objects = []
    for source, own_flags in sources.items():
        objects.append(tmp_path / f"{source.stem}.o")
        command = [COMPILER, *flags, *own_flags, "-c", source, "-o", objects[-1]]
        subprocess.run(command, check=True)
    program = tmp_path / "fuzz_kernels"
    subprocess.run([COMPILER, *flags, *objects, "-o", program], check=True)
    count = 20 * settings().max_examples
    run = subprocess.run(
        [program, str(count), "20261123"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    served = kernel_path("cpu").removeprefix("native-")
    for name in KERNELS[: KERNELS.index(served) + 1]:
        assert f"{name}: {count} products and mixes agree" in run.stdout
