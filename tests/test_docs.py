"""The documents keep their word: commands, links, config snippets and the model index."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from importlinter.api import read_configuration

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "studies/results/README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)


def blocks(language):
    return [
        pytest.param(page, match, id=f"{page.stem}-{i}")
        for page in PAGES
        for i, match in enumerate(FENCE.finditer(page.read_text()))
        if match["language"] == language
    ]


@pytest.mark.parametrize(("page", "match"), blocks("bash"))
def test_every_command_is_run_by_a_test_or_says_what_it_needs(page, match):
    mark = match["mark"] or ""
    kind, _, value = mark.partition(": ")
    assert kind in ("needs", "run by"), (
        f"{page.name}: mark the block with <!-- needs: ... --> or <!-- run by: tests/... -->"
    )
    commands = [line.split("#")[0] for line in match["code"].splitlines() if line.split("#")[0].strip()]
    named = [word for line in commands for word in line.split() if word.startswith(("tools/", "configs/"))]
    for path in named:
        assert (ROOT / path).exists(), f"{page.name} names {path}"
    if kind == "run by":
        test = re.sub(r"(?m)(^|\s)#.*$", "", (ROOT / value).read_text())  # a comment runs nothing
        if "quickstart.ipynb" in test:
            test += (ROOT / "docs/quickstart.ipynb").read_text()
        tools = [Path(path).name for path in named if path.startswith("tools/")]
        made = [line for line in commands if line.startswith("make ")]
        for line in made:
            recipe = re.search(rf"(?m)^{line.split()[1]}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
            assert recipe, f"{page.name}: the Makefile has no target of `{line}`"
            tools += re.findall(r"tools/(\S+\.py)", recipe[1])
        assert tools or made
        for name in tools:
            assert name in test, f"{value} does not run {name}"


@pytest.mark.parametrize(("page", "match"), blocks("python"))
def test_python_blocks_parse(page, match):
    ast.parse(match["code"])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        if target.startswith("http"):
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"(?m)^#+ (.*)", linked.read_text())
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_named_files_exist(page):
    named = re.findall(r"`((?:configs|tools|docs|tests|studies|rekd_det)/[\w/.-]+)`", page.read_text())
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_model_index_is_whole():
    paths = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
    assert paths == ["configs/metafile.yml", "configs/cls/metafile.yml"]
    for path in paths:
        index = yaml.safe_load((ROOT / path).read_text())
        collections = {c["Name"] for c in index["Collections"]}
        listed = {m["Config"] for m in index["Models"]}
        assert {m["In Collection"] for m in index["Models"]} <= collections
        assert listed == {str(p.relative_to(ROOT)) for p in (ROOT / path).parent.glob("*.py")}
        # Nothing was trained at full size here, so nothing may be claimed.
        assert not any("Results" in m for m in index["Models"])


def test_the_reference_is_up_to_date(run_tool):
    run_tool("make_reference.py", "--check")  # leaves with an error if not


def test_mim_finds_the_index_and_the_configs_in_the_package():
    mim = ROOT / "rekd_det" / ".mim"
    for name in ("configs", "tools", "model-index.yml"):
        assert (mim / name).resolve() == ROOT / name


def test_the_map_names_every_room_and_no_other():
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"^\| `(rekd_det/[\w/]+)/` \|", page, re.MULTILINE))
    package = ROOT / "rekd_det"
    rooms = {p.parent for p in package.glob("*/__init__.py")} - {package / "models", package / "engine"}
    rooms |= {p.parent for room in ("models", "engine") for p in (package / room).glob("*/__init__.py")}
    rooms.add(package / "models" / "losses" / "kernels")
    assert named == {str(room.relative_to(ROOT)) for room in rooms}


def test_the_layers_of_the_page_are_those_of_the_contracts():
    page = (ROOT / "docs" / "architecture.md").read_text()
    options = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    contracts = {contract["id"]: contract for contract in options}

    def order(layers):
        return [set(re.split(r" \| |, ", layer.strip())) for layer in layers]

    rooms = re.search(r"^    (utils < structures.*)$", page, re.MULTILINE)[1]
    below = order(reversed(contracts["rooms"]["layers"])) + order(reversed(contracts["outside"]["layers"][:2]))
    assert order(rooms.split("<")) == below
    models = re.search(r"^    inside models: (.*)$", page, re.MULTILINE)[1]
    assert order(models.split("<")) == order(reversed(contracts["models"]["layers"]))
