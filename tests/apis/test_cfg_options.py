"""What ``--cfg-options`` reads, and what it says about what it can't."""

import pytest
from mmengine.config import DictAction

from rekd_det.apis.command_line import ToolParser, add_common_arguments


def read(*pairs: str) -> dict:
    parser = ToolParser()
    add_common_arguments(parser)
    return parser.parse_args(["--cfg-options", *pairs]).cfg_options


@pytest.mark.parametrize(
    "value",
    [
        *[
            "3",
            "-2.5",
            "1e-4",
            " 7 ",
            "true",
            "False ",
            "None",
            "x",
            "'x'",
            '"x"',
            "",
            "a=b",
            "/a(1)/b",
            "s3://bucket/x",
        ],
        *["1,2", "a, b", "[1, 2]", "(1,)", "[]", "()", "[a]", "'[1, 2]'", "[(1, 2), [a, 'b'], None]", "((1,2),(3,4))"],
        *["x,", ",", "'a','b'", "[1],2", "a(b", "a]"],
    ],
)
def test_forms_of_mmengine_are_read_as_ever(value):
    mine, theirs = read(f"k={value}")["k"], DictAction._parse_iterable(value)
    assert mine == theirs and type(mine) is type(theirs)


@pytest.mark.parametrize("value", ["/data ü x/", "a  b", "1 2", "/data/(old) set", "/data/x [1]/y z"])
def test_a_plain_value_keeps_its_blanks(value):
    assert read(f"k={value}") == {"k": value}
    assert read(f"k='{value}'") == {"k": value}


def test_options_add_up():
    parser = ToolParser()
    add_common_arguments(parser)
    args = parser.parse_args(["--cfg-options", "a.b=1", "c=x y", "--cfg-options", "d=[1,2]"])
    assert args.cfg_options == {"a.b": 1, "c": "x y", "d": [1, 2]}


def test_tuples_make_a_list():
    """DictAction ends on the first with a RecursionError, after a while, and so it does on a path like the second."""
    assert read("k=(1,2), (3,4)") == {"k": [(1, 2), (3, 4)]}
    assert read("k=/x (a,b)/y") == {"k": "/x (a,b)/y"}


def refused(tool: str, words, run_tool, capsys) -> str:
    with pytest.raises(SystemExit) as left:
        run_tool(f"{tool}.py", "pair.py", "--cfg-options", *words)
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.distiller.loss.top_k", "3"], "'model.distiller.loss.top_k' is not KEY=VALUE: write it as"),
        (["a=[1,(2]"], "'a=[1,(2]': the brackets do not match; write KEY=\"[a,b]\""),
        (["a=(1,2]"], "'a=(1,2]': the brackets do not match"),
        (["a=1,2]"], "'a=1,2]': the brackets do not match"),
        (["a=[8"], "'a=[8': the brackets do not match"),
    ],
)
def test_what_is_no_option_ends_a_tool_with_its_usage(words, message, run_tool, capsys):
    assert f"error: argument --cfg-options: {message}" in refused("train", words, run_tool, capsys)


@pytest.mark.parametrize("tool", ["test", "check_pair", "analysis/head_tail", "benchmark/step", "benchmark/levels"])
def test_all_tools_say_so(tool, run_tool, capsys):
    assert "error: argument --cfg-options: 'a' is not KEY=VALUE" in refused(tool, ["a", "3"], run_tool, capsys)
