"""Let the disk run full at many points of a training, then make room and resume it.

    python tests/soak/disk_full.py --points 24

The work dir lies on a small tmpfs, so it needs the right to mount one. At each point the disk has room for a little
more than at the one before, from nothing to all that the training writes: config, log, scalars, periodic and best
checkpoints. Each time the training must end with one message, and leave only whole checkpoints and nothing unfinished
under another name. With room it must resume, and end with the weights of the undisturbed run, bit by bit.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kill_soak import Soak, compare, newest_whole, read, wait


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/soak/disk_full"))
    args = parser.parse_args()
    soak = Soak(args.out.absolute(), 1)
    soak.prepare()
    size = 3 * sum(p.stat().st_size for p in (soak.out / "whole").rglob("*") if p.is_file())
    disk = soak.out / "disk"
    faults, full = [], 0
    for point in range(args.points):
        # Half of the points lie in the first 64 KiB, where config and logs begin.
        half = args.points // 2
        room = (1 << 16) * point // half if point < half else size * (point - half) // (3 * (args.points - half))
        for log in soak.out.glob("output*.txt"):
            log.unlink()
        disk.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
        try:
            found, was_full = fill_and_resume(soak, disk, room)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        full += was_full
        faults += [f"room for {room} bytes: {fault}" for fault in found]
        print(f"{point + 1} of {args.points} points; the disk was full at {full}; {len(faults)} faults", flush=True)
    if faults:
        sys.exit("\n".join(faults))


def fill_and_resume(soak: Soak, disk: Path, room: int) -> tuple[list[str], bool]:
    """Train with so much room, then with enough; returns what went wrong, and whether the disk ran full."""
    faults = []
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.truncate()
        free = shutil.disk_usage(disk).free
        file.write(bytes(max(free - room, 0)))
    work = disk / "run"
    (code,) = wait(*soak.begin(work))
    said = read(soak.out / "output0.txt")
    if code != 0 and "\nerror: " not in said:
        faults.append(f"ended with {code} and without a message: {said[-500:]}")
    if left := [*work.glob(".*.partial")]:
        faults.append(f"left over: {left}")
    for path in work.glob("*.pth"):
        if path.name.startswith("iter_") and f"iter_{newest_whole(work)}.pth" != path.name:
            faults.append(f"{path.name} is torn")
    filler.unlink()
    if code == 0:
        return faults, False
    (code,) = wait(*soak.begin(work))
    faults += [f"exit code {code} with room"] if code else compare(soak.out / "whole", work)
    return faults, True


if __name__ == "__main__":
    main()
