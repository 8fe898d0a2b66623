"""Finished trials on disk: one JSON file each, written atomically, named by the trial's hash.

Resuming needs no other state than this: what the store has is done. Trials that ended in an error lie
apart in ``failed/`` and count as not done, so they are tried again.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adamomentum.files import write_atomic
from adamomentum.study.spec import TrialSpec
from adamomentum.study.trial import TrialResult

STORE_SCHEMA = 1


class StoreError(Exception):
    """The store cannot be used; the message says why and what to do."""


class StoreWarning(UserWarning):
    """A file of the store cannot be used, and the trial is run again."""


class Store:
    """Results under ``root``: ``<id[:2]>/<id>.json``, and ``failed/<id>.json`` for errors."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            blocker = next((p for p in (root, *root.parents) if p.exists() and not p.is_dir()), None)
            reason = error.strerror if blocker is None else f"{blocker} is a file"
            raise StoreError(f"cannot create {root}: {reason}; choose another --out") from None

    def path(self, trial_id: str) -> Path:
        """Where the result of a finished trial lies."""
        return self.root / trial_id[:2] / f"{trial_id}.json"

    def failed_path(self, trial_id: str) -> Path:
        """Where the record of a trial that ended in an error lies."""
        return self.root / "failed" / f"{trial_id}.json"

    def put(self, spec: TrialSpec, result: TrialResult) -> None:
        """Keeps ``result``; a success clears the record of an earlier failure."""
        record: dict[str, Any] = {
            "schema": STORE_SCHEMA,
            "trial_id": spec.trial_id,
            "spec": spec.model_dump(mode="json"),
            "result": result.model_dump(mode="json"),
        }
        content = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
        failed = self.failed_path(spec.trial_id)
        if result.status == "error":
            write_atomic(failed, content)
        else:
            write_atomic(self.path(spec.trial_id), content)
            failed.unlink(missing_ok=True)

    def failure(self, spec: TrialSpec) -> TrialResult | None:
        """Returns what is kept of the last attempt at ``spec`` if that ended in an error, else None."""
        try:
            record = json.loads(self.failed_path(spec.trial_id).read_bytes())
            if TrialSpec.model_validate(record["spec"]) != spec:
                return None
            return TrialResult.model_validate(record["result"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None

    def get(self, spec: TrialSpec) -> TrialResult | None:
        """Returns the kept result of ``spec``, or None if the trial has yet to be run.

        A file that cannot be read, or that belongs to another trial, is reported by a warning and counts
        as not there: the trial is run again and the file replaced.

        Raises:
            StoreError: if the file was written by a newer version of this library, or is a folder.
        """
        path = self.path(spec.trial_id)
        if path.is_dir():
            raise StoreError(f"{path} is a folder where the file of a trial should be; remove it")
        try:
            record = json.loads(path.read_bytes())
            schema = record["schema"]
            if isinstance(schema, int) and schema > STORE_SCHEMA:
                raise StoreError(
                    f"{path} has store schema {schema}, this version reads up to {STORE_SCHEMA}; "
                    "update adamomentum or choose another --out"
                )
            if TrialSpec.model_validate(record["spec"]) != spec:
                raise ValueError("it holds another trial")
            result = TrialResult.model_validate(record["result"])
            if not result.final or "step" not in result.curve:
                raise ValueError("it has no results")
            return result
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            message = f"{path} is not usable ({reason}); the trial will be run again"
            warnings.warn(message, StoreWarning, stacklevel=2)
            return None
