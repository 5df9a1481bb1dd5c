"""Which photos a machine of a farm computes the features of, without a word to the others.

A shard is a range of whole batches of every split. So its batches are those of a run that computes
all of them, none is padded but the last, and shards are joined by writing one after the other.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vtl.data.split import Split
from vtl.errors import UserError
from vtl.untrusted import printable

INDEX_VARIABLES = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX")
"""Where Slurm's job arrays and Kubernetes' indexed jobs say which of them a process is."""

DIRECTORY = re.compile(r"shard_\d+_of_\d+")

_SPELLING = re.compile(r"(auto|\d{1,6})/(\d{1,6})")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` shards, by its index from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """What its directory below --workdir is called."""
        return f"shard_{self.index}_of_{self.count}"

    def begun(self, workdir: Path) -> Path:
        """Its directory below `workdir`, or that of another shard if only others are begun."""
        own = workdir / self.name
        others = sorted(workdir.glob(f"shard_*_of_{self.count}"))
        return next((path for path in (own, *others) if (path / "config.json").exists()), own)

    def rows(self, num_photos: int, batch_size: int) -> range:
        """Its rows of a split: none, if the split has fewer batches than there are shards."""
        num_batches = -(-num_photos // batch_size)
        first, end = (num_batches * i // self.count for i in (self.index, self.index + 1))
        return range(first * batch_size, min(end * batch_size, num_photos))

    def part_of(self, splits: Mapping[str, Split], batch_size: int) -> dict[str, Split]:
        """Its photos of whole splits, by role."""
        return {
            role: split.rows(np.array(self.rows(len(split), batch_size), np.int64))
            for role, split in splits.items()
        }

    def record(self, splits: Mapping[str, Split], batch_size: int) -> dict[str, Any]:
        """What results.json and the meta of its features say of it: its rows of whole `splits`."""
        rows = {role: self.rows(len(split), batch_size) for role, split in splits.items()}
        return {
            "index": self.index,
            "count": self.count,
            "rows": {role: [its.start, its.stop] for role, its in rows.items()},
            "num_images": {role: len(split) for role, split in splits.items()},
            "ids_sha256": {role: split.ids_sha256 for role, split in splits.items()},
        }


def take(config: ConfigDict) -> Shard | None:
    """The shard that `config.shard` names; None if the run computes all features.

    In the config `auto` becomes the index that the environment says.

    Raises:
        UserError: it names no shard, the environment doesn't say which, or an option needs all.
    """
    if not config.shard:
        return None
    if config.data.duplicates != "warn":
        raise UserError(
            f"data.duplicates={config.data.duplicates} needs all photos, and a shard has its own\n"
            "Leave config.shard empty, or data.duplicates as it is: then nobody looks for them."
        )
    spelled = _SPELLING.fullmatch(config.shard)
    if not spelled:
        raise UserError(
            f"shard is '{printable(config.shard, 40)}': write it as 0/8 to 7/8, as auto/8 in a job "
            "array, or leave it empty for all photos"
        )
    num_shards = int(spelled[2])
    index = _index_here(num_shards) if spelled[1] == "auto" else int(spelled[1])
    if index >= num_shards:
        last = f"the last of {num_shards} is {num_shards - 1}/{num_shards}" if num_shards else ""
        raise UserError(
            f"shard {index}/{num_shards} does not exist: shards count from 0, and "
            f"{last or 'there is at least one'}"
        )
    shard = Shard(index, num_shards)
    with config.unlocked():
        config.shard = str(shard)
    return shard


def _index_here(num_shards: int) -> int:
    """What the environment says.

    It is taken as it is, and not counted from SLURM_ARRAY_TASK_MIN: where only some tasks of an
    array are submitted again, theirs is another.
    """
    for name in INDEX_VARIABLES:
        if written := os.environ.get(name):
            break
    else:
        raise UserError(
            f"shard=auto/{num_shards} is for a job array, and {' and '.join(INDEX_VARIABLES)} are "
            f"not set\nName the shard, as in --config.shard=0/{num_shards}."
        )
    if not re.fullmatch(r"\d{1,9}", written):
        raise UserError(f"{name} is '{printable(written, 40)}' and should be a number")
    if int(written) >= num_shards:
        raise UserError(
            f"{name} is {int(written)}, and the last of {num_shards} shards is {num_shards - 1}\n"
            f"Number the tasks from 0, as in `sbatch --array=0-{max(num_shards - 1, 0)}`."
        )
    return int(written)
