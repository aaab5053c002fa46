"""Tests that share fixtures run in one process, or each process makes them anew."""

from __future__ import annotations

import pytest


def test_a_module_s_tests_share_a_group(request: pytest.FixtureRequest) -> None:
    """pytest-xdist tells the group at the end of a test's name."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("not run by `--dist=loadgroup`")
    assert request.node.nodeid.endswith("@tests/test_groups.py")
