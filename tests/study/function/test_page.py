"""docs/own-model.md: the messages that it explains are those that there are, and its options too."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

import adamomentum
from adamomentum import cli

STUDY = Path(adamomentum.__file__).parent / "study"
PAGE = STUDY.parents[2] / "docs" / "own-model.md"
SPEAKING = ("fairness.py", "trial.py", "tasks/function/task.py", "tasks/function/trial.py", "tasks/function/script.py")


@pytest.fixture(scope="module")
def page() -> str:
    if not PAGE.exists():
        pytest.skip("needs the repository, got an installed package")
    return PAGE.read_text(encoding="utf-8")


def texts() -> list[str]:
    """What the code may say; an ellipsis where it fills something in."""
    said = []
    for name in SPEAKING:
        for node in ast.walk(ast.parse((STUDY / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                said.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    return said


def test_messages(page) -> None:
    tables = page.split("## What is fair, and what the messages mean")[1]
    messages = [
        cell for cell in re.findall(r"^\| (.+?) \| ", tables, re.MULTILINE) if cell not in ("message", "remark")
    ]
    assert len(messages) >= 20
    known = texts()
    for message in messages:
        parts = [re.escape(part.strip()) for part in message.split("...")]
        assert any(re.search(".*".join(parts), text, re.DOTALL) for text in known), message


def test_options(page) -> None:
    there = {
        name
        for option in get_command(cli._whole_app()).commands["compare"].params
        for name in (*option.opts, *option.secondary_opts)
    }
    named = set(re.findall(r"--[a-z][a-z-]*", page))
    assert named <= there
    assert {"--train", "--incumbent", "--search", "--metric", "--higher", "--arg", "--watch", "--processes"} <= named
