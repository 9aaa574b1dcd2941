"""Read the config that a checkpoint carries as text, without running it."""

from __future__ import annotations

import ast
import math
from typing import Any

from mmengine.config import Config

from rekd_det.utils.errors import InputError

_NAMES = {"inf": math.inf, "nan": math.nan}


def parse_config_text(text: str, source: str) -> Config:
    """The config in ``Config.pretty_text``'s form: assignments of literals and ``dict(...)``, nothing else.

    mmengine's ``Config.fromstring`` would execute the text, and a checkpoint must not run code.

    Args:
        text: the config.
        source: where it comes from, for the message.

    Raises:
        InputError: if the text is anything else; it names the line.
    """
    values: dict[str, Any] = {}
    try:
        for statement in ast.parse(text).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                raise ValueError(f"line {statement.lineno} is not an assignment")
            values[statement.targets[0].id] = _value(statement.value)
        return Config(values)
    except (SyntaxError, TypeError, ValueError, KeyError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"the config inside {source} can't be read ({reason}); give the file with --config") from error


def _key(node: ast.expr) -> Any:
    key = _value(node)
    if isinstance(key, str) and any(c in "'\\" or not c.isprintable() for c in key):
        # mmengine writes keys without escapes: this one would be code in the text of another checkpoint
        raise ValueError(f"line {node.lineno}: {key!r} is not a plain key")
    return key


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        # dict({...}) is how keys are written that are not names; **{...} stands for some of them
        entries = [*node.args, *(k.value for k in node.keywords if k.arg is None)]
        out = {key: value for entry in entries for key, value in dict(_value(entry)).items()}
        return {**out, **{k.arg: _value(k.value) for k in node.keywords if k.arg is not None}}
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError(f"line {node.lineno}: `**` inside braces is not supported")
        return {_key(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(map(_value, node.elts))
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError(f"line {node.lineno} is not a plain value")
