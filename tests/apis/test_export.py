"""The exported student is a checkpoint of plain MMDetection: its loader, test entry and inferencer take it."""

import os
import re
import shutil
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from commands import run
from load_tool import TOOLS
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.fileio import load
from tiny_pair import TinyPair, write_tiny_pair

from rekd_det.apis.export import check_carried_config, stock_config
from rekd_det.utils.config_text import parse_config_text
from rekd_det.utils.errors import InputError
from rekd_det.utils.read_as_data import load_plain

SHARED = Path(__file__).resolve().parents[3] / "shared"
THEIR_TEST = Path(mmdet.__file__).parent / ".mim" / "tools" / "test.py"


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> TinyPair:
    """Configs, images, and a checkpoint as a distillation writes it."""
    pair = write_tiny_pair(tmp_path_factory.mktemp("pair"))
    cfg = Config.fromfile(str(pair.pair))
    torch.manual_seed(0)
    student = MODELS.build(cfg.model.architecture)
    state = {f"architecture.{k}": v for k, v in student.state_dict().items()}
    state["distiller.connectors.w"] = torch.zeros(3)
    meta = dict(epoch=0, iter=6, cfg=cfg.pretty_text, dataset_meta=dict(cfg.metainfo))
    torch.save({"meta": meta, "state_dict": state, "optimizer": {}}, pair.folder / "iter_6.pth")
    return pair


@pytest.fixture
def export(tmp_path, run_tool, capsys):
    """Run the tool here; returns the exported file and what was printed."""

    def call(*arguments: object) -> tuple[Path, str]:
        target = tmp_path / "student.pth"
        run_tool("export_student.py", "-o", target, *arguments)
        return target, capsys.readouterr().out

    return call


def test_the_student_under_its_own_names_and_with_its_config(export, pair):
    path, said = export(pair.folder / "iter_6.pth")
    exported = load_plain(path)
    source = load_plain(pair.folder / "iter_6.pth")["state_dict"]
    assert set(exported) == {"meta", "state_dict"}
    own = {k.removeprefix("architecture."): v for k, v in source.items() if k.startswith("architecture.")}
    assert exported["state_dict"].keys() == own.keys()
    assert all(torch.equal(exported["state_dict"][k], own[k]) for k in own)
    text = exported["meta"]["cfg"]
    assert "rekd" not in text.lower().replace(str(pair.folder).lower(), "")
    assert "mmrazor" not in text
    assert exported["meta"]["dataset_meta"]["classes"] == Config.fromfile(str(pair.student)).metainfo.classes
    assert "0.22 M parameters" in said
    assert "its teacher" not in said  # its config is a file that only the checkpoint names
    _, said = export(pair.folder / "iter_6.pth", "--config", pair.pair)
    assert "its teacher: 0.75 M parameters" in said
    assert "29% of the size" in said
    assert os.listdir(path.parent) == ["student.pth"]


def test_data_sets_that_were_joined_and_classes_of_this_package(export, pair, tmp_path):
    checkpoint = load_plain(pair.folder / "iter_6.pth")
    info = checkpoint["meta"]["dataset_meta"]
    checkpoint["meta"]["dataset_meta"] = [dict(info), dict(info, palette=[(0, 0, 0)])]
    cfg = Config.fromfile(str(pair.pair))
    cfg.val_evaluator.type, cfg.optim_wrapper.type = "FasterCocoMetric", "BF16OptimWrapper"
    checkpoint["meta"]["cfg"] = cfg.pretty_text
    torch.save(checkpoint, tmp_path / "joined.pth")
    path, _ = export(tmp_path / "joined.pth")
    meta = load_plain(path)["meta"]
    assert meta["dataset_meta"]["classes"] == info["classes"]
    cfg = Config.fromstring(meta["cfg"], ".py")
    assert (cfg.val_evaluator.type, cfg.optim_wrapper.type) == ("CocoMetric", "OptimWrapper")
    checkpoint["meta"]["dataset_meta"][1]["classes"] = info["classes"][::-1]
    torch.save(checkpoint, tmp_path / "other.pth")
    path, _ = export(tmp_path / "other.pth")
    assert "dataset_meta" not in load_plain(path)["meta"]


def test_a_backbone_of_this_package_keeps_its_import():
    cfg = Config.fromfile(str(Path(__file__).parents[2] / "configs/cls/rekd_r56_r20_cifar100.py"))
    assert stock_config(cfg).custom_imports.imports == ["rekd_det"]


def test_a_folder_and_the_name_of_a_checkpoint_are_no_files(run_tool, pair, tmp_path):
    for folder in (tmp_path, f"{tmp_path}/new/"):
        with pytest.raises(SystemExit, match=f"--out '{re.escape(str(folder))}' is a folder: name a file in it"):
            run_tool("export_student.py", "-o", folder, pair.folder / "iter_6.pth")
    (tmp_path / "last_checkpoint").write_text(str(pair.folder / "iter_6.pth"))
    with pytest.raises(SystemExit, match="last_checkpoint' is the text file that names the last checkpoint"):
        run_tool("export_student.py", "-o", tmp_path / "s.pth", tmp_path / "last_checkpoint")


def test_fp16_halves_the_file_and_loads(export, pair):
    full = export(pair.folder / "iter_6.pth")[0].stat().st_size
    path, said = export(pair.folder / "iter_6.pth", "--fp16", "--config", pair.pair)
    assert path.stat().st_size < 0.6 * full
    assert "15% of the size" in said
    weights = load_plain(path)["state_dict"]
    assert {v.dtype for v in weights.values()} == {torch.float16, torch.int64}
    MODELS.build(Config.fromfile(str(pair.student)).model).load_state_dict(weights)


def test_fp16_leaves_a_weight_beyond_its_range_in_fp32(export, pair, tmp_path):
    checkpoint = load_plain(pair.folder / "iter_6.pth")
    (name,) = [key for key in checkpoint["state_dict"] if key.endswith("backbone.bn1.running_var")]
    checkpoint["state_dict"][name] += 1e5
    torch.save(checkpoint, tmp_path / "wide.pth")
    path, _ = export(tmp_path / "wide.pth", "--fp16")
    weights = load_plain(path)["state_dict"]
    assert torch.equal(weights["backbone.bn1.running_var"], checkpoint["state_dict"][name])
    assert all(value.isfinite().all() for value in weights.values())


def test_the_config_can_be_given(export, pair, tmp_path):
    bare = tmp_path / "bare.pth"
    torch.save({"state_dict": load_plain(pair.folder / "iter_6.pth")["state_dict"]}, bare)
    for config in (pair.pair, pair.student):
        path, said = export(bare, "--config", config)
        assert load_plain(path)["meta"]["cfg"]
        assert ("its teacher" in said) == (config == pair.pair)


@pytest.mark.parametrize("name", ["iter_6.pth", "link.pth", "iter_8.pth"])
def test_a_checkpoint_that_can_be_resumed_is_not_written_over(pair, tmp_path, monkeypatch, run_tool, name):
    monkeypatch.chdir(tmp_path)
    for copied in ("iter_6.pth", "iter_8.pth"):
        shutil.copy(pair.folder / "iter_6.pth", copied)
    Path("link.pth").symlink_to("iter_6.pth")
    before = Path(name).read_bytes()
    message = "exists and is no earlier export" if name == "iter_8.pth" else "is the checkpoint that is exported"
    with pytest.raises(SystemExit, match=f"{name}' {message}.*: name another file, e.g. student.pth"):
        run_tool("export_student.py", "iter_6.pth", "-o", tmp_path / name)
    assert Path(name).read_bytes() == before


def test_only_older_exports_are_replaced(export, pair, tmp_path, run_tool):
    """A teacher's weights, or the best ones of a run, hold no training's state either."""
    (tmp_path / "notes.txt").write_text("no checkpoint\n")
    shutil.copy(pair.folder / "teacher.pth", tmp_path / "best.pth")
    before = (tmp_path / "best.pth").read_bytes()
    for name in ("notes.txt", "best.pth"):
        with pytest.raises(SystemExit, match=f"{name}' exists and is no earlier export"):
            run_tool("export_student.py", pair.folder / "iter_6.pth", "-o", tmp_path / name)
    assert (tmp_path / "best.pth").read_bytes() == before
    for _ in range(2):
        path, _ = export(pair.folder / "iter_6.pth")
        assert set(load_plain(path)) == {"meta", "state_dict"}


@pytest.mark.parametrize("meta", [torch.zeros(3), "text", [1, 2]], ids=["tensor", "text", "list"])
def test_a_checkpoint_with_no_sound_meta_needs_a_config(export, pair, tmp_path, meta):
    odd = tmp_path / "odd.pth"
    torch.save({**load_plain(pair.folder / "iter_6.pth"), "meta": meta}, odd)
    with pytest.raises(SystemExit, match=r"odd\.pth' carries no config: give it with --config"):
        export(odd)
    exported, _ = export(odd, "--config", pair.pair)
    assert set(load_plain(exported)["meta"]) == {"cfg", "exported_by"}


def test_the_inferencer_takes_it(export, pair):
    path, _ = export(pair.folder / "iter_6.pth")
    image = str(next((pair.data / "val2017").iterdir()))
    results = [
        DetInferencer(model, str(path), device="cpu", show_progress=False)(image)["predictions"][0]
        for model in (None, str(pair.student))
    ]
    assert results[0] == results[1]
    assert len(results[0]["labels"]) > 0
    inferencer = DetInferencer(None, str(path), device="cpu", show_progress=False)
    assert inferencer.model.dataset_meta["classes"] == Config.fromfile(str(pair.student)).metainfo.classes


@pytest.mark.slow
def test_mmdetections_own_test_entry_predicts_the_same(export, pair, tmp_path):
    path, _ = export(pair.folder / "iter_6.pth")
    stock = tmp_path / "stock.py"
    stock.write_text(load_plain(path)["meta"]["cfg"])
    outputs = []
    for name, command in (
        ("ours", [TOOLS / "test.py", pair.pair, pair.folder / "iter_6.pth"]),
        ("theirs", [THEIR_TEST, stock, path]),
    ):
        command += ["--out", tmp_path / f"{name}.pkl", "--work-dir", tmp_path / "work"]
        output = run(sys.executable, *command, cwd=tmp_path)
        outputs.append([line.split("bbox_mAP:")[1] for line in output.splitlines() if "coco/bbox_mAP:" in line])
    metrics = [line.split("data_time")[0] for output in outputs for line in output]
    assert len(metrics) == 2
    assert metrics[0] == metrics[1]
    ours, theirs = (load(str(tmp_path / f"{name}.pkl")) for name in ("ours", "theirs"))
    assert len(ours) > 0
    for one, other in zip(ours, theirs, strict=True):
        for key in ("bboxes", "scores", "labels"):
            assert torch.equal(one["pred_instances"][key], other["pred_instances"][key])


# --- the config inside a checkpoint


@pytest.mark.parametrize("name", ["pair", "student"])
def test_a_config_survives_its_text(pair, name):
    cfg = Config.fromfile(str(getattr(pair, name)))
    assert parse_config_text(cfg.pretty_text, "x").to_dict() == cfg.to_dict()
    assert parse_config_text(stock_config(cfg).pretty_text, "x").to_dict() == stock_config(cfg).to_dict()


@pytest.mark.slow
def test_every_shipped_pair_is_exported_from_its_checkpoint_alone():
    for path in sorted((Path(__file__).resolve().parents[2] / "configs").rglob("rekd_*.py")):
        if path.parent.name != "_base_":
            cfg = parse_config_text(Config.fromfile(path).pretty_text, path.name)
            cfg.pop("custom_imports", None)
            variables = {key: cfg[key] for key in ("data_root", "dataset_type", "train_pipeline") if key in cfg}
            check_carried_config(cfg, path.name)
            assert variables and all(cfg.get(key) == value for key, value in variables.items())
            assert "box_loss" not in cfg  # of the distiller


def test_values_of_every_kind():
    text = "a = dict({'b.c': [1, -2.5, None, True], 'd': (inf, -inf)}, e='x' 'y', **{'f g': {1, 2}})\n"
    assert parse_config_text(text, "x").a == {
        "b.c": [1, -2.5, None, True],
        "d": (float("inf"), -float("inf")),
        "e": "xy",
        "f g": {1, 2},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os", "line 1 is not an assignment"),
        ("a = 1\nb = open('x')", "line 2 is not a plain value"),
        ("a = dict(b=__import__('os').getcwd())", "line 1 is not a plain value"),
        ("a = [x for x in (1, 2)]", "line 1 is not a plain value"),
        ("a.b = 1", "line 1 is not an assignment"),
        ("a = dict([1, 2])", "can't be read"),
        ("a = {**b}", "inside braces"),
        ("a = (", "can't be read"),
        ("a = dict({\"b': print(1), 'c\": 2})", "is not a plain key"),
        ("a = dict({'b\\\\': 2})", "is not a plain key"),
    ],
)
def test_code_in_a_config_is_not_run(text, message):
    with pytest.raises(InputError, match=f"the config inside some.pth.*{message}.*--config"):
        parse_config_text(text, "some.pth")


RUN = dict(type="os.system", command="mkdir made-by-a-checkpoint")
RETINA = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
FSDP = "mmengine.model.wrappers.fully_sharded_distributed"
#: options that put RUN into a config that is safe itself
SMUGGLED = {"model.backbone._delete_": True, **{f"model.backbone.{key}": value for key, value in RUN.items()}}


def forge(pair: TinyPair, changes: dict, path: Path) -> None:
    """The pair's checkpoint with another config inside; FOLDER in a value is the new checkpoint's own."""
    cfg = Config.fromfile(str(pair.pair))
    for key, value in changes.items():
        *parents, last = key.split(".")
        owner = cfg
        for name in parents:
            owner = owner[name]
        owner[last] = value.replace("FOLDER", str(path.parent)) if isinstance(value, str) else value
    checkpoint = load_plain(pair.folder / "iter_6.pth")
    checkpoint["meta"]["cfg"] = cfg.pretty_text
    torch.save(checkpoint, path)


@pytest.mark.parametrize(
    "forged",
    [
        {"model.architecture.backbone": RUN},
        {"model.architecture": RUN},
        {"model.data_preprocessor": RUN},
        {"model.architecture": dict(cfg_path="forged.py")},
        {"model.architecture": "forged.py"},
        {"model.architecture": "mmdet::FOLDER/forged.py"},
        {"model.architecture": "mmdet::../forged.py"},
        {"model.architecture": dict(cfg_path=RETINA, cfg_options=SMUGGLED)},
        {
            "model.architecture": "mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py"
        },  # whose detector reads its teacher's config
        {"model.architecture.backbone": dict(type="mmpretrain.VQAGenerationHead", answer_list_path="forged.pkl")},
        {"model.architecture.backbone": dict(type="mmpretrain.ArcFaceClsHead", margins="forged.txt")},
        {"model.architecture.backbone": dict(type="ATSSVLFusionHead", lang_model_name="forged")},
        {"model.architecture.backbone": dict(type=f"{FSDP}.MMFullyShardedDataParallel", auto_wrap_policy="this")},
        {"model.architecture.backbone.type": "torch.utils.model_dump.__main__.X"},
        {"model.architecture.backbone": dict(type="mmdet.apis.det_inferencer.DetInferencer", model="forged.py")},
        {"model.architecture.backbone": dict(type="mmpretrain.HuggingFaceClassifier", model_name="forged")},
        {"model.architecture.backbone._scope_": "forged"},
        {"default_scope": "forged"},
        {"model.architecture.test_cfg.rcnn.nms": dict(type="__import__('os').system('mkdir made-by-a-checkpoint')")},
        {"model.architecture.backbone.cmc": dict(type="CameraMotionCompensation", warp_mode="print()")},
        {"model.architecture.backbone.type": "mmengine.fileio.io.os.system"},
        {"model.architecture.backbone.type": "antigravity"},
        {"custom_hooks": [RUN]},
        {"custom_hooks": [dict(type="rekd_det.utils.atomic.replace_text", path="made-by-a-checkpoint", text="")]},
        {"custom_hooks": [dict(type="rekd_det.engine.hooks.safe_checkpoint_hook.CheckpointHook")]},
        {"default_hooks.logger": RUN},
        {"optim_wrapper.constructor": "os.system"},
    ],
    ids=lambda forged: "-".join(forged),
)
def test_a_config_in_a_checkpoint_names_registered_classes_alone(export, pair, tmp_path, monkeypatch, forged):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forged.py").write_text(
        "import os\nos.mkdir('made-by-a-checkpoint')\nmodel = dict(type='FasterRCNN')\n"
    )
    forge(pair, forged, tmp_path / "forged.pth")
    with pytest.raises(SystemExit, match=r"the config inside .*checkpoint 'forged.pth' names .* with --config"):
        export("forged.pth")
    assert not (tmp_path / "made-by-a-checkpoint").exists()
    assert not (tmp_path / "student.pth").exists()


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        ({"_base_": "forged.py"}, "has a `_base_`"),
        ({"test_pipeline": [{"_base_": "forged.py"}]}, "has a `_base_`"),
        ({"custom_imports": dict(imports=["forged"])}, "imports forged"),
        ({"data_root": "{{$HOME:x}}"}, r"has the text '\{\{\$HOME:x\}\}'"),
        ({"tag": {"{{ fileDirname }}": 1}}, "has the text"),
    ],
    ids=str,
)
def test_the_exported_config_runs_nothing_when_it_is_read(export, pair, tmp_path, monkeypatch, forged, message):
    monkeypatch.chdir(tmp_path)
    checkpoint = load_plain(pair.folder / "iter_6.pth")
    cfg = Config.fromfile(str(pair.pair)).to_dict() | forged
    checkpoint["meta"]["cfg"] = "".join(f"{key} = {value!r}\n" for key, value in cfg.items())
    torch.save(checkpoint, "forged.pth")
    with pytest.raises(SystemExit, match=f"the config inside checkpoint 'forged.pth' {message}.* --config"):
        export("forged.pth")


@pytest.mark.parametrize(
    "teacher", ["forged.py", "mmdet::FOLDER/forged.py", dict(cfg_path=RETINA, cfg_options=SMUGGLED), RUN]
)
def test_a_teacher_that_is_not_safe_to_build_is_left_out(export, pair, tmp_path, monkeypatch, teacher):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forged.py").write_text(
        "import os\nos.mkdir('made-by-a-checkpoint')\nmodel = dict(type='FasterRCNN')\n"
    )
    forge(pair, {"model.teacher": teacher}, tmp_path / "forged.pth")
    _, said = export("forged.pth")
    assert "0.22 M parameters" in said
    assert "its teacher" not in said
    assert not (tmp_path / "made-by-a-checkpoint").exists()
    forge(pair, {"model.teacher": RETINA}, tmp_path / "sound.pth")
    assert "its teacher: 37" in export("sound.pth")[1]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "coco_real").exists(), reason="needs real COCO images beside the repository")
def test_a_detector_of_known_ap_keeps_it_to_the_last_digit(export, tmp_path):
    """The weights of a trained YOLOX as if they were a student's: mmdet's own test entry measures its known AP."""
    stock = Config.fromfile(str(Path(mmdet.__file__).parent / ".mim/configs/yolox/yolox_nano_8xb8-300e_coco.py"))
    trained = torch.load(SHARED / "checkpoints" / "yolox_nano_coco_mmdet.pth", weights_only=True, map_location="cpu")
    cfg = Config(
        {**stock.to_dict(), "model": dict(type="mmrazor.ReKDDistill", architecture=stock.model, teacher=stock.model)}
    )
    state = {f"architecture.{k}": v for k, v in trained.get("state_dict", trained).items()}
    torch.save({"meta": dict(cfg=cfg.pretty_text), "state_dict": state}, tmp_path / "distilled.pth")
    path, said = export(tmp_path / "distilled.pth")
    assert "0.91 M parameters" in said
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "coco").symlink_to(SHARED / "data" / "coco_real")
    (tmp_path / "stock.py").write_text(load_plain(path)["meta"]["cfg"])
    (tmp_path / "faster.py").write_text(
        "_base_ = './stock.py'\ncustom_imports = dict(imports=['rekd_det'])\n"
        "test_evaluator = dict(type='FasterCocoMetric')\n"
    )
    options = ["--cfg-options", "test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]
    metrics = []
    for config in ("stock.py", "faster.py"):
        output = run(sys.executable, THEIR_TEST, config, path, *options, cwd=tmp_path)
        metrics.append(re.findall(r"(coco/bbox_mAP\w*: [\d.]+)", output))
    assert metrics[0][0] == "coco/bbox_mAP: 0.3190"
    assert metrics[0] == metrics[1]
