from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes the pages, at work on a copy of them."""
    monkeypatch.syspath_prepend(ROOT / "scripts")  # as for a script that is run
    spec = importlib.util.spec_from_file_location("docs", ROOT / "scripts" / "docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reference = tmp_path / "docs" / "reference"
    shutil.copytree(ROOT / "docs" / "reference", reference)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "REFERENCE", reference)
    return module


def test_the_pages_are_as_the_code_would_write_them(docs: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def test_a_stale_a_missing_and_a_left_over_page_are_named_and_mended(
    docs: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    (docs.REFERENCE / "BGPPeer.md").write_text("by hand")
    (docs.REFERENCE / "Node.md").unlink()
    (docs.REFERENCE / "OldKind.md").write_text("left over")

    assert docs.main(["--check"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"docs/reference/{name}.md is stale: run make docs and commit it" for name in ("BGPPeer", "Node", "OldKind")
    ]
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    assert not (docs.REFERENCE / "OldKind.md").exists()


def test_a_page_has_a_row_for_every_field(docs: ModuleType) -> None:
    page = docs.pages()["BGPPeer.md"]

    assert "| `spec.port` | TCP port | `179` | 1 to 65535 | TCP port the peer is called on. |" in page
    assert "| `spec.import.accept[].cidr` | CIDR | required |  | The prefix they are inside of, or are. |" in page
    assert "| `spec.nodeSelector` | [label selector](LabelSelector.md) |" in page
