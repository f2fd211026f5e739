"""How the training images are dealt out to the clients, one file each. `base` is the contract."""

from simulations.data.partitions.base import Indices, Partition
from simulations.data.partitions.by_writer import ByWriter
from simulations.data.partitions.dirichlet import Dirichlet
from simulations.data.partitions.iid import IID
from simulations.data.partitions.pathological import Pathological
from simulations.data.partitions.quantity_skew import QuantitySkew
from simulations.data.partitions.shards import Shards

PARTITIONS: dict[str, type[Partition]] = {
    "iid": IID,
    "dirichlet": Dirichlet,
    "shards": Shards,
    "pathological": Pathological,
    "quantity-skew": QuantitySkew,
    "by-writer": ByWriter,
}
"""Partitions by the name that a scenario gives."""

__all__ = [
    "IID",
    "PARTITIONS",
    "ByWriter",
    "Dirichlet",
    "Indices",
    "Partition",
    "Pathological",
    "QuantitySkew",
    "Shards",
]
