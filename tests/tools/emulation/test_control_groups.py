"""What is written where, on file trees that look like the kernel's."""

import os

import pytest

from tools.emulation.control_groups import (
    Group,
    end_groups,
    end_left_over,
    find_hierarchies,
    make_group,
)


class Machine:
    """A root folder with /proc/self and control groups."""

    def __init__(self, root, *, groups, mounts):
        self.proc = root / "proc"
        self.proc.mkdir()
        (self.proc / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        lines = []
        for number, (kind, name, options) in enumerate(mounts):
            mount = root / name
            mount.mkdir()
            lines.append(
                f"{number} 1 0:2 / {mount} rw shared:1 - {kind} {kind} {options}\n"
            )
        (self.proc / "mountinfo").write_text("".join(lines))

    def find(self, **options):
        return find_hierarchies(proc=self.proc, **options)


@pytest.fixture
def version_1(tmp_path):
    return Machine(
        tmp_path,
        groups=["2:memory:/session", "1:cpu,cpuacct:/", "0::/"],
        mounts=[
            ("tmpfs", "tmp", "rw"),
            ("cgroup", "cpu", "rw,cpu,cpuacct"),
            ("cgroup", "memory", "rw,memory"),
            ("cgroup2", "unified", "rw"),
        ],
    )


@pytest.fixture
def version_2(tmp_path):
    machine = Machine(
        tmp_path, groups=["0::/"], mounts=[("cgroup2", "unified", "rw,nsdelegate")]
    )
    (tmp_path / "unified" / "cgroup.controllers").write_text("cpuset cpu io memory")
    return machine


def test_groups_are_made_in_the_root_alone_unless_another_is_named(version_1, tmp_path):
    assert list(version_1.find()) == ["cpu"]
    (tmp_path / "cpu" / "session").mkdir()
    (tmp_path / "memory" / "session").mkdir()
    found = version_1.find(within="/session")
    assert found["memory"].parent == tmp_path / "memory" / "session"
    assert found["cpu"].parent == tmp_path / "cpu" / "session"
    assert version_1.find(within="/nowhere") == {}


def test_version_1_has_a_quota_of_each_period(version_1):
    group = make_group(version_1.find()["cpu"], 17, "slow")
    group.limit_speed(0.25, 0.01)
    assert (group.path / "cpu.cfs_period_us").read_text() == "10000\n"
    assert (group.path / "cpu.cfs_quota_us").read_text() == "2500\n"
    assert group.path.parts[-3:] == ("cpu", "llmpq-jax-nodes-17", "slow")


def test_version_2_enables_controllers_down_to_the_node(version_2, tmp_path):
    hierarchies = version_2.find()
    assert hierarchies["cpu"] == hierarchies["memory"]
    assert hierarchies["cpu"].version == 2
    handed = tmp_path / "unified" / "cgroup.subtree_control"
    handed.write_text("cpu")
    group = make_group(hierarchies["cpu"], 17, "slow")
    assert handed.read_text() == "+memory\n"
    assert (group.path.parent / "cgroup.subtree_control").exists()
    group.limit_speed(0.5, 0.02)
    group.limit_memory(1 << 30)
    assert (group.path / "cpu.max").read_text() == "10000 20000\n"
    assert (group.path / "memory.max").read_text() == f"{1 << 30}\n"
    assert not (group.path / "memory.swap.max").exists()


def test_nothing_is_swapped_out_where_it_could_be(version_2, version_1_group):
    group = make_group(version_2.find()["memory"], 17, "slow")
    (group.path / "memory.swap.max").write_text("max")
    group.limit_memory(5)
    assert (group.path / "memory.swap.max").read_text() == "0\n"
    (version_1_group.path / "memory.memsw.limit_in_bytes").write_text("9")
    version_1_group.limit_memory(5)
    assert (version_1_group.path / "memory.memsw.limit_in_bytes").read_text() == "5\n"


@pytest.fixture
def version_1_group(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    machine = Machine(
        folder, groups=["2:memory:/"], mounts=[("cgroup", "memory", "rw,memory")]
    )
    return make_group(machine.find()["memory"], 17, "slow")


def test_ended_groups_are_removed_with_their_parent(version_1, tmp_path):
    groups = [make_group(version_1.find()["cpu"], 17, name) for name in ("a", "b")]
    end_groups(groups)
    assert list((tmp_path / "cpu").iterdir()) == []


def test_groups_left_over_are_removed_and_those_of_living_owners_stay(
    version_1, tmp_path
):
    hierarchy = version_1.find()["cpu"]
    ended = 1 << 30  # more than any process id
    for owner in (ended, os.getpid()):
        make_group(hierarchy, owner, "a")
    assert end_left_over([hierarchy]) == [ended]
    (left,) = (tmp_path / "cpu").iterdir()
    assert left.name == f"llmpq-jax-nodes-{os.getpid()}"


def test_a_removed_group_has_no_processes(version_1):
    group = make_group(version_1.find()["cpu"], 17, "a")
    (group.path / "cgroup.procs").write_text("12\n7\n")
    assert group.processes() == [12, 7]
    (group.path / "cgroup.procs").unlink()
    assert Group(hierarchy=group.hierarchy, path=group.path).processes() == []
