"""What a checkpoint that was read says: its weights, those of the student among them, and its categories."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor

STUDENT_PREFIX = "architecture."
_WRAPPER_PREFIX = "module."  # what DataParallel wrappers put before every key


def meta_of(checkpoint: Mapping) -> dict:
    """A checkpoint's 'meta', or an empty dict if it has none or something else there."""
    meta = checkpoint.get("meta")
    return meta if isinstance(meta, dict) else {}


def classes_of(checkpoint: Mapping) -> tuple[str, ...] | None:
    """The categories that a checkpoint's network was trained with, by label; None if it does not say."""
    # mmdet 3 writes dataset_meta['classes']; mmdet 2, and most of its zoo, meta['CLASSES'].
    meta = meta_of(checkpoint)
    dataset_meta = dataset_meta_of(checkpoint)
    for names in (dataset_meta.get("classes"), dataset_meta.get("CLASSES"), meta.get("CLASSES")):
        if isinstance(names, (list, tuple)) and names:
            return tuple(names)
    return None


def dataset_meta_of(checkpoint: Mapping) -> Mapping:
    """What a checkpoint says about its data set; empty if it says nothing.

    Of data sets that were joined, mmengine lists what each says if they differ in anything. The first one counts if all
    have the same classes.
    """
    found = meta_of(checkpoint).get("dataset_meta")
    if isinstance(found, list) and found and all(isinstance(one, Mapping) for one in found):
        classes = [one.get("classes") for one in found]
        found = found[0] if all(one == classes[0] for one in classes) else None
    return found if isinstance(found, Mapping) else {}


def strip_student_prefix(state_dict: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """The student's weights of a distillation checkpoint, under the names of a plain detector.

    Only the *leading* ``architecture.`` goes, and only if any key has it: then all other keys
    (the distiller's, a teacher's) are left out. A plain detector's weights keep their names. A
    ``module.`` that a parallel wrapper left in front goes too.

    Args:
        state_dict: Weights of a detector, or of a distillation algorithm around it.

    Returns:
        A new dict. The tensors are shared, and the version metadata is kept.
    """
    metadata = getattr(state_dict, "_metadata", {})
    for prefix in (_WRAPPER_PREFIX, STUDENT_PREFIX):
        if any(key.startswith(prefix) for key in state_dict):
            state_dict = _without_prefix(state_dict, prefix)
            # A module's key there lacks the final dot: the student's own is 'architecture'.
            dotted = _without_prefix({f"{key}.": value for key, value in metadata.items()}, prefix)
            metadata = {key.removesuffix("."): value for key, value in dotted.items()}
    stripped = OrderedDict(state_dict)
    # torch keeps the versions of the modules there, and passes them to their loaders.
    stripped._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]
    return stripped


def weights_of(checkpoint: Mapping) -> Mapping:
    """The weights of a checkpoint, with or without a ``state_dict`` level."""
    return checkpoint.get("state_dict", checkpoint)


def is_distilled(weights: Mapping) -> bool:
    """Whether weights are of a distillation: the student's are under ``architecture.``."""
    return any(key.removeprefix(_WRAPPER_PREFIX).startswith(STUDENT_PREFIX) for key in weights)


def _without_prefix(mapping: Mapping, prefix: str) -> dict:
    return {key[len(prefix) :]: value for key, value in mapping.items() if key.startswith(prefix)}
