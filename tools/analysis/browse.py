"""Look at images as ground truth, teacher and student see them, with the teacher's top-K categories for every box."""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path

from mmengine.dataset import pseudo_collate
from tqdm import tqdm

from rekd_det.analysis.teacher.browse import draw, look
from rekd_det.analysis.utils import html
from rekd_det.analysis.utils.arguments import add_pair_arguments, check_counts, top_k_of
from rekd_det.analysis.utils.figures import save
from rekd_det.analysis.utils.pair import (
    build_images,
    build_pair,
    check_images,
    choose,
    class_names,
    quiet,
)
from rekd_det.apis.command_line import ToolParser, exit_on_input_error
from rekd_det.apis.config_file import read_config
from rekd_det.apis.preflight import check_work_dir
from rekd_det.utils.checkpoint import check_checkpoint_file
from rekd_det.utils.errors import InputError
from rekd_det.utils.pair_config import classifies_images


def parse_args() -> argparse.Namespace:
    parser = ToolParser(description=__doc__)
    add_pair_arguments(parser, split="val", limit=20)
    parser.add_argument("checkpoint", help="weights of the student, distilled or plain")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures and index.html")
    parser.add_argument("--top-k", type=int, metavar="K", help="categories per box; by default the loss's, or 5")
    parser.add_argument("--score-thr", type=float, default=0.3, help="detections below it are left out")
    args = parser.parse_args()
    check_counts(parser, args, "limit", "top_k")
    return args


@exit_on_input_error
def main() -> None:
    args = parse_args()
    cfg = read_config(args.config, args.cfg_options)
    if classifies_images(cfg):
        raise InputError(
            "this config is a classifier's, which finds no boxes to look at; tools/analysis/image_accuracy.py shows "
            "where its students are right"
        )
    check_images(cfg, args.split)
    check_checkpoint_file(args.checkpoint)
    check_work_dir(str(args.out), "--out")
    quiet()
    model = build_pair(cfg, args.checkpoint, args.device)
    adapter = model.distiller.adapter
    dataset = build_images(cfg, args.split)
    names = class_names(dataset, adapter.meaning.num_categories(adapter.num_logits))
    top_k = top_k_of(args.top_k, model.distiller.loss, model.distiller.adapter.num_logits)
    entries = []
    for number, item in enumerate(tqdm(choose(dataset, args.limit), unit="img")):
        sample = item["data_samples"]
        path = Path(sample.img_path)
        picture = item["inputs"].numpy().transpose(1, 2, 0)[..., ::-1]  # BGR to RGB
        data = model.data_preprocessor(pseudo_collate([item]), False)
        figure = draw(picture, look(model, data, names, top_k, args.score_thr), path.name)
        file = save(figure, args.out / f"{number:04d}_{path.stem}.png")
        entries.append(
            f'<figure><a href="{escape(file.name)}"><img loading="lazy" src="{escape(file.name)}"></a></figure>'
        )
    intro = (
        f"Under every box: its category, and the teacher's {top_k} most probable categories for it. Detections from a "
        f"score of {args.score_thr:g} on. Config {args.config}, student {args.checkpoint}."
    )
    index = args.out / "index.html"
    index.write_text(
        html.page("Teacher and student, image by image", [html.paragraph(intro), *entries]), encoding="utf-8"
    )
    print(f"pictures: {index}")


if __name__ == "__main__":
    main()
