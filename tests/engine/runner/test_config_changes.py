"""What a resume says about a changed config."""

from mmengine.config import Config

from rekd_det.engine.runner.config_changes import compare, describe_changes

_CONFIG = dict(
    model=dict(type="A", sizes=(1, 2), loss=dict(top_k=3)),
    optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1), clip_grad=dict(max_norm=1)),
    param_scheduler=[dict(type="LinearLR", end=5)],
    randomness=dict(seed=None),
    train_pipeline=[dict(type="Flip")],
    work_dir="a",
    load_from=None,
)


def changed(**options) -> Config:
    cfg = Config(_CONFIG)
    cfg.merge_from_dict(options, allow_list_keys=True)
    return cfg


def meta(**options) -> dict:
    return dict(cfg=changed(**options).pretty_text, seed=4)


def test_what_does_not_matter_is_not_told():
    assert describe_changes(meta(), Config(_CONFIG)) is None
    options = {"work_dir": "b", "load_from": "x.pth", "train_pipeline.0.type": "NoFlip"}  # a variable, read by nobody
    assert describe_changes(meta(), changed(**options)) is None


def test_each_key_with_the_value_in_force():
    new = changed(
        **{
            "optim_wrapper.optimizer.lr": 0.2,
            "optim_wrapper.clip_grad.max_norm": 2,
            "optim_wrapper.optimizer.type": "Adam",
            "param_scheduler.0.end": 9,
            "model.loss.top_k": 5,
            "randomness.seed": 7,
        }
    )
    new.val_cfg = dict(type="ValLoop")
    found = {c.key: (c.old, c.new, c.restored) for c in compare(Config(_CONFIG), new, seed=4)}
    assert found == {
        "optim_wrapper.optimizer.lr": ("0.1", "0.2", True),
        "optim_wrapper.optimizer.type": ("'SGD'", "'Adam'", False),
        "optim_wrapper.clip_grad.max_norm": ("1", "2", False),
        "param_scheduler.0.end": ("5", "9", True),
        "model.loss.top_k": ("3", "5", False),
        "randomness.seed": ("4", "7", True),
        "val_cfg.type": ("(not set)", "'ValLoop'", False),
    }
    text = describe_changes(meta(), new)
    assert "optim_wrapper.optimizer.lr: was 0.1, is 0.2; used: 0.1, the checkpoint's" in text
    assert "model.loss.top_k: was 3, is 5; used: 5, the config's" in text


def test_the_checkpoints_text_is_never_run(tmp_path):
    trap = tmp_path / "run"
    text = describe_changes(dict(cfg=f"a = open({str(trap)!r}, 'w')"), Config(_CONFIG))
    assert "It is unknown what has changed" in text and not trap.exists()
    assert "holds no config" in describe_changes({}, Config(_CONFIG))


def test_a_long_list_is_cut():
    new = changed(model=dict(_delete_=True, **{f"k{i}": i for i in range(50)}))
    assert "... and 1" in describe_changes(meta(), new)
