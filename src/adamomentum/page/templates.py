"""HTML templates.

Tested in tests/study/report/test_page.py.
"""

from __future__ import annotations

from pathlib import Path

import jinja2


def template(folder: Path, name: str) -> jinja2.Template:
    """Return a template of ``folder``; it may include what lies beside this file, e.g. ``style.css``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
