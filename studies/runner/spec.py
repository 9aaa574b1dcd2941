"""What a study consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: the name under which a report lists the teacher
TEACHER = "teacher"
#: and the trainings of the backbones
PRETRAIN = "pretrain"


@dataclass(frozen=True)
class Arm:
    """One way to train, compared with the others.

    Attributes:
        name: unique in its study.
        config: config file of a detector or of a pair.
        options: dotted keys of the config and their values, as ``--cfg-options`` would set them.
        seeds: it is trained once with each.
        about: a line for the report.
        validate: epochs (or iterations) between validations during the training; 0 for none.
        taught_by: name of the study's teacher that teaches it, where it is a pair; None: the study's only one.
        pair: name of the comparison that it belongs to, where a study holds several; None where it holds one.
    """

    name: str
    config: Path
    options: dict[str, Any]
    seeds: tuple[int, ...]
    about: str = ""
    validate: int = 0
    taught_by: str | None = None
    pair: str | None = None


@dataclass(frozen=True)
class Comparable:
    """One of several comparisons of a study: the arms that share a student and a teacher.

    Attributes:
        baseline: the arm that differences are taken to.
        zoo: figures of mmdet's model zoo, by whose they are ('student', 'teacher') and metric.
    """

    baseline: str
    zoo: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pretraining(Arm):
    """What trains every detector's backbone before the detectors are trained; once for each backbone.

    Attributes:
        data_root: folder in place of its config's own.
    """

    data_root: Path | None = None


@dataclass(frozen=True)
class Study:
    """Arms, each with its seeds.

    Attributes:
        name: names the folder of its results.
        data: arguments of :func:`rekd_det.datasets.synthetic.build_dataset`; None leaves the configs' own data.
        teacher: is trained once and teaches all pairs; None leaves the pairs' own, but for arms that name one of
            ``teachers``.
        pretrain: None leaves the backbones as their configs initialise them.
        baseline: the arm that differences are taken to.
        against: further arms that differences are taken to, each in a table of its own.
        arms: in the order of the report.
        data_root: folder in place of the ``data_root`` of the arms' and the teacher's configs; None leaves theirs.
        teachers: by name, for arms and teachers that name theirs; a teacher may be a pair itself.
        pairs: by name, where the study holds several comparisons.
        results: what was committed of studies, see :class:`studies.runner.committed.Committed`.
    """

    name: str
    data: dict[str, Any] | None
    teacher: Arm | None
    pretrain: Pretraining | None
    baseline: str
    against: tuple[str, ...]
    arms: tuple[Arm, ...]
    data_root: Path | None = None
    results: Path | None = None
    teachers: dict[str, Arm] = field(default_factory=dict)
    pairs: dict[str, Comparable] = field(default_factory=dict)
