"""Writes the clusters of the paper's evaluation and plans each from data-sheet figures.

    python -m tools.paper_clusters             # cluster files and plans
    python -m tools.paper_clusters --only 3    # one of them

Each folder strategies/paper-NN has a cluster and its plan; nothing of it was measured.
Memory follows the paper's code: 5 % and 1930 MiB are reserved for the driver and its runtime.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from llmpq_jax.arch.catalogue import read_catalogue
from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from llmpq_jax.schema.record_files import write_cluster
from llmpq_jax.units import MIB

ROOT = Path(__file__).parents[1]
WORKLOAD = ("--batch", "32", "--prompt-length", "512", "--new-tokens", "100")
_ETHERNET_BYTES_PER_S = 12.5e9  # 100 Gb/s
_ETHERNET_LATENCY_S = 30e-6
# In one direction between two GPUs: NVLink where the paper's nodes have it, else PCIe 3.
_INSIDE_BYTES_PER_S = {"A100-40": 250e9, "A100-80": 250e9, "V100-32": 50e9}
_PCIE_BYTES_PER_S = 12e9
_INSIDE_LATENCY_S = 10e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperCluster:
    """One row of the paper's table of clusters.

    Attributes:
        number: Number in the paper's table.
        model: Name of a folder in strategies/models.
        kinds: Kind and number of devices of each node, in the order of the table.
    """

    number: int
    model: str
    kinds: tuple[tuple[str, int], ...]

    @property
    def folder(self) -> Path:
        """Folder of its files."""
        return ROOT / "strategies" / f"paper-{self.number:02d}"


CLUSTERS = (
    PaperCluster(number=1, model="opt-13b", kinds=(("V100-32", 1),)),
    PaperCluster(number=2, model="opt-13b", kinds=(("A100-40", 1),)),
    PaperCluster(number=3, model="opt-30b", kinds=(("T4", 3), ("V100-32", 1))),
    PaperCluster(number=4, model="opt-30b", kinds=(("P100-12", 3), ("V100-32", 1))),
    PaperCluster(number=5, model="opt-66b", kinds=(("T4", 4), ("V100-32", 2))),
    PaperCluster(number=6, model="opt-66b", kinds=(("V100-32", 2), ("A100-40", 2))),
    PaperCluster(number=7, model="bloom-176b", kinds=(("V100-32", 4), ("A100-40", 4))),
    PaperCluster(number=8, model="bloom-176b", kinds=(("V100-32", 4), ("A100-80", 2))),
    PaperCluster(number=9, model="opt-30b", kinds=(("T4", 4),)),
    PaperCluster(number=10, model="opt-66b", kinds=(("V100-32", 4),)),
    PaperCluster(number=11, model="bloom-176b", kinds=(("A100-80", 4),)),
)


def make_cluster(name: str, kinds: tuple[tuple[str, int], ...]) -> Cluster:
    """Makes a cluster of one node per kind, joined by Ethernet."""
    catalogue = read_catalogue()
    nodes: list[Node] = []
    links: list[Link] = []
    for kind, count in kinds:
        figures = catalogue.find(kind)
        devices = tuple(
            Device(
                name=f"cuda:{number}",
                kind=kind,
                platform=figures.platform,
                memory_bytes=figures.memory_bytes,
                reserve_bytes=figures.memory_bytes // 20 + 1930 * MIB,
            )
            for number in range(count)
        )
        node = Node(name=kind.lower(), devices=devices)
        if count > 1:
            links.append(
                Link(
                    between=(node.name, node.name),
                    bandwidth_bytes_per_s=_INSIDE_BYTES_PER_S.get(
                        kind, _PCIE_BYTES_PER_S
                    ),
                    latency_s=_INSIDE_LATENCY_S,
                )
            )
        links.extend(
            Link(
                between=(other.name, node.name),
                bandwidth_bytes_per_s=_ETHERNET_BYTES_PER_S,
                latency_s=_ETHERNET_LATENCY_S,
            )
            for other in nodes
        )
        nodes.append(node)
    return Cluster(name=name, nodes=tuple(nodes), links=tuple(links))


def solve_words(cluster: PaperCluster, out: Path, *, gap: float) -> list[str]:
    """Returns the command that plans a cluster, from the repository's root."""
    folder = cluster.folder.relative_to(ROOT)
    return [
        *("solve", "--model", f"strategies/models/{cluster.model}"),
        *("--cluster", str(folder / "cluster.toml"), "--roofline", *WORKLOAD),
        *("--gap", str(gap), "--out", str(out)),
    ]


@click.command()
@click.option("--only", type=int, multiple=True, help="Numbers of clusters.")
@click.option("--gap", type=float, default=1e-4, show_default=True)
def main(only: tuple[int, ...], gap: float) -> None:
    """Write cluster files and plans."""
    for cluster in CLUSTERS:
        if only and cluster.number not in only:
            continue
        what = " + ".join(f"{count}x{kind}" for kind, count in cluster.kinds)
        name = f"cluster {cluster.number} of the paper: {what}"
        cluster.folder.mkdir(parents=True, exist_ok=True)
        write_cluster(
            cluster.folder / "cluster.toml", make_cluster(name, cluster.kinds)
        )
        out = cluster.folder.relative_to(ROOT) / "strategy.toml"
        words = solve_words(cluster, out, gap=gap)
        subprocess.run(
            [sys.executable, "-m", "llmpq_jax", *words], check=True, cwd=ROOT
        )


if __name__ == "__main__":
    main()
