"""Warm-up, the check of categories, and MMRazor's stop hook with our algorithm."""

import contextlib
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.logging import MessageHub
from mmengine.runner import LogProcessor
from mmrazor.registry import HOOKS
from tiny import batch, build, build_pair, perturb, tiny_rcnn
from torch.utils.data import DataLoader

from rekd_det.apis.hook_options import check_hooks
from rekd_det.engine.hooks import DistillLogHook, DistillWarmupHook, PairCheckHook
from rekd_det.engine.utils import distillation_of
from rekd_det.utils.errors import InputError

NAMES = ("lr", "acc", "loss", "s0.loss_cls", "distill.head_mass", "distill.s0.agreement", "distill.scale")


@pytest.fixture
def model():
    return build_pair(tiny_rcnn(), teacher=perturb(build(tiny_rcnn())))


def runner_of(model, **kwargs):
    kwargs = dict(val_loop=None) | kwargs
    return SimpleNamespace(model=model, logger=SimpleNamespace(info=lambda *_: None), **kwargs)


def test_warmup_is_linear_and_then_one(model):
    hook = DistillWarmupHook(iters=4)
    seen = []
    for i in range(6):
        hook.before_train_iter(runner_of(model, iter=i), 0)
        seen.append(model.distiller.scale)
    assert seen == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_warmup_scales_losses_but_not_statistics(model):
    import torch

    data = batch(model)
    results = []
    for scale in (1.0, 0.25):
        model.distiller.scale = scale
        torch.manual_seed(0)
        results.append(model(**data, mode="loss"))
    for key in ("distill.loss_tisd", "distill.loss_ntid"):
        torch.testing.assert_close(results[1][key], 0.25 * results[0][key])
    assert torch.equal(results[0]["distill.head_mass"], results[1]["distill.head_mass"])
    assert torch.equal(results[0]["loss_cls"], results[1]["loss_cls"])


def test_warmup_over_epochs(model):
    hook = DistillWarmupHook(epochs=2)
    hook.before_train(runner_of(model, train_dataloader=range(5), max_iters=10))
    for step, scale in ((0, 0.1), (4, 0.5), (9, 1.0), (20, 1.0)):
        hook.before_train_iter(runner_of(model, iter=step), step)
        assert model.distiller.scale == pytest.approx(scale)


def test_warmup_over_epochs_of_several_processes(model):
    data = list(range(20))
    hook = DistillWarmupHook(epochs=2)
    sampler = InfiniteSampler(data)
    sampler.world_size = 2  # 10 samples for each process, whatever the sampler's own length says
    loader = DataLoader(data, batch_size=2, sampler=sampler)
    hook.before_train(runner_of(model, train_dataloader=loader, max_iters=10))
    assert hook.iters == 2 * 5


def test_a_warmup_that_outlasts_the_training_is_told(model):
    with pytest.warns(UserWarning, match=r"for 20 iterations, and the training ends after 5, at a weight of 0\.25"):
        DistillWarmupHook(iters=20).before_train(runner_of(model, max_iters=5))


@pytest.mark.parametrize("options", [{}, dict(iters=3, epochs=2)])
def test_warmup_has_one_length(options):
    with pytest.raises(ValueError, match="give either iters or epochs"):
        DistillWarmupHook(**options)


@pytest.mark.parametrize("iters", [0, -1, 2.5, "100", True])
def test_warmup_length(iters):
    with pytest.raises(ValueError, match="DistillWarmupHook: iters must be an int >= 1"):
        DistillWarmupHook(iters=iters)


def test_mmrazors_stop_hook_stops_the_teacher(model):
    hook = HOOKS.build(dict(type="mmrazor.StopDistillHook", stop_epoch=3))
    for epoch, stopped in ((2, False), (3, True)):
        hook.before_train_epoch(runner_of(model, epoch=epoch))
        assert model.distillation_stopped is stopped
    model.teacher.extract_feat = None  # any use raises
    assert not any(k.startswith("distill") for k in model(**batch(model), mode="loss"))


@pytest.mark.parametrize("train_cfg", [dict(type="IterBasedTrainLoop", max_iters=4), dict(by_epoch=False)])
def test_a_stop_hook_that_never_stops_is_told(train_cfg):
    cfg = Config(dict(custom_hooks=[dict(type="mmrazor.StopDistillHook", stop_epoch=1)], train_cfg=train_cfg))
    with pytest.warns(UserWarning, match="custom_hooks.0: StopDistillHook counts epochs"):
        check_hooks(cfg)
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)), train_cfg=train_cfg))
    with pytest.warns(
        UserWarning, match=r"default_hooks\.checkpoint\.by_epoch is True, .*no checkpoint is saved before"
    ):
        check_hooks(cfg)


def test_a_stop_behind_the_end_is_told():
    cfg = Config(dict(custom_hooks=[dict(type="mmrazor.StopDistillHook", stop_epoch=12)]))
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12)
    with pytest.warns(UserWarning, match=r"custom_hooks\.0\.stop_epoch=12 is not before the end .*max_epochs=12"):
        check_hooks(cfg)


def data_of(classes):
    return SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes) if classes else {}))


@pytest.mark.parametrize(
    ("val", "message"),
    [
        (None, None),
        ("abc", None),
        ("acb", "category 1 is 'b' in the training set, which has 3 categories, and 'c' in the validation set"),
        ("ab", "category 2 is 'c' in the training set, which has 3 categories, and None in the validation set"),
    ],
)
@pytest.mark.parametrize("teacher", [None, "abc"])
def test_the_validation_has_the_trainings_categories(model, val, message, teacher):
    model.teacher_classes = teacher and tuple(teacher)
    loop = SimpleNamespace(dataloader=data_of(val and tuple(val)))
    runner = runner_of(model, train_dataloader=data_of(list("abc")), val_loop=loop)
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        PairCheckHook().before_train(runner)


def test_each_of_several_joined_data_sets_is_checked(model):
    model.teacher_classes = tuple("abc")
    joined = SimpleNamespace(metainfo=[dict(classes=tuple("abc"), palette=[1]), dict(classes=tuple("acb"))])
    with pytest.raises(ValueError, match="category 1 is 'c' in the data set"):
        PairCheckHook().before_train(runner_of(model, train_dataloader=SimpleNamespace(dataset=joined)))


@pytest.mark.parametrize("val", [None, ("cell",)])
@pytest.mark.parametrize("teacher", [None, ("cell",)])
def test_one_category_without_its_comma_is_an_error(model, teacher, val):
    model.teacher_classes = teacher
    loop = SimpleNamespace(dataloader=data_of(val))
    with pytest.raises(ValueError, match=r"metainfo\.classes of the data set is a string.* write \('cell',\)"):
        PairCheckHook().before_train(runner_of(model, train_dataloader=data_of("cell"), val_loop=loop))


def test_unknown_categories_are_not_an_error(model):
    model.teacher_classes = ("a",)
    PairCheckHook().before_train(runner_of(model, train_dataloader=data_of(None)))


def test_hooks_say_when_there_is_nothing_to_distil():
    with pytest.raises(TypeError, match="not FasterRCNN"):
        distillation_of(runner_of(build(tiny_rcnn())))


def test_statistics_are_averaged_and_the_warmup_is_logged(model):
    log = LogProcessor()
    hub = MessageHub.get_instance("test_statistics_are_averaged")
    runner = runner_of(model, log_processor=log, hooks=[DistillWarmupHook(iters=4)], message_hub=hub, iter=0)
    hook = DistillLogHook()
    hook.before_train(runner)
    averaged = {n for n in NAMES if log.mean_pattern.search(n)}
    assert averaged == {"loss", "s0.loss_cls", "distill.head_mass", "distill.s0.agreement"}
    runner.hooks[0].before_train_iter(runner, 0)
    hook.after_train_iter(runner, 0)
    assert hub.get_scalar("train/distill.scale").current() == 0.25


def test_a_stopped_distillation_leaves_the_log(model):
    hub = MessageHub.get_instance("test_a_stopped_distillation")
    hook, stop = DistillLogHook(), HOOKS.build(dict(type="mmrazor.StopDistillHook", stop_epoch=1))
    logged = []
    for epoch in range(3):
        runner = runner_of(model, log_processor=LogProcessor(), hooks=[], message_hub=hub, epoch=epoch)
        if epoch == 0:
            hook.before_train(runner)
        stop.before_train_epoch(runner)
        hook.before_train_iter(runner, 0)
        names = ["loss"] if model.distillation_stopped else ["loss", "distill.loss_tisd", "distill.head_mass"]
        hub.update_scalars({f"train/{name}": 1.0 for name in names})
        logged.append(sorted(hub.log_scalars))
    first = ["train/distill.head_mass", "train/distill.loss_tisd", "train/loss"]
    assert logged == [first, ["train/loss"], ["train/loss"]]
    assert hub.state_dict()["resumed_keys"].keys() == {"train/loss"}  # mmengine would warn of the others at a resume


def test_no_warmup_no_scale_in_the_log(model):
    hub = MessageHub.get_instance("test_no_warmup")
    runner = runner_of(model, log_processor=LogProcessor(), hooks=[], message_hub=hub)
    hook = DistillLogHook()
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    assert not hub.log_scalars
