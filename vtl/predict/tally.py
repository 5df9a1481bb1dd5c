"""How many photos were predicted, and what was wrong with some."""

import dataclasses

from vtl.untrusted import printable


@dataclasses.dataclass
class Tally:
    """How many photos there were, and what was wrong with some."""

    num_photos: int = 0
    num_broken: int = 0
    first_broken: str = ""
    num_kept: int = 0
    """Of an earlier call."""

    def count(self, file: str, error: str) -> None:
        """Count one photo; `error` is "" if nothing is wrong with it."""
        self.num_photos += 1
        if error:
            self.first_broken = self.first_broken or f"{printable(file)}: {printable(error)}"
            self.num_broken += 1

    def complaint(self) -> str:
        """What was wrong, in a line or two; "" if nothing was."""
        if not self.num_broken:
            return ""
        return (
            f"{self.num_broken:,} of {self.num_photos:,} photos can't be read\n"
            f"The first is {self.first_broken}"
        )
