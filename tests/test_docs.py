"""The pages hold together: links lead somewhere, code runs, commands exist; so does the site."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mad_lightning.commands.configs import names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "configs" / "README.md"]
NOTEBOOK = json.loads((DOCS / "quickstart.ipynb").read_text())


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", path.read_text(), re.DOTALL | re.MULTILINE)


def anchors(path):
    """Headings as a site and a forge link to them."""
    headings = re.findall(r"^#+ +(.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"\{download\}`.*?<(.*?)>`", text)
    for target in targets:
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=name_of)
def test_what_a_page_takes_from_another_is_there(path):
    text = path.read_text()
    for target, options in re.findall(r"```\{include\} (\S+)\n(.*?)```", text, re.DOTALL):
        other = (path.parent / target).read_text()
        for end in re.findall(r':(?:start-after|end-before): "(.*)"', options):
            assert other.count(end) == 1, end
    for entry in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
        for name in re.sub("^:.*$", "", entry, flags=re.MULTILINE).split():
            assert (DOCS / f"{name}.md").exists(), name
            assert re.findall(rf"^{name}$", text, re.MULTILINE) == [name], "listed once"


@pytest.mark.parametrize(
    "path", [path for path in sorted(DOCS.glob("*.md")) if blocks(path, "python")], ids=name_of
)
def test_code_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = {"__name__": "shown"}
    for code in blocks(path, "python"):
        exec(compile(code, name_of(path), "exec"), shown)


def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """Cell by cell, without Jupyter; what a cell draws is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    shown = {"__name__": "quickstart"}
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs")
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), shown)
    told = capsys.readouterr().out.splitlines()
    assert len([line for line in told if re.match(r"\d \{", line)]) == 4, "the last cell's"
    assert (tmp_path / "report.html").exists()


def test_the_image_needs_no_compiler_and_copies_what_is_there():
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.1[12]-slim$", text, re.MULTILINE)
    assert not re.search(r"apt-get|apk |gcc|g\+\+|build-essential|nvcc|:\d{4}", text)
    assert text.count("RUN pip install") + text.count("&& pip install") == 2
    assert text.count("--only-binary=:all:") == 2
    kept = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert {*sources} <= {*kept}
        assert all((ROOT / source).exists() for source in sources)
    (name,) = re.findall(r"--copy (\w+)", text)
    assert name in names()
    assert 'ENTRYPOINT ["mad"]' in text


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "trees",
         DOCS, tmp_path / "site"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    for name in ("index", "policy", "api", "configs"):
        assert (tmp_path / "site" / f"{name}.html").exists()
    assert "KeepAll" in (tmp_path / "site" / "policy.html").read_text()
