"""Mutate checkpoints and annotation files, and see that each is refused with a clear error or loads soundly.

    python tests/soak/mutated_files.py checkpoints --count 1000
    python tests/soak/mutated_files.py annotations --count 1000

Nothing may be executed, which an audit hook of Python's watches. A checkpoint goes through the ways that lead to one:
the check before a run, the teacher's loading, an export, a resume. An annotation file goes through the check before a
run, the data set, every image's pipeline with boxes and masks, and COCO's metric. Hypothesis chooses what is mutated.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

import rekd_det  # noqa: F401  registers everything
from rekd_det.utils.errors import InputError
from rekd_det.utils.read_as_data import load_plain

ROOT = Path(__file__).resolve().parents[2]
#: what no file may make Python do; 'exec' and 'import' are what any code of ours does too
FORBIDDEN = ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
TRACE = "made-by-a-file"
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.just([]),
    st.just({}),
    st.just(["a", {"b": 1}]),
)


class Executed(BaseException):
    """Something ran that came out of a file."""


class Watch:
    """Raises where a forbidden event happens while it is on. Python never removes an audit hook."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if self.on and event.startswith(FORBIDDEN):
            self.on = False
            self.seen.append(f"{event} {args!r:.200}")
            raise Executed(event)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:  # also where the file was refused in the end
            self.on = False
            if self.seen or Path(TRACE).exists():
                raise Executed(f"{self.seen} {TRACE}: {Path(TRACE).exists()}")


def calls() -> list[Any]:
    """Objects that run something when a careless loader reads them."""
    from functools import partial

    from forged import Call
    from mmengine.logging import HistoryBuffer

    return [
        Call(os.mkdir, TRACE),
        Call(os.system, f"mkdir {TRACE}"),
        Call(eval, f"__import__('os').mkdir('{TRACE}')"),
        Call(exec, f"import os; os.mkdir('{TRACE}')"),
        Call(subprocess.call, ["mkdir", TRACE]),
        Call(getattr, HistoryBuffer, "__init__"),
        Call(getattr, Call(__import__, "os"), "mkdir"),
        Call(partial, os.mkdir, TRACE),
        Call(torch.storage._load_from_bytes, b"x"),
        Call(Config.fromstring, f"import os; os.mkdir('{TRACE}')", ".py"),
        Call(map, os.mkdir, [TRACE]),
    ]


def paths(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of everything in nested containers but the root."""
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def mutate_tree(draw: Callable, tree: Any, values: st.SearchStrategy) -> None:
    """Replace, remove or copy up to three parts of nested containers, in place."""
    for _ in range(draw(st.integers(1, 3))):
        found = list(paths(tree))
        if not found:
            return
        *parents, key = draw(st.sampled_from(found))
        owner = tree
        for name in parents:
            owner = owner[name]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "copy"]))
        if kind == "replace":
            owner[key] = draw(values)
        elif kind == "remove":
            del owner[key]
        else:
            *others, last = draw(st.sampled_from(found))
            source = tree
            with contextlib.suppress(KeyError, IndexError, TypeError):
                for name in others:
                    source = source[name]
                owner[key] = json_copy(source[last])


def json_copy(value: Any) -> Any:
    """A copy of containers; what is in them is shared."""
    if isinstance(value, dict):
        return {k: json_copy(v) for k, v in value.items()}
    return [json_copy(v) for v in value] if isinstance(value, list) else value


def mutate_bytes(draw: Callable, content: bytes) -> bytes:
    """Change, cut or insert a few bytes."""
    out = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, max(len(out) - 1, 0)))
        kind = draw(st.sampled_from(["set", "set", "set", "cut", "insert"]))
        if kind == "set" and out:
            out[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            out[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif draw(st.integers(0, 9)) == 0:
            del out[at:]
        else:
            del out[at : at + draw(st.integers(1, 8))]
    return bytes(out)


class Checkpoints:
    """A distillation's checkpoint of a tiny pair, mutated."""

    def __init__(self, folder: Path) -> None:
        from load_tool import load_tool
        from mmdet.registry import MODELS
        from tiny_pair import write_tiny_pair

        pair = write_tiny_pair(folder)
        self.cfg = Config.fromfile(str(pair.pair))
        options = ["--work-dir", str(folder / "run"), "--cfg-options", "runner_type=ReKDRunner", "val_cfg=None"]
        options += ["val_dataloader=None", "val_evaluator=None"]
        command = [sys.executable, "-W", "ignore", str(ROOT / "tools/train.py"), str(pair.pair), *options]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.source = load_plain(folder / "run" / "iter_2.pth")
        self.content = (folder / "run" / "iter_2.pth").read_bytes()
        self.student = MODELS.build(self.cfg.model.architecture)
        self.export = load_tool(ROOT / "tools" / "export_student.py")
        self.cfg.merge_from_dict(dict(work_dir=str(folder / "again"), val_cfg=None, val_dataloader=None))
        self.cfg.merge_from_dict(dict(val_evaluator=None, runner_type="ReKDRunner", launcher="none"))
        self.runner = self._build_runner()

    def _build_runner(self) -> Any:
        from mmengine.registry import RUNNERS

        runner = RUNNERS.build(self.cfg)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner._resume = True
        return runner

    def write(self, draw: Callable, path: Path) -> None:
        """Write one mutated checkpoint."""
        kind = draw(st.sampled_from(["tree", "tree", "call", "pickle", "file", "config"]))
        if kind == "file":
            path.write_bytes(mutate_bytes(draw, self.content))
            return
        if kind == "pickle":  # inside the archive, whose checksums stay right
            with zipfile.ZipFile(io.BytesIO(self.content)) as old, zipfile.ZipFile(path, "w") as new:
                for name in old.namelist():
                    content = old.read(name)
                    new.writestr(name, mutate_bytes(draw, content) if name.endswith("data.pkl") else content)
            return
        tree = json_copy(self.source)
        if kind == "config":
            lines = tree["meta"]["cfg"].splitlines()
            at = draw(st.integers(0, len(lines) - 1))
            lines[at] = draw(st.sampled_from([f"__import__('os').mkdir('{TRACE}')", "x = (", lines[at] + ")", ""]))
            tree["meta"]["cfg"] = "\n".join(lines)
        elif kind == "call":
            mutate_tree(draw, tree, st.sampled_from(calls()))
        else:
            mutate_tree(draw, tree, SCALARS)
        torch.save(tree, path)

    def use(self, path: Path) -> Iterator[Callable[[], object]]:
        """The ways of a checkpoint, each of which may refuse it."""
        from rekd_det.engine.runner.latest_checkpoint import check_resumable
        from rekd_det.models.teachers.teacher import build_teacher
        from rekd_det.utils.checkpoint import check_checkpoint_file

        yield lambda: check_checkpoint_file(str(path))
        yield lambda: build_teacher(self.student, str(path))
        yield lambda: self._export(path)
        yield lambda: (check_resumable(str(path)), self._resume(path))

    def _export(self, path: Path) -> None:
        args = argparse.Namespace(config=None, checkpoint=str(path))
        checkpoint = self.export.load_checkpoint_file(args.checkpoint)
        self.export.check_distilled(checkpoint, str(path))
        cfg = self.export.find_config(args, checkpoint)
        self.export.export_student(checkpoint, cfg, str(path))

    def _resume(self, path: Path) -> None:
        self.runner._has_loaded, self.runner._load_from = False, str(path)
        self.runner.load_or_resume()


class Annotations:
    """A COCO-format file of tiny images, mutated."""

    def __init__(self, folder: Path) -> None:
        from tiny_pair import write_tiny_pair

        pair = write_tiny_pair(folder)
        self.cfg = Config.fromfile(str(pair.student))
        for loader in (self.cfg.train_dataloader, self.cfg.val_dataloader):
            loader.dataset.pipeline[1] = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
        self.cfg.val_evaluator.metric = ["bbox", "segm"]
        self.source = json.loads((pair.data / "annotations/instances_train2017.json").read_text())
        self.source["images"] = self.source["images"][:3]
        kept = {image["id"] for image in self.source["images"]}
        self.source["annotations"] = [a for a in self.source["annotations"] if a["image_id"] in kept]

    def write(self, draw: Callable, path: Path) -> None:
        """Write one mutated file."""
        tree = json_copy(self.source)
        if draw(st.booleans()):
            content = mutate_bytes(draw, json.dumps(tree).encode())
        else:
            mutate_tree(draw, tree, SCALARS.filter(lambda v: not isinstance(v, bytes)))
            content = json.dumps(tree).encode()
        path.write_bytes(content)

    def use(self, path: Path) -> Iterator[Callable[[], object]]:
        """Check the file, read every image with it, and evaluate nothing detected against it."""
        yield lambda: self._use(path)

    def _use(self, path: Path) -> None:
        from mmdet.registry import DATASETS, METRICS

        from rekd_det.apis.preflight import check_data

        cfg = self.cfg.copy()
        cfg.train_dataloader.dataset.ann_file = str(path)
        check_data(cfg, ("train",))
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        for index in range(len(dataset)):
            sample = dataset[index]
            instances = sample["data_samples"].gt_instances
            boxes = instances.bboxes.tensor
            assert boxes.isfinite().all() and (boxes[:, 2:] >= boxes[:, :2]).all(), boxes
            assert len(boxes) == len(instances.labels) == len(instances.masks)
            assert sample["inputs"].ndim == 3
        metric = METRICS.build({**cfg.val_evaluator, "ann_file": str(path)})
        metric.dataset_meta = dataset.metainfo
        found = dict(bboxes=torch.tensor([[1.0, 1.0, 9.0, 9.0]]), scores=torch.ones(1), labels=torch.zeros(1).long())
        found["masks"] = torch.zeros(1, 8, 8, dtype=torch.bool)
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            sample = dict(img_id=info["img_id"], ori_shape=(info["height"], info["width"]), pred_instances=found)
            metric.process({}, [sample])
        if len(dataset):
            metric.evaluate(len(dataset))


def run(kind: str, count: int, seed: int) -> Counter:
    """Make and use that many files; returns how many were refused or loaded, by the way they went."""
    watch, seen = Watch(), Counter()
    MMLogger.get_instance("mmengine", log_level="CRITICAL")
    init_default_scope("mmdet")
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        target: Any = {"checkpoints": Checkpoints, "annotations": Annotations}[kind](Path(name))
        path = Path(name) / ("mutated.pth" if kind == "checkpoints" else "mutated.json")
        done = 0

        # No shrinking and no data base: this counts independent files.
        @seeded(seed)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def one(data: Any) -> None:
            nonlocal done
            target.write(data.draw, path)
            done += 1
            if done % 50 == 0:
                print(f"{done} files: {dict(seen)}", file=sys.stderr, flush=True)
            outcomes = []
            for way in target.use(path):
                try:
                    with watch(), contextlib.redirect_stdout(io.StringIO()):
                        way()
                    outcomes.append("loaded")
                except InputError as error:
                    assert str(path.name) in str(error) or str(path) in str(error), f"names no file: {error}"
                    outcomes.append("refused")
                except Executed:
                    raise
                except Exception as error:
                    last = traceback.extract_tb(error.__traceback__)[-1]
                    key = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {error!s:.90}"
                    seen[f"UNEXPLAINED {key}"] += 1
                    if os.environ.get("KEEP"):
                        Path(os.environ["KEEP"], f"{seen.total()}{path.suffix}").write_bytes(path.read_bytes())
            if outcomes:
                seen[
                    "refused by all"
                    if "loaded" not in outcomes
                    else "loaded by all"
                    if "refused" not in outcomes
                    else "loaded by some"
                ] += 1

        one()
    seen["files"] = done
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["checkpoints", "annotations"])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", type=int, default=16, help="GiB of address space; a file must not take more")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (args.memory * 2**30,) * 2)
    began = time.monotonic()
    seen = run(args.kind, args.count, args.seed)
    for name, number in sorted(seen.items(), key=lambda item: -item[1]):
        print(f"{number:6} {name}")
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(any(name.startswith("UNEXPLAINED") for name in seen))


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]
    main()
