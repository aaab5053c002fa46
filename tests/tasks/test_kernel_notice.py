from __future__ import annotations

import pytest

from llmpq_jax.tasks import kernel_notice as kernels
from llmpq_jax.tasks.kernel_notice import note_missing_kernels


@pytest.mark.parametrize(
    ("path", "names", "is_noted"),
    [
        ("xla", ["node0/cuda:0", "node0/cpu:0"], True),
        ("xla", ["node0/cuda:0"], False),
        ("native-avx2", ["node0/cpu:0"], False),
        ("xla", ["what is this"], False),
    ],
)
def test_a_cpu_without_kernels_is_noted(monkeypatch, capsys, path, names, is_noted):
    monkeypatch.setattr(kernels, "kernel_path", lambda _: path)
    note_missing_kernels(iter(names))
    assert ("without its native CPU kernels" in capsys.readouterr().err) == is_noted
