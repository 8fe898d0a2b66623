"""Wheels that pip can find without a network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from adamomentum.study.data.wheel import Wheel


def build_wheel(folder: Path, name: str, version: str, members: dict[str, bytes]) -> Wheel:
    """Writes a wheel that pip can find and download."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(name, version, hashlib.sha256(path.read_bytes()).hexdigest())
