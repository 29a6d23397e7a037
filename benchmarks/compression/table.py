"""The table of weight schemes of one model, as ``workbench bench compression`` prints it, kept in results/.

Regime: size, quality and calibration are exact for the model and text named; speeds are ratios of runs that
alternate with the untouched model's (64 greedy tokens from a short prompt, both loaded, two threads), median
and quartiles. The machine's name is in the file. Calibration seconds are those of one thread.

    python benchmarks/compression/table.py [MODEL] [--methods A,B] [--name bundled]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workbench.cli import run_command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="")
    parser.add_argument("--methods", default="")
    parser.add_argument("--name", default="bundled", help="of the file in results/")
    args = parser.parse_args()
    out = Path(__file__).parent / "results" / f"table_{args.name}.json"
    return run_command(["bench", "compression", *([args.model] if args.model else []), "--rounds", "7",
                        *(["--methods", args.methods] if args.methods else []), "--out", str(out)])


if __name__ == "__main__":
    sys.exit(main())
