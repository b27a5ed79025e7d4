"""What the README and the documentation say is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hyperdrive_client
from hyperdrive_client import errors

ROOT = Path(hyperdrive_client.__file__).parents[1]
README = ROOT / "README.md"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]

pytestmark = pytest.mark.skipif(not README.exists(), reason="no sources: the package is installed")


def blocks(kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    return [text for each, text in found if each == kind]


def test_there_are_two_commands_of_one_line_for_a_machine_with_python() -> None:
    commands = [block for block in blocks("sh") if block.startswith("python3 -m venv")]
    demo, tests = commands
    assert demo.count("\n") == tests.count("\n") == 1
    assert "'.[demo]'" in demo
    assert "'.[dev]'" in tests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_whole_public_api_is_documented() -> None:
    page = (ROOT / "docs" / "reference-api.md").read_text()
    documented = {*re.findall(r"\w+", page), *errors.__all__}
    assert set(hyperdrive_client.__all__) <= documented
