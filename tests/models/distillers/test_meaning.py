"""A loss and a weighting of rows that the head's logits have no meaning for are refused before training."""

import pytest
import torch
from one_step import run_step
from tiny import build_pair, tiny_rcnn
from zoo_pairs import perturbed_pair, zoo_pair

from rekd_det.models.distillers.row_weighting import row_weight
from rekd_det.structures import LogitMeaning
from rekd_det.testing.tiny_detectors import build_random, pair_of, tiny_config

CROWDDET = "crowddet/crowddet-rcnn_refine_r50_fpn_8xb2-30e_crowdhuman.py"
RETINA = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
CONDITIONAL = ["mmdet::yolox/yolox_tiny_8xb8-300e_coco.py", "mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py"]


def test_crowddet_rows_weigh_as_their_own_head_sees_objects():
    model, batch = zoo_pair(CROWDDET, (64, 96))
    model = perturbed_pair(model)
    (entry,) = run_step(model, batch).rows
    assert entry.meaning == LogitMeaning("softmax", background=0)
    # mmdet's own prediction: `cls_score.softmax(1)`, whose column 0 is left out as the background.
    own = entry.teacher.softmax(1)[:, 1:].sum(1)
    torch.testing.assert_close(row_weight(entry, "teacher"), own)
    assert not torch.allclose(row_weight(entry, "teacher"), 1 - entry.teacher.softmax(1)[:, -1])


@pytest.mark.parametrize("activation", ["sigmoid", "implicit_bg"])
def test_a_softmax_head_is_read_as_a_softmax(activation):
    loss = dict(type="mmrazor.ReKDLoss", top_k=3, activation=activation)
    with pytest.raises(ValueError, match=rf"model\.distiller\.loss\.activation='{activation}': StandardRoIHead clas"):
        build_pair(tiny_rcnn(), loss=loss)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "implicit_bg"])
def test_a_sigmoid_head_may_be_read_in_three_ways(activation):
    loss = dict(type="mmrazor.ReKDLoss", top_k=3, activation=activation)
    model = pair_of(build_random(tiny_config(RETINA)), build_random(tiny_config(RETINA)), loss)
    assert model.distiller.loss.activation == activation


@pytest.mark.parametrize("path", CONDITIONAL)
def test_scores_that_hold_where_an_object_is_do_not_weigh_rows(path):
    config = tiny_config(path)
    with pytest.raises(ValueError, match=r"model\.distiller\.rows='teacher' .* has a separate objectness.*'object'"):
        pair_of(build_random(config), build_random(config), rows="teacher")


@pytest.mark.parametrize("loss", [dict(type="BCKDLoss"), dict(type="ReKDLoss", tisd="split")])
def test_losses_for_sigmoids_say_which_head_has_none(loss):
    with pytest.raises(
        ValueError, match=r"model\.distiller\.loss: StandardRoIHead classifies by softmax: .*activation"
    ):
        build_pair(tiny_rcnn(), loss=loss)


def test_options_for_sigmoids_need_no_activation_in_the_config():
    loss = dict(type="ReKDLoss", top_k=3, tisd="split", gamma=1.0)
    model = pair_of(build_random(tiny_config(RETINA)), build_random(tiny_config(RETINA)), loss)
    assert model.distiller.loss.activation == "sigmoid" and model.distiller.loss.gamma == 1


def test_the_background_that_the_head_names_stays_out_of_the_set():
    model = build_pair(tiny_rcnn(), loss=dict(type="ReKDLoss", top_k=2, foreground_only=True))
    assert model.distiller.loss.kernel_spec().background == 6
