"""Read a checkpoint in torch's format before 1.6, which is no zip archive, and see that all its data are there."""

from __future__ import annotations

from typing import Any

import torch
from torch import serialization


def load_legacy(file: Any, map_location: Any, pickle_module: Any, **options: Any) -> Any:
    """In the place of ``torch.serialization._legacy_load``, which gives uninitialised memory for what a file lacks.

    A file is five pickles and then the bytes of its storages. The fourth pickle is the content: it asks for storages by
    key and gets them unfilled. The fifth lists the keys whose bytes follow. torch does not miss a storage that the list
    lacks, nor one that is asked for again while it has no bytes, and then grows under a larger tensor.

    Args:
        file: is open, and at its beginning.
        map_location: as for ``torch.load``.
        pickle_module: has ``load`` and ``Unpickler``, which take the options.

    Raises:
        RuntimeError: if storages lack bytes, or the file has another form.
    """
    place = serialization._get_restore_location(map_location)
    storages: dict[Any, tuple[torch.UntypedStorage, int]] = {}

    def storage_of(saved: Any) -> Any:
        _, kind, key, location, count, part = saved
        if part is not None:  # no torch since 1.0 writes that; a part dangles once the whole has grown
            raise RuntimeError(f"storage {key} is a part of another")
        if key not in storages:
            size = torch._utils._element_size(kind.dtype)
            storages[key] = place(torch.UntypedStorage(count * size), serialization._maybe_decode_ascii(location)), size
        return torch.storage.TypedStorage(wrap_storage=storages[key][0], dtype=kind.dtype, _internal=True)

    magic, version, _ = (pickle_module.load(file, **options) for _ in range(3))
    if (magic, version) != (serialization.MAGIC_NUMBER, serialization.PROTOCOL_VERSION):
        raise RuntimeError("no magic number at its beginning")
    reader = pickle_module.Unpickler(file, **options)
    reader.persistent_load = storage_of
    content = reader.load()
    keys = pickle_module.load(file, **options)
    if missing := storages.keys() - set(keys):
        raise RuntimeError(f"{len(missing)} of {len(storages)} storages have no data")
    direct = serialization._should_read_directly(file)
    for key in keys:
        storage, size = storages[key]
        storage._set_from_file(file, file.tell() if direct else None, direct, size)
    torch._utils._validate_loaded_sparse_tensors()
    return content
