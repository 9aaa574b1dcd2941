"""Kill a training again and again at random moments, and compare what comes out with an undisturbed one.

    python tests/soak/kill_soak.py --kills 200
    python tests/soak/kill_soak.py --kills 50 --processes 2

It distils a tiny pair for 8 iterations through ``tools/train.py``, with a checkpoint every 3 and a validation after
each epoch, and sends SIGKILL: half of the time at a moment drawn uniformly over the process's life, else while a
checkpoint is written or a validation runs. Each time ``--resume`` must go on at the newest checkpoint that was whole.
A run that reaches its end must have the weights, optimizer, EMA and best checkpoint of the undisturbed run, bit by
bit; then the next one begins. A second call goes on where the first was stopped. The figures are printed, and kept in
OUT.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
sys.path[:0] = [str(HELPERS.parents[1]), str(HELPERS), str(Path(__file__).resolve().parent)]

from forked_tool import start, start_distributed, wait  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from same_bits import assert_equal  # noqa: E402
from tiny_pair import AUGMENTED, TinyPair, write_tiny_pair  # noqa: E402

import rekd_det  # noqa: E402, F401
from rekd_det.utils.atomic import replace_text  # noqa: E402
from rekd_det.utils.read_as_data import load_plain  # noqa: E402

ITERATIONS, INTERVAL = 8, 3
# The tiny set has 8 images: 4 batches for one process, 2 for two.
CONFIG = """
_base_ = ['{pair}']
custom_imports = dict(imports=['rekd_det', 'soak_hooks'], allow_failed_imports=False)
runner_type = 'ReKDRunner'
{augmented}
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6)]
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs={epochs}, val_interval=1)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval={interval}, max_keep_ckpts=1, save_best='auto'))
custom_hooks = [
    dict(type='SoakHook'),
    dict(type='mmrazor.PairCheckHook'),
    dict(type='mmrazor.DistillWarmupHook', iters=6),
    dict(type='EMAHook', momentum=0.1),
]
"""


class Soak:
    """The state of one soak, in its folder."""

    def __init__(self, out: Path, processes: int) -> None:
        self.out, self.processes = out, processes
        self.work, self.state_file = out / "run", out / "state.json"
        self.state = {"kills": Counter(), "finished": 0, "lost": 0, "different": 0, "failures": [], "whole_s": 0.0}
        if self.state_file.is_file():
            self.state = json.loads(self.state_file.read_text())
            self.state["kills"] = Counter(self.state["kills"])

    def save(self) -> None:
        replace_text(self.state_file, json.dumps(self.state, indent=1) + "\n")

    def prepare(self) -> None:
        """Write data, teacher, config, and the undisturbed run."""
        if (self.out / "whole.done").exists():
            return
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        init_default_scope("mmdet")
        pair: TinyPair = write_tiny_pair(self.out)
        epochs = 2 * self.processes
        (self.out / "config.py").write_text(
            CONFIG.format(pair=pair.pair, epochs=epochs, interval=INTERVAL, augmented=AUGMENTED)
        )
        begin = time.monotonic()
        codes = wait(*self.begin(self.out / "whole"))
        if any(codes):
            raise SystemExit(f"the undisturbed run failed with {codes}; see {self.out / 'output0.txt'}")
        self.state["whole_s"] = time.monotonic() - begin
        self.save()
        (self.out / "whole.done").touch()

    def begin(self, work: Path) -> list:
        """Start the training; it resumes where there is something to resume from."""
        arguments = [self.out / "config.py", "--work-dir", work, "--resume"]
        outputs = [self.out / f"output{rank}.txt" for rank in range(self.processes)]
        if self.processes == 1:
            return [start("train.py", arguments, outputs[0], self.out)]
        return start_distributed("train.py", arguments, outputs, [self.out] * self.processes)

    def round(self, chance: random.Random) -> None:
        """Start the training once, and kill it; or let it end, if the moment comes too late."""
        expected = newest_whole(self.work)
        (self.work / "phase").unlink(missing_ok=True)
        starts = len(read_starts(self.work))
        processes = self.begin(self.work)
        phase = self.kill_at_random(processes, chance)
        codes = wait(*processes, seconds=300)
        for begun in read_starts(self.work)[starts:]:
            self.state["lost"] += max(expected - begun, 0)
            if begun != expected:
                self.state["failures"].append(f"went on at iteration {begun} instead of {expected}")
        if phase is not None:
            self.state["kills"][phase] += 1
        elif any(codes):
            self.state["failures"].append(f"exit codes {codes}")
        else:
            self.state["finished"] += 1
            differences = list(compare(self.out / "whole", self.work))
            self.state["different"] += bool(differences)
            self.state["failures"] += differences
            shutil.rmtree(self.work)
        self.save()

    def kill_at_random(self, processes: list, chance: random.Random) -> str | None:
        """SIGKILL; returns the phase that it struck, None if the training had ended by itself."""
        aim = chance.choice(("any", "any", "save", "validation"))
        nth, jitter = chance.randint(1, 2), chance.uniform(0, 0.02 if aim == "save" else 0.2)
        deadline = time.monotonic() + (chance.uniform(0, 1.1 * self.state["whole_s"]) if aim == "any" else 600)
        before = ""
        while time.monotonic() < deadline and all(p.is_alive() for p in processes):
            phase = read(self.work / "phase")
            if phase == aim and before != aim:
                nth -= 1
                if nth == 0:
                    time.sleep(jitter)
                    break
            before = phase
            time.sleep(0.001 if aim == "save" else 0.005)
        if not all(p.is_alive() for p in processes):
            return None
        phase = read(self.work / "phase") or "start"
        for process in chance.sample(processes, len(processes)):
            process.kill()
        return phase

    def report(self) -> str:
        """The figures so far."""
        kills = self.state["kills"]
        told = ", ".join(f"{phase} {count}" for phase, count in sorted(kills.items()))
        return (
            f"{self.processes} process(es): {sum(kills.values())} kills ({told}); "
            f"{self.state['finished']} runs reached their end; "
            f"{self.state['lost']} iterations lost beyond the last whole checkpoint; "
            f"{self.state['different']} ends differ from the undisturbed run; {len(self.state['failures'])} failures"
        )


def read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def read_starts(work: Path) -> list[int]:
    """The iteration at which each start of the training began."""
    return [int(line) for line in read(work / "starts").split()]


def newest_whole(work: Path) -> int:
    """The iteration of the newest checkpoint that can be read, found without the package's own search."""
    found = [0]
    for path in work.glob("iter_*.pth"):
        try:
            load_plain(path)
        except Exception:  # torn: a damaged file raises nearly anything
            continue
        found.append(int(re.findall(r"\d+", path.name)[0]))
    return max(found)


def compare(one: Path, other: Path):
    """What differs between the ends of two runs."""
    names = [sorted(p.name for p in folder.glob("*.pth")) for folder in (one, other)]
    if names[0] != names[1]:
        yield f"checkpoints {names[1]} instead of {names[0]}"
        return
    if left := list(other.glob(".*.partial")):
        yield f"left over: {left}"
    for name in names[0]:
        contents = [load_plain(folder / name) for folder in (one, other)]
        for key in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers", "generator_states"):
            try:
                assert_equal(*(content.get(key) for content in contents), key)
            except AssertionError as error:
                yield f"{name}: {error} differs"
        scores = [content["message_hub"]["runtime_info"].get("best_score") for content in contents]
        if scores[0] != scores[1]:
            yield f"{name}: best_score {scores[1]} instead of {scores[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--out", type=Path, help="default: work_dirs/soak/kill_PROCESSES")
    args = parser.parse_args()
    out = (args.out or Path("work_dirs/soak") / f"kill_{args.processes}").absolute()
    soak = Soak(out, args.processes)
    soak.prepare()
    while (done := sum(soak.state["kills"].values())) < args.kills and len(soak.state["failures"]) < 10:
        soak.round(random.Random(f"{done} {soak.state['finished']}"))
        if done % 10 == 9:
            print(soak.report(), flush=True)
    # The last one runs to its end, so that no kill goes unchecked.
    while soak.work.exists() and not any(soak.state["failures"]):
        codes = wait(*soak.begin(soak.work), seconds=600)
        if any(codes):
            soak.state["failures"].append(f"exit codes {codes}")
            break
        soak.state["finished"] += 1
        differences = list(compare(soak.out / "whole", soak.work))
        soak.state["different"] += bool(differences)
        soak.state["failures"] += differences
        soak.save()
        shutil.rmtree(soak.work)
    print(soak.report())
    if soak.state["failures"]:
        sys.exit("\n".join(soak.state["failures"]))


if __name__ == "__main__":
    main()
