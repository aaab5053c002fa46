"""Real processes inside real limits, by whatever this machine offers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmpq_jax.errors import ClusterError, MeasurementError
from tests.tools.emulation.conftest import HERE
from tools.emulation.achieved import (
    Achieved,
    check_achieved,
    measure_achieved,
    measure_alone,
)
from tools.emulation.control_groups import find_hierarchies
from tools.emulation.duty_cycle import family
from tools.emulation.nodes import EmulatedNodes

LIMITERS = ["duty cycle"]
if "cpu" in find_hierarchies():
    LIMITERS.append("control groups")

CHILD = """
import subprocess, sys, os
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, os.sched_getaffinity(0), flush=True)
child.wait()
"""


@pytest.mark.parametrize("limiter", LIMITERS)
def test_what_a_node_runs_is_on_its_processor_and_ends_with_it(speeds, read, limiter):
    with EmulatedNodes(read(speeds), limiter=limiter) as nodes:
        assert nodes.speed_limiter == limiter
        process = nodes.start(
            "slow", [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True
        )
        pid, child, where = first_line(process).split(maxsplit=2)
        assert int(pid) == process.pid
        assert where.strip() == f"{{{HERE}}}"
        assert is_there(int(child))
    assert process.poll() is not None
    deadline_s = time.monotonic() + 10
    while is_there(int(child)) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not is_there(int(child))
    process.communicate()
    for hierarchy in find_hierarchies().values():
        assert not list(hierarchy.parent.glob(f"llmpq-jax-nodes-{os.getpid()}"))


@pytest.mark.parametrize("limiter", LIMITERS)
def test_a_process_that_ignores_sigterm_is_killed(speeds, read, limiter, monkeypatch):
    monkeypatch.setattr("tools.emulation.ending.PATIENCE_S", 0.2)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with EmulatedNodes(read(speeds), limiter=limiter) as nodes:
        process = nodes.start(
            "slow", [sys.executable, "-c", deaf], stdout=subprocess.PIPE
        )
        first_line(process)
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def test_without_groups_the_memory_of_each_process_is_limited(speeds, read):
    with EmulatedNodes(read(speeds), limiter="duty cycle") as nodes:
        hungry = "import numpy; numpy.ones(320 << 20, numpy.uint8)"
        process = nodes.start(
            "slow", [sys.executable, "-c", hungry], stderr=subprocess.PIPE, text=True
        )
        _, complaint = process.communicate()
    assert process.returncode == 1
    assert "Unable to allocate 320. MiB" in complaint


@pytest.mark.parametrize("limiter", LIMITERS)
def test_every_node_is_compared_with_its_processor_alone(speeds, read, limiter):
    emulation = read(speeds)
    alone = measure_alone(emulation.speeds, seconds=0.1)
    assert set(alone) == {HERE}
    with EmulatedNodes(emulation, limiter=limiter) as nodes:
        fast, slow = measure_achieved(nodes, alone, seconds=0.4)
    assert (fast.name, slow.name) == ("fast", "slow")
    for node in (fast, slow):
        assert 0 < node.processor_share <= 1.01  # two clocks, read one after the other
        assert min(node.speed, node.memory_speed, node.short_speed) > 0


@pytest.mark.skipif(len(LIMITERS) == 1, reason="no control groups can be made here")
def test_limits_are_lifted_for_a_while_and_then_hold_again(speeds, read):
    with EmulatedNodes(read(speeds), limiter="control groups") as nodes:
        (parent,) = {hierarchy.parent for hierarchy in find_hierarchies().values()}
        group = parent / f"llmpq-jax-nodes-{os.getpid()}" / "slow"
        (quota,) = (path for path in group.iterdir() if path.name in QUOTAS)
        before = quota.read_text()
        with nodes.at_full_speed():
            assert quota.read_text().split()[0] == "10000"
        assert quota.read_text() == before
        assert before.split()[0] == "2500"


QUOTAS = ("cpu.cfs_quota_us", "cpu.max")


def achieved(name, asked, speed):
    return Achieved(
        name=name,
        asked=asked,
        processor_share=speed,
        speed=speed,
        memory_speed=speed,
        short_speed=speed,
    )


def test_speeds_that_are_missed_are_not_reported():
    check_achieved([achieved("a", 0.5, 0.46), achieved("b", 0.5, 0.54)])
    with pytest.raises(
        MeasurementError, match=r"more than 10%: b has 0\.440 instead of 0\.5: end"
    ):
        check_achieved([achieved("a", 0.5, 0.5), achieved("b", 0.5, 0.44)])


def test_a_command_that_is_not_there_is_named(speeds, read):
    with EmulatedNodes(read(speeds)) as nodes:
        process = nodes.start(
            "slow", ["no-such-command"], stderr=subprocess.PIPE, text=True
        )
        _, complaint = process.communicate()
        with pytest.raises(ClusterError, match="no node 'x'"):
            nodes.start("x", ["true"])
    assert process.returncode == 1
    assert complaint == "no-such-command: cannot be run (No such file or directory)\n"


def test_control_groups_that_cannot_be_made_are_refused(speeds, read, monkeypatch):
    monkeypatch.setattr("tools.emulation.nodes.find_hierarchies", lambda **_: {})
    with pytest.raises(OSError, match="no control group for processor time"):
        EmulatedNodes(read(speeds), limiter="control groups")


def test_a_family_is_a_process_and_its_descendants():
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True
    )
    pid, child, _ = first_line(process).split(maxsplit=2)
    assert sorted(family(process.pid)) == sorted([int(pid), int(child)])
    for member in family(process.pid):
        os.kill(member, signal.SIGKILL)
    process.communicate()
    assert family(process.pid) == []


def first_line(process):
    assert process.stdout is not None
    return process.stdout.readline()


def is_there(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
        return text.rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
