"""Read a study from its YAML file; every mistake is named by its key."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rekd_det.datasets.synthetic import build_dataset
from rekd_det.utils.errors import InputError, did_you_mean
from studies.runner.spec import PRETRAIN, TEACHER, Arm, Comparable, Pretraining, Study

_DATA_KEYS = [p for p in inspect.signature(build_dataset).parameters if p not in ("root", "workers")]
_NAME = re.compile(r"\w[\w.-]*")


def read_study(path: Path) -> Study:
    """Read and check a study file. Paths in it are relative to its own folder.

    Raises:
        InputError: it is missing, not YAML, or a key is unknown, missing or of the wrong kind.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise InputError(f"study '{path}' can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"study '{path}' is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        return _study(content, path.parent)
    except InputError as error:
        raise InputError(f"study '{path}': {error}") from error


class _UniqueKeys(yaml.SafeLoader):
    """YAML as it is, but a key that is given twice is an error, where PyYAML would drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.2's floats: PyYAML reads `1e-3` as text.
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


# YAML has no tuple, and some options must be one: the (width, height) of a scale.
_UniqueKeys.add_constructor("!tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))


def _study(content: object, folder: Path) -> Study:
    known = (
        *("name", "data", "data_root", "teacher", "teachers", "pretrain", "seeds", "baseline", "against", "pairs"),
        *("options", "arms"),
    )
    keys = _mapping(content, "the file", known)
    for key in ("name", "seeds", "baseline", "arms"):
        if key not in keys:
            raise InputError(f"the key '{key}' is missing")
    name = keys["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"name must be one word, because it names a folder; got {name!r}")
    common = _options(keys.get("options"), "options")
    seeds = _seeds(keys["seeds"])
    arms = tuple(_arm(n, a, common, folder, seeds) for n, a in _mapping(keys["arms"], "arms").items())
    names = [arm.name for arm in arms]
    teachers = {n: _teacher(t, common, folder, n) for n, t in _optional(keys, "teachers").items()}
    for arm in (*arms, *teachers.values()):
        if arm.taught_by is not None and arm.taught_by not in teachers:
            raise InputError(f"{arm.name}: there is no teacher '{arm.taught_by}'; teachers are {list(teachers)}")
    pairs = {n: _pair(n, p, arms) for n, p in _optional(keys, "pairs").items()}
    for arm in arms:
        if (arm.pair is None) == bool(pairs) or (arm.pair is not None and arm.pair not in pairs):
            raise InputError(f"arms.{arm.name}.pair must be one of the study's pairs {list(pairs)}, got {arm.pair!r}")
    if keys["baseline"] not in names:
        raise InputError(f"baseline must be one of the arms ({', '.join(names)}), got {keys['baseline']!r}")
    for arm in arms:
        _check_paired(arm, arms[names.index(pairs[arm.pair].baseline if arm.pair else keys["baseline"])])
    against = keys.get("against") or []
    if not isinstance(against, list) or not all(name in names for name in against):
        raise InputError(f"against must be a list of arms ({', '.join(names)}), got {against!r}")
    data = keys.get("data")
    if data is not None:
        data = dict(_mapping(data, "data", _DATA_KEYS))
        if "preset" not in data:
            raise InputError("data: the key 'preset' is missing")
    teacher, pretrain = keys.get("teacher"), keys.get("pretrain")
    return Study(
        name=name,
        data=data,
        teacher=None if teacher is None else _teacher(teacher, common, folder),
        pretrain=None if pretrain is None else _pretraining(pretrain, common, folder),
        baseline=keys["baseline"],
        against=tuple(against),
        arms=arms,
        data_root=_folder(keys.get("data_root"), "data_root", folder),
        results=folder / "results",
        teachers=teachers,
        pairs=pairs,
    )


def _arm(name: object, content: object, common: dict, folder: Path, seeds: tuple[int, ...]) -> Arm:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"arms: an arm's name must be one word, got {name!r}")
    if name.partition(".")[0] in (TEACHER, PRETRAIN):
        raise InputError(f"arms: '{name}' names a training that the arms build on; rename the arm")
    key = f"arms.{name}"
    keys = _mapping(content, key, ("config", "options", "seeds", "about", "validate", "teacher", "pair"))
    about = keys.get("about") or ""
    if not isinstance(about, str):
        raise InputError(f"{key}.about must be text, got {about!r}")
    options = common | _options(keys.get("options"), f"{key}.options")
    own = _seeds(keys["seeds"], f"{key}.seeds") if "seeds" in keys else seeds
    config, validate = _config(keys, key, folder), _validate(keys, key)
    taught_by, pair = (_name_of(keys, part, key) for part in ("teacher", "pair"))
    return Arm(name, config, options, own, about, validate, taught_by, pair)


def _check_paired(arm: Arm, baseline: Arm) -> None:
    alone = sorted(set(arm.seeds) - set(baseline.seeds))
    if alone:
        raise InputError(
            f"arms.{arm.name}.seeds: the baseline '{baseline.name}' has no seed {', '.join(map(str, alone))}, so "
            f"there is nothing to compare with; give it to arms.{baseline.name}.seeds too"
        )


def _teacher(content: object, common: dict, folder: Path, name: str | None = None) -> Arm:
    key = TEACHER if name is None else f"teachers.{name}"
    keys = _mapping(content, key, ("config", "options", "seed", "validate", "teacher"))
    options = common | _options(keys.get("options"), f"{key}.options")
    seeds = _seeds([keys.get("seed", 0)], f"{key}.seed")
    config, validate = _config(keys, key, folder), _validate(keys, key)
    name = TEACHER if name is None else f"{TEACHER}.{name}"
    return Arm(name, config, options, seeds, "", validate, _name_of(keys, "teacher", key))


def _pair(name: object, content: object, arms: Collection[Arm]) -> Comparable:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"pairs: a pair's name must be one word, because it names files; got {name!r}")
    key = f"pairs.{name}"
    keys = _mapping(content, key, ("baseline", "zoo"))
    names = [arm.name for arm in arms if arm.pair == name]
    if keys.get("baseline") not in names:
        raise InputError(f"{key}.baseline must be one of its arms ({', '.join(names)}), got {keys.get('baseline')!r}")
    zoo = _optional(keys, "zoo", key, ("student", "teacher"))
    figures = {who: dict(_mapping(v, f"{key}.zoo.{who}")) for who, v in zoo.items()}
    for who, of in figures.items():
        for metric, value in of.items():
            if type(value) not in (int, float):
                raise InputError(f"{key}.zoo.{who}.{metric} must be a number, got {value!r}")
    return Comparable(keys["baseline"], figures)


def _pretraining(content: object, common: dict, folder: Path) -> Pretraining:
    keys = _mapping(content, PRETRAIN, ("config", "options", "seed", "data_root"))
    options = common | _options(keys.get("options"), f"{PRETRAIN}.options")
    seeds = _seeds([keys.get("seed", 0)], f"{PRETRAIN}.seed")
    config, root = _config(keys, PRETRAIN, folder), _folder(keys.get("data_root"), f"{PRETRAIN}.data_root", folder)
    return Pretraining(PRETRAIN, config, options, seeds, data_root=root)


def _config(keys: Mapping, key: str, folder: Path) -> Path:
    value = keys.get("config")
    if not isinstance(value, str):
        raise InputError(f"{key}.config must be the path of a config file, got {value!r}")
    path = (folder / value).resolve()
    if not path.is_file():
        raise InputError(f"{key}.config: '{path}' does not exist (paths start at the study file's folder)")
    return path


def _folder(value: object, key: str, start: Path) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InputError(f"{key} must be the path of a folder, got {value!r}")
    return (start / Path(value).expanduser()).absolute()


def _validate(keys: Mapping, key: str) -> int:
    value = keys.get("validate", 0)
    if type(value) is not int or value < 0:
        raise InputError(f"{key}.validate must be a whole number of epochs, got {value!r}")
    return value


def _name_of(keys: Mapping, part: str, key: str) -> str | None:
    value = keys.get(part)
    if not isinstance(value, str | None):
        raise InputError(f"{key}.{part} must be the name of one of the study's {part}s, got {value!r}")
    return value


def _optional(keys: Mapping, name: str, of: str = "", known: Collection[str] | None = None) -> Mapping:
    return {} if keys.get(name) is None else _mapping(keys[name], f"{of}.{name}".lstrip("."), known)


def _options(value: object, key: str) -> dict[str, Any]:
    options = {} if value is None else dict(_mapping(value, key))
    for option in options:
        if not isinstance(option, str):
            raise InputError(f"{key}: a key of the config is text, got {option!r}")
    return options


def _seeds(value: object, key: str = "seeds") -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(s) is int and 0 <= s < 2**32 for s in value):
        raise InputError(f"{key} must be whole numbers from 0 to 2**32 - 1, got {value!r}")
    if len(set(value)) < len(value):
        raise InputError(f"{key}: a seed is given twice in {value!r}")
    return tuple(value)


def _mapping(value: object, key: str, known: Collection[str] | None = None) -> Mapping:
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"{key} must be a mapping of keys to values, got {value!r}")
    for name in value:
        if known is not None and name not in known:
            hint = did_you_mean(str(name), known) or f"; known are {', '.join(known)}"
            raise InputError(f"{key}: the key '{name}' is unknown{hint}")
    return value
