"""Read pickles and YAML as data: proposals, annotations and results are not code."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml
from mmengine.fileio import get_local_path
from mmengine.fileio.handlers import PickleHandler, YamlHandler

from rekd_det.utils.data_pickle import DataUnpickler
from rekd_det.utils.errors import InputError


class _DataYamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader, and tuples, which mmengine writes.

    libyaml's parser where PyYAML has it: for each `mmdet::` in a config, mmengine reads mmdet's hundred metafiles.
    """


_DataYamlLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


class DataPickleHandler(PickleHandler):
    """mmengine's handler of pickles, which loads containers, numbers, arrays, tensors and data samples alone."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Read one object.

        Raises:
            InputError: if the pickle carries anything else, or is damaged.
        """
        try:
            return DataUnpickler(file, **kwargs).load()
        except InputError as error:
            raise InputError(
                f"a pickle that the config names (a .pkl file of proposals or annotations) carries code ({error}) and "
                "was refused: loading it could run anything. If you trust who made it, allow the class with "
                "torch.serialization.add_safe_globals([...]) in a module of `custom_imports`"
            ) from error
        except Exception as error:  # a damaged pickle may raise almost any exception
            raise InputError(
                "a pickle that the config names (a .pkl file of proposals or annotations) is damaged or none "
                f"({type(error).__name__}: {error})"
            ) from error


class DataYamlHandler(YamlHandler):
    """mmengine's handler of YAML, without the tags that call Python."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Read one document; tuples, which mmengine writes, are read as such."""
        return yaml.load(file, **{"Loader": _DataYamlLoader, **kwargs})


def read_relations(dataset: Any, hierarchy_file: str) -> np.ndarray:
    """In the place of ``OpenImagesChallengeDataset._get_relation_matrix``, which allows pickles in the file.

    Returns:
        ``(classes, classes)``: which category is which one's parent.

    Raises:
        InputError: if the file is not an array of numbers.
    """
    with get_local_path(hierarchy_file, backend_args=dataset.backend_args) as path:
        try:
            return np.load(path)[1:, 1:]
        except (ValueError, EOFError, IndexError) as error:
            raise InputError(f"hierarchy_file={hierarchy_file!r} is not a NumPy matrix of numbers: {error}") from error
