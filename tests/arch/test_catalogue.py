"""The catalogue is complete, and an unknown kind is refused with the known ones."""

from __future__ import annotations

import re

import pytest

from llmpq_jax.arch.catalogue import read_catalogue
from llmpq_jax.errors import ClusterError


def test_kinds_occur_once_and_have_a_source():
    kinds = read_catalogue().kinds
    names = [kind.name for kind in kinds]
    assert len(set(names)) == len(names) >= 15
    assert all(re.search(r"\d", kind.source) for kind in kinds)
    assert {"P100-12", "T4", "V100-16", "MI300X", "EPYC-9654"} <= set(names)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ClusterError, match=r"no device of kind 'TPU'.*H100.*profile"):
        read_catalogue().find("TPU")
