"""Deep features that the machines of a farm computed, joined.

    vtl features merge runs/features -o runs/whole         all shards in that directory
    vtl features merge runs/a runs/b runs/c -o runs/whole  shards, or directories of some

A shard is what `vtl deep_features --config.shard=0/8` leaves in its --workdir, in a directory that
is called shard_0_of_8. The whole is what one run leaves that computes all features: linear_probe
takes its .npz. Nobody looks for photos that splits share.
"""

from vtl import stops

if __name__ == "__main__":
    stops.exit_at_once()  # before the imports below, which take seconds

import argparse
import logging
import sys

from vtl import disks, files
from vtl.errors import UserError
from vtl.features.merge import merge
from vtl.untrusted import printable


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(
        # `vtl features` says so itself.
        prog=sys.argv[0] if sys.argv[0].startswith("vtl ") else "python -m vtl.features",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("merge", help="shards -> a run directory that holds them all")
    command.add_argument("shards", nargs="+", type=files.user_path, metavar="DIR", help="see above")
    command.add_argument(
        "-o", "--workdir", required=True, type=files.user_path, help="the directory of the whole"
    )
    options = parser.parse_args()
    logging.basicConfig(format="vtl: note: %(message)s")
    try:
        with disks.refusals(options.workdir):
            path = merge(options.shards, options.workdir)
            print(f"{printable(path)}: nobody has looked for photos that splits share")
    except UserError as error:
        sys.exit(f"vtl: {error}")


if __name__ == "__main__":
    with stops.in_one_line():
        main()
