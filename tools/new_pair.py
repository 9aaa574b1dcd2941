"""Write the config of a new pair, and of its control without distillation, from two names of MMDetection's zoo."""

from __future__ import annotations

import argparse
import subprocess
import sys
from os.path import relpath
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

import rekd_det  # noqa: F401 - registers
from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.new_pair import check_heads, control_text, pair_text, supported_settings
from rekd_det.apis.zoo_models import ZOO, find_zoo_model, read_zoo
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import resolve_model_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("student", help="a name in MMDetection's zoo (retinanet_r18_fpn_1x_coco), or a config file")
    parser.add_argument("teacher", help="the same for the teacher")
    parser.add_argument("--checkpoint", help="the teacher's checkpoint; by default the one that the zoo names")
    parser.add_argument("--out", type=Path, metavar="FILE.py", help="default: configs/rekd_STUDENT_from_TEACHER.py")
    parser.add_argument("--force", action="store_true", help="write over files that are there")
    parser.add_argument("--check", action="store_true", help="run tools/check_pair.py on the new pair")
    return parser.parse_args()


class _Side(NamedTuple):
    """One of the two networks: how a config names it, and what is known of it."""

    name: str
    file: Path
    cfg_path: str
    weights: str | None
    description: str


def _side(given: str, role: str, zoo: dict) -> _Side:
    if Path(given).is_file():
        file = Path(given).resolve()
        return _Side(file.stem, file, str(file), None, f"{given} (a file)")
    model = find_zoo_model(given, zoo, role)
    file = ZOO / model.path
    # mmengine finds no folder by name whose name has other characters: gn+ws, legacy_1.x.
    cfg_path = f"mmdet::{model.path}" if file.parent.name.isidentifier() else str(file)
    return _Side(model.name, file, cfg_path, model.weights, model.describe())


def _check_targets(out: Path, control: Path, sides: tuple[_Side, _Side], force: bool) -> None:
    if out.suffix != ".py":
        raise InputError(f"--out '{out}' is no config file: its name must end in .py")
    if out == control:
        raise InputError(f"--out '{out}' is the file of the control: choose another name")
    for path in (out, control):
        if path.resolve() in [side.file for side in sides]:
            raise InputError(
                f"'{path}' would be written over, and it is the student's or the teacher's config: choose another --out"
            )
    if out.exists() and not force:
        raise InputError(f"'{out}' is there already: choose another --out, or write over it with --force")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_pair(out: Path, text: str) -> None:
    """Write a pair's config, and take it back if it can't be read."""
    earlier = out.read_text(encoding="utf-8") if out.exists() else None
    _write(out, text)
    try:
        Config.fromfile(out)
    except Exception as error:  # a config is a program
        if earlier is None:
            out.unlink()
        else:
            _write(out, earlier)
        raise InputError(
            f"the pair can't inherit the student's config ({error}). It inherits configs/_base_/rekd_distill.py as "
            "well, and no key can be in both: remove it from the student's. A config in mmengine's new style, with "
            "read_base(), needs a pair in that style (docs/new_pair.md)"
        ) from error


@exit_on_input_error
def main() -> None:
    args = parse_args()
    zoo = read_zoo()
    student, teacher = _side(args.student, "student", zoo), _side(args.teacher, "teacher", zoo)
    checkpoint = args.checkpoint or teacher.weights
    if checkpoint is None:
        raise InputError(f"teacher '{args.teacher}': the zoo names no checkpoint for it; give one with --checkpoint")
    out = (args.out or CONFIGS / f"rekd_{student.name}_from_{teacher.name}.py").resolve()
    control = out.with_name(f"student_{student.name}.py")
    base = student.cfg_path if "::" in student.cfg_path else relpath(student.file, out.parent)
    ours = relpath(CONFIGS / "_base_", out.parent)
    config = Config.fromfile(student.file)
    adapter = check_heads(config, resolve_model_config(teacher.cfg_path, "teacher"))
    _check_targets(out, control, (student, teacher), args.force)
    _write_pair(out, pair_text(config, base, ours, teacher.cfg_path, checkpoint, adapter))
    kept = control.exists() and not args.force and control.read_text(encoding="utf-8") != control_text(config, base)
    if not kept:
        _write(control, control_text(config, base))
    print(f"student     {student.description}")
    print(f"teacher     {teacher.description}")
    print(f"checkpoint  {checkpoint}")
    print(f"pair        {out}")
    print(f"control     {control}  (the student without distillation: train it too)")
    if kept:
        print("            kept as it was, with other content; --force writes over it")
    print(f"evidence    {supported_settings(adapter)}")
    check = Path(__file__).with_name("check_pair.py")
    if args.check:
        sys.exit(subprocess.run([sys.executable, check, out]).returncode)
    print(f"next        python {relpath(check)} {relpath(out)}")


if __name__ == "__main__":
    main()
