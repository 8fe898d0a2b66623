"""Finished trials on disk: one JSON file each, written atomically, named by the trial's hash.

Resuming needs no other state than this: what the store has is done. Trials that ended in an error lie
apart in ``failed/`` and count as not done, so they are tried again.

A file holds a digest of its result, so that a change by hand or by accident is noticed. It is no signature: who wants
to forge a result can write a new digest. Files of earlier versions have none and are taken as they are.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from adamomentum.files import FolderError, make_folder, write_atomic
from adamomentum.study.digest import digest
from adamomentum.study.spec import TrialSpec
from adamomentum.study.trial import TrialResult

STORE_SCHEMA = 1


class StoreError(Exception):
    """The store cannot be used; the message says why and what to do."""


class StoreWarning(UserWarning):
    """What a user should know of a folder: a file that cannot be used, so that its trial is run again, or no locks."""


def reason(error: Exception) -> str:
    """Return what is wrong with a file in one line."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        return f"{place}: {fault['msg']}" if place else str(fault["msg"])
    return (str(error).splitlines() or [type(error).__name__])[0]


def as_record(spec: TrialSpec, result: TrialResult) -> dict[str, Any]:
    """Return a trial as plain data, as a file of the store or a line of an export holds it."""
    kept = result.model_dump(mode="json")
    return {
        "schema": STORE_SCHEMA,
        "trial_id": spec.trial_id,
        "spec": spec.model_dump(mode="json"),
        "result": kept,
        "digest": _digest(spec.trial_id, kept),
    }


def from_record(content: bytes) -> tuple[TrialSpec, TrialResult]:
    """Return the trial that ``content``, the JSON of a record, holds.

    Raises:
        ValueError: if it holds none, or its result is not the one that was written; the message is one line.
        StoreError: if it was written by a newer version of this library.
    """
    try:
        record = json.loads(content, parse_constant=_no_number)
        if not isinstance(record, dict):
            raise ValueError("it is not a JSON object")
        absent = [key for key in ("spec", "result") if not isinstance(record.get(key), dict)]
        if absent:
            raise ValueError(f"it has no {' and no '.join(absent)}")
        schema = record.get("schema", STORE_SCHEMA)  # exports of earlier versions do not say it
        if isinstance(schema, int) and schema > STORE_SCHEMA:
            raise StoreError(
                f"it has store schema {schema}, this version reads up to {STORE_SCHEMA}; update adamomentum"
            )
        spec = TrialSpec.model_validate(record["spec"])
        # Also where there is nothing to compare it with: a number that is not finite is refused in any case.
        digest = _digest(spec.trial_id, record["result"])
        if record.get("digest", digest) != digest:
            raise ValueError("its result was changed after it was written")
        return spec, TrialResult.model_validate(record["result"])
    except ValidationError as error:
        raise ValueError(reason(error)) from None
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    except ArithmeticError as error:  # an integer that no float can hold
        raise ValueError(str(error)) from None


def _digest(trial_id: str, result: dict[str, Any]) -> str:
    """Return the first 16 hex digits of the SHA-256 of trial and result as canonical JSON."""
    text = json.dumps([trial_id, result], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest([text])


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number that JSON can hold")


class Store:
    """Results under ``root``: ``<id[:2]>/<id>.json``, and ``failed/<id>.json`` for errors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            make_folder(root)
        except FolderError as error:
            raise StoreError(str(error)) from None

    def path(self, trial_id: str) -> Path:
        """Where the result of a finished trial lies."""
        return self.root / trial_id[:2] / f"{trial_id}.json"

    def failed_path(self, trial_id: str) -> Path:
        """Where the record of a trial that ended in an error lies."""
        return self.root / "failed" / f"{trial_id}.json"

    def put(self, spec: TrialSpec, result: TrialResult) -> None:
        """Keep ``result``; a success clears the record of an earlier failure.

        Raises:
            StoreError: if the store's folder is gone. The result is kept all the same, in a new one.
        """
        gone = not self.root.is_dir()
        content = json.dumps(as_record(spec, result), allow_nan=False, separators=(",", ":")).encode()
        failed = self.failed_path(spec.trial_id)
        if result.status == "error":
            write_atomic(failed, content)
        else:
            write_atomic(self.path(spec.trial_id), content)
            failed.unlink(missing_ok=True)
        if gone:
            raise StoreError(
                f"{self.root} was removed or renamed while trials were running; a new one holds the trial that ended "
                "last, and nothing else. Put the old one back, or run the same command to begin anew"
            )

    def failures(self) -> Iterator[tuple[TrialSpec, TrialResult]]:
        """Yield the trials whose last attempt ended in an error, by id; warn of files that cannot be read.

        Raises:
            StoreError: if a file was written by a newer version of this library.
        """
        for path in sorted((self.root / "failed").glob("*.json")):
            try:
                spec, result = self.read(path)
            except (OSError, ValueError) as error:
                self._warn(path, error, "why the trial failed is not known any more")
                continue
            yield spec, result

    def get(self, spec: TrialSpec) -> TrialResult | None:
        """Return the kept result of ``spec``, or None if the trial has yet to be run.

        A file that cannot be read, that belongs to another trial, or whose result was changed after it was written is
        reported by a warning and counts as not there: the trial is run again and the file replaced.

        Raises:
            StoreError: if the file was written by a newer version of this library, or is a folder.
        """
        path = self.path(spec.trial_id)
        if path.is_dir():
            raise StoreError(f"{path} is a folder where the file of a trial should be; remove it")
        result = self._read(path, spec)
        if result is not None and (not result.final or "step" not in result.curve):
            self._warn(path, ValueError("it has no results"))
            return None
        return result

    @staticmethod
    def read(path: Path) -> tuple[TrialSpec, TrialResult]:
        """Return the trial that a file of a store holds.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it does not hold a trial as it was written.
            StoreError: if it was written by a newer version of this library.
        """
        try:
            return from_record(path.read_bytes())
        except StoreError as error:
            raise StoreError(f"{path} is not for this version: {error} or choose another --out") from None

    def _read(self, path: Path, spec: TrialSpec) -> TrialResult | None:
        try:
            stored, result = self.read(path)
            if stored != spec:
                raise ValueError("it holds another trial")
            return result
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._warn(path, error)
            return None

    @staticmethod
    def _warn(path: Path, error: Exception, then: str = "the trial will be run again") -> None:
        warnings.warn(f"{path} is not usable ({reason(error)}); {then}", StoreWarning, stacklevel=4)
