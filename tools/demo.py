"""All steps on a CPU: generate data, train a teacher, distil a student from it, evaluate both.

Finished steps are kept: a second call reuses them, and a call after an interruption continues. It
shows that the tools work. One short run can't show whether ReKD helps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import cv2
from mmengine.config import Config

from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.datasets.synthetic import build_dataset
from rekd_det.datasets.synthetic.contact_sheet import comparison_sheet
from rekd_det.utils.atomic import replace_text
from rekd_det.utils.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "demo"
STEPS = 5
SEED = 0

_STAMP = "demo.json"
_OUTPUT = "output.txt"
_SHOWN_ON_FAILURE = 20
# mmengine's log lines that show the progress; the others dump configs and environments.
_PROGRESS = re.compile(r"[\d/]+ [\d:]+ - mmengine - (INFO - (?=Epoch|Saving|resumed)|(?=ERROR))(?P<text>.*)")
_QUICK_OPTIONS = {
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "train_dataloader.batch_size": 4,
    "default_hooks.logger.interval": 1,
}


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/demo")
    parser.add_argument("--fresh", action="store_true", help="do all steps again")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few iterations on a few images, to see that each step runs (in its own folder)",
    )
    args = parser.parse_args()
    if args.work_dir is None:
        args.work_dir = Path("work_dirs") / ("demo_quick" if args.quick else "demo")
    args.work_dir = args.work_dir.absolute()
    return args


def announce(step: int, text: str) -> None:
    print(f"\n=== {step}/{STEPS} {text}", flush=True)


def run_tool(output: Path, *arguments: str | Path) -> None:
    """Run a program of ``tools/`` and show its progress; all of its output is appended to ``output``.

    Raises:
        InputError: it failed.
    """
    # From the root, because the configs name their default paths from there.
    command = [sys.executable, *map(str, arguments)]
    # Threads that wait for each other by spinning nearly stop when another program uses
    # the same cores (twenty times slower in a measurement).
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    tail: deque[str] = deque(maxlen=_SHOWN_ON_FAILURE)
    with (
        output.open("a") as copy,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            copy.write(line)
            tail.append(line)
            progress = _PROGRESS.match(line)
            if progress:
                print(progress["text"], flush=True)
    if process.returncode != 0:
        raise InputError(
            f"{Path(arguments[0]).name} ended with status {process.returncode}; its last output:\n"
            f"{''.join(tail)}All of it is in {output}. Call the demo again to continue from the "
            "last checkpoint, or with --fresh to start over"
        )


def as_arguments(options: dict[str, object]) -> list[str]:
    return ["--cfg-options", *(f"{key}={value}" for key, value in options.items())]


def data_options(data: Path) -> dict[str, object]:
    """What points the demo's configs to the data set in ``data``."""
    annotations = data / "annotations" / "instances_val2017.json"
    options: dict[str, object] = {
        f"{split}_dataloader.dataset.data_root": f"{data}/" for split in ("train", "val", "test")
    }
    return options | {f"{split}_evaluator.ann_file": annotations for split in ("val", "test")}


@dataclass(frozen=True)
class Training:
    """One training run in its own folder, where it continues or is reused.

    Attributes:
        config: the config file.
        folder: where checkpoints and logs go.
        options: what overrides the config.
        inputs: a text for everything else that decides the result (the data, the teacher).
    """

    config: Path
    folder: Path
    options: dict[str, object]
    inputs: str

    @property
    def fingerprint(self) -> str:
        """Changes whenever a finished run would have to be done again."""
        settings = Config.fromfile(self.config).dump() + repr(self.options) + self.inputs
        return hashlib.sha256(settings.encode()).hexdigest()

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint, as the run recorded it."""
        return Path((self.folder / "last_checkpoint").read_text().strip())

    @property
    def is_usable(self) -> bool:
        """Whether that checkpoint is still there."""
        return (self.folder / "last_checkpoint").is_file() and self.checkpoint.is_file()

    @property
    def log(self) -> Path:
        """The newest log file."""
        return max(self.folder.glob("*/*.log"))

    def run(self) -> None:
        """Train; continue an equal run that was interrupted; do nothing if it has finished."""
        stamp = self.folder / _STAMP
        state = json.loads(stamp.read_text()) if stamp.is_file() else {}
        if state.get("fingerprint") != self.fingerprint:
            if self.folder.exists():
                print(f"{self.folder} has other settings: starting over", flush=True)
                remove_step(self.folder)
            self.folder.mkdir(parents=True)
            self._write_stamp(finished=False)
        elif state["finished"] and self.is_usable:
            print(f"finished before, reused: {self.checkpoint}", flush=True)
            return
        # With no checkpoint there, --resume starts from the beginning.
        run_tool(
            self.folder / _OUTPUT,
            *(ROOT / "tools" / "train.py", self.config, "--work-dir", self.folder, "--resume"),
            *as_arguments(self.options),
        )
        self._write_stamp(finished=True)

    def _write_stamp(self, finished: bool) -> None:
        content = {"fingerprint": self.fingerprint, "finished": finished}
        replace_text(self.folder / _STAMP, json.dumps(content) + "\n")


def remove_step(folder: Path) -> None:
    """Delete the folder of a step, if the demo made it.

    Raises:
        InputError: it holds something else.
    """
    if not folder.exists():
        return
    if not any((folder / name).is_file() for name in (_STAMP, "shapes.json")):
        raise InputError(f"{folder} was not made by the demo; give another --work-dir")
    shutil.rmtree(folder)


def evaluate(config: Path, folder: Path, options: dict[str, object], *arguments: str | Path) -> float:
    """Test a model with COCO's metric; its detections go to ``folder/detections.bbox.json``.

    Returns:
        The bbox mAP; 0 if nothing was detected at all.
    """
    remove_step(folder)
    folder.mkdir(parents=True)
    (folder / _STAMP).write_text("{}\n")
    options = options | {"test_evaluator.outfile_prefix": folder / "detections"}
    run_tool(
        folder / _OUTPUT,
        *(ROOT / "tools" / "test.py", config, *arguments, "--work-dir", folder),
        *as_arguments(options),
    )
    # mmengine writes the metrics of a test to TIMESTAMP/TIMESTAMP.json.
    metrics = max(folder.glob("*/*.json"), default=None)
    return json.loads(metrics.read_text()).get("coco/bbox_mAP", 0.0) if metrics else 0.0


def draw_picture(data: Path, evaluation: Path, target: Path) -> None:
    """Draw the detections of an evaluation next to the ground truth."""
    results = evaluation / "detections.bbox.json"
    detections = json.loads(results.read_text()) if results.is_file() else []
    cv2.imwrite(str(target), comparison_sheet(data, detections))


@exit_on_input_error
def main() -> None:
    args = parse_args()
    started = time.monotonic()
    work = args.work_dir
    data = work / "data"
    if args.fresh:
        for name in ("data", "teacher", "student", "eval_teacher", "eval_student"):
            remove_step(work / name)
    preset = "tiny" if args.quick else "demo"
    options = data_options(data) | (_QUICK_OPTIONS if args.quick else {})

    announce(1, f"generating images of look-alike shapes in {data}")
    if build_dataset(data, preset, SEED):
        print("done")
    else:
        print("there already, reused")
    data_stamp = (data / "shapes.json").read_text()

    announce(2, "training the teacher")
    teacher = Training(CONFIGS / "teacher.py", work / "teacher", options, data_stamp)
    teacher.run()

    announce(3, "distilling the student from the teacher with ReKD")
    pair = CONFIGS / "rekd.py"
    options = options | {"model.teacher_ckpt": teacher.checkpoint}
    student = Training(pair, work / "student", options, teacher.fingerprint)
    student.run()

    announce(4, "evaluating teacher and student with COCO's metric")
    teacher_map = evaluate(pair, work / "eval_teacher", options, "--teacher")
    student_map = evaluate(pair, work / "eval_student", options, student.checkpoint)

    announce(5, "drawing what the student detects")
    picture = work / "student_detections.png"
    draw_picture(data, work / "eval_student", picture)

    print(
        f"""
teacher     box mAP {teacher_map:.3f}
student     box mAP {student_map:.3f}
checkpoint  {student.checkpoint}
log         {student.log}
picture     {picture}  (left: ground truth, right: detected)
took        {(time.monotonic() - started) / 60:.1f} minutes

This shows that the tools work. One short run on generated images can't show whether
ReKD makes a better student: for that you need controls without distillation, and several seeds."""
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; call the demo again to continue from the last checkpoint")
