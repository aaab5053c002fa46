"""Seconds of a transfer: the cluster file first, then measurements, then a clear error."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.costmodel.links import transfer_s
from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.measurements import LinkTime
from llmpq_jax.schema.record_files import cluster_text, read_cluster
from tests.costmodel.records import measurements, two_nodes


def link_time(source, target, num_bytes, seconds, nodes=(None, None)):
    return LinkTime(
        source_kind=source,
        target_kind=target,
        source_node=nodes[0],
        target_node=nodes[1],
        num_bytes=num_bytes,
        seconds=seconds,
        spread=0.0,
    )


MEASURED = measurements(
    link_time("fast", "slow", 100, 1.0 + 0.1),
    link_time("fast", "slow", 1000, 1.0 + 1.0),
)


def seconds(cluster, source, target, num_bytes, measured=MEASURED):
    return transfer_s(
        cluster,
        measured,
        source=cluster.find(source),
        target=cluster.find(target),
        num_bytes=num_bytes,
    )


def test_a_link_in_the_cluster_file_comes_first():
    cluster = two_nodes((("a", "b"), 1000.0, 0.5))
    assert seconds(cluster, "a/cpu:0", "b/cpu:0", 2000) == 0.5 + 2.0
    assert seconds(cluster, "b/cpu:0", "a/cpu:0", 2000) == 0.5 + 2.0


def test_a_link_of_a_node_with_itself_joins_its_devices_only():
    cluster = two_nodes((("a", "a"), 1000.0, 0.0))
    assert seconds(cluster, "a/cpu:0", "a/cpu:1", 500) == 0.5
    assert seconds(cluster, "a/cpu:0", "b/cpu:0", 100) == 1.1


def test_measured_transfers_are_used_for_their_kinds():
    assert seconds(two_nodes(), "a/cpu:0", "a/cpu:1", 100) == 1.1
    assert seconds(two_nodes(), "a/cpu:0", "b/cpu:0", 500) == pytest.approx(1.5)
    assert seconds(two_nodes(), "a/cpu:0", "b/cpu:0", 5000) == pytest.approx(6.0)


def test_the_opposite_direction_is_used_if_only_it_was_measured():
    assert seconds(two_nodes(), "a/cpu:1", "a/cpu:0", 1000) == 2.0


def test_transfers_between_the_same_nodes_come_before_those_of_the_same_kinds():
    apart = link_time("fast", "slow", 100, 7.0, ("a", "b"))
    known = measurements(*MEASURED.links, apart)
    assert seconds(two_nodes(), "a/cpu:0", "b/cpu:0", 100, known) == 7.0
    assert seconds(two_nodes(), "b/cpu:0", "a/cpu:0", 100, known) == 7.0
    assert seconds(two_nodes(), "a/cpu:0", "a/cpu:1", 100, known) == 1.1
    opposite = link_time("slow", "fast", 100, 9.0, ("b", "a"))
    known = measurements(*known.links, opposite)
    assert seconds(two_nodes(), "a/cpu:0", "b/cpu:0", 100, known) == 7.0
    assert seconds(two_nodes(), "b/cpu:0", "a/cpu:0", 100, known) == 9.0
    with_link = two_nodes((("a", "b"), 1000.0, 0.5))
    assert seconds(with_link, "a/cpu:0", "b/cpu:0", 500, known) == 1.0


@pytest.mark.parametrize("links", [(), ((("a", "a"), 1000.0, 0.5),)])
def test_an_unknown_pair_is_refused_with_both_remedies(links, tmp_path):
    cluster = two_nodes(*links)
    with pytest.raises(MeasurementError) as refused:
        seconds(cluster, "a/cpu:1", "b/cpu:0", 100, measurements())
    message = str(refused.value)
    assert message.startswith("no link between a/cpu:1 (slow) and b/cpu:0 (")
    assert "measure it with `llmpq-jax profile --between-nodes`, or write" in message
    assert ("in place of its links" in message) == bool(links)
    # The line completes the file that lacks it.
    line = message.partition("with your own numbers: ")[2]
    path = tmp_path / "cluster.toml"
    path.write_text(f"{line}\n{cluster_text(replace(cluster, links=()))}")
    mended = read_cluster(path)
    assert mended.links[: len(links)] == cluster.links
    for source in mended.node_devices:
        for target in mended.node_devices:
            if source.name != target.name:
                assert seconds(mended, source.name, target.name, 100, measurements())


def test_a_measured_pair_is_not_in_the_line():
    with pytest.raises(MeasurementError, match=r"link = \[\{between") as refused:
        seconds(two_nodes(), "a/cpu:1", "b/cpu:0", 100)
    assert str(refused.value).count("between = ") == 1
