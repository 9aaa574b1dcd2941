"""Write a generated data set of look-alike shapes in COCO's format.

mmdet's COCO configs read it when their ``data_root`` is OUT_DIR and their ``metainfo`` names its
categories.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.datasets.synthetic import PRESETS, build_dataset


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="folder to create")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, metavar="N", help="training images")
    parser.add_argument("--val", type=int, metavar="N", help="validation images")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the images")
    parser.add_argument("--workers", type=int, help="processes; one per core by default, at most 8")
    parser.add_argument(
        "--contact-sheet",
        action="store_true",
        help="also write OUT_DIR/contact_sheet.png: the first images with boxes and names",
    )
    return parser.parse_args()


@exit_on_input_error
def main() -> None:
    args = parse_args()
    written = build_dataset(args.out_dir, args.preset, args.seed, args.train, args.val, args.size, args.workers)
    print(f"{args.out_dir}: {'written' if written else 'there already, nothing to do'}")
    if args.contact_sheet:
        # The processes that draw the images start with this file, and need no detector.
        from rekd_det.datasets.synthetic.contact_sheet import contact_sheet

        target = args.out_dir / "contact_sheet.png"
        cv2.imwrite(str(target), contact_sheet(args.out_dir))
        print(f"contact sheet: {target}")


if __name__ == "__main__":
    main()
