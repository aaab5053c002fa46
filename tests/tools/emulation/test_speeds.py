import pytest

from llmpq_jax.errors import ClusterError
from tests.tools.emulation.conftest import HERE, MIB


def test_a_node_may_hold_its_devices_memory_and_its_programs(speeds, read):
    emulation = read(speeds)
    assert emulation.memory_bytes("slow") == (64 + 256) * MIB
    assert emulation.node("fast").speed == 0.75
    assert emulation.speeds.period_s == 0.01


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"slow"', '"other"', r"nodes are \['fast', 'other'\]: expected those of"),
        ("0.25", "0.3", "1.05 of its speed together: expected at most 1"),
        ("0.25", "0", "speed: found 0"),
        ("0.25", "1.5", "speed: found 1.5"),
        (f"processor = {HERE}", "processor = 4096", "on processor 4096: expected one"),
        ("[[node]]", "period_s = 2\n[[node]]", "period_s: found 2"),
        ("256 MiB", "lots", "'lots' is not a size"),
        ("speed =", "spede =", "spede: unknown key"),
    ],
)
def test_a_file_that_cannot_be_kept_is_one_line(speeds, read, old, new, message):
    text = speeds.read_text()
    assert old in text
    speeds.write_text(text.replace(old, new, 1))
    with pytest.raises(ClusterError, match=message) as raised:
        read(speeds)
    assert str(speeds) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_cluster_file_is_named(speeds, read):
    (speeds.parent / "cluster.toml").unlink()
    with pytest.raises(ClusterError, match=r"cluster\.toml: cannot be read"):
        read(speeds)


def test_a_node_that_is_not_there_is_named(speeds, read):
    with pytest.raises(ClusterError, match=r"no node 'x' .* \['fast', 'slow'\]"):
        read(speeds).node("x")
