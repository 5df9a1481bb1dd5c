"""The campaign of faults: hostile files, kills, stops, broken disks and flipped bits."""

import os

NUM_FAULTS = int(os.environ.get("VTL_FAULTS", "500"))
"""Damaged files given to the readers; the whole campaign has 10,000."""
