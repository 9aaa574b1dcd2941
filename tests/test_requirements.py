"""Every import is declared: what users get in the stack's requirements, the rest in requirements-dev.txt as well."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from environment.stacks import installed_stack
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_wheel import TOOLS

ROOT = Path(__file__).resolve().parents[1]
OURS = {"rekd_det", "studies", "tools", "support", "environment"}
STACK = installed_stack()
#: what the package does without, where it is missing: Triton's kernels, rekd_det[eval], rekd_det[cls], and torchvision,
#: for which it has a stand-in
OPTIONAL = {
    canonicalize_name(STACK.replaced.get(name, name))
    for name in ("triton", "faster_coco_eval", "mmpretrain", "torchvision")
}


def declared(*files: str) -> set[str]:
    lines = [line for name in files for line in (ROOT / name).read_text().splitlines()]
    return {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}


def imports(files: list[Path]) -> Iterator[tuple[str, Path]]:
    """Top-level packages that files import anywhere, but for the standard library's and those of this repository."""
    siblings = {p.stem for p in files}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in {n.partition(".")[0] for n in names} - sys.stdlib_module_names - OURS - siblings:
                yield name, file


def undeclared(files: list[Path], requirements: set[str]) -> list[str]:
    distributions = packages_distributions()
    missing = []
    for name, file in imports(files):
        owners = {canonicalize_name(d) for d in distributions.get(name, [name])}
        if not owners & requirements:
            missing.append(f"{file.relative_to(ROOT)}: {name}")
    return missing


def test_what_users_get_imports_only_what_is_required():
    tools = [ROOT / "tools" / name for name in TOOLS if name.endswith(".py")]
    files = [*(ROOT / "rekd_det").glob("[!.]*/**/*.py"), *(ROOT / "rekd_det").glob("*.py"), *tools]
    assert not undeclared(files, declared(STACK.requirements) | OPTIONAL)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="packages_distributions() of 3.10 misses import-linter")
def test_all_else_imports_only_what_the_development_requires():
    files = [f for folder in ("studies", "tools", "tests", ".ci") for f in (ROOT / folder).rglob("*.py")]
    assert not undeclared(files, declared(STACK.requirements, "requirements-dev.txt") | OPTIONAL)
