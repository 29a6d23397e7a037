"""The process that restores a GPU's power limit or clocks when the one that changed them is gone.

    python -m workbench.telemetry.power_guard DEVICE power|clock MILLIWATTS

It waits for its standard input to end. The word ``restored`` means that there is nothing to do; an end
without it means that the other process was killed.
"""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """0: nothing to do, or restored; 1: could not restore (said on stderr)."""
    device, kind, milliwatts = int(arguments[0]), arguments[1], int(arguments[2])
    if b"restored" in sys.stdin.buffer.read():
        return 0
    from workbench.telemetry.power_limits import NotPermitted, Range, undo

    try:
        import pynvml

        pynvml.nvmlInit()
        undo(pynvml, Range(device, "", milliwatts / 1000 or None, None, None, None), kind)
    except NotPermitted as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"error: NVML does not answer ({error}); restore gpu{device} by hand", file=sys.stderr)
        return 1
    print(f"gpu{device}: {kind} restored after the sweep's process ended", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
