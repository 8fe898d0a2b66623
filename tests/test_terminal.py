"""How the commands speak and stop."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, model_serializer

from adamomentum.terminal import interruptible


class Stopped(BaseModel):
    """Ctrl-C comes while it is written, in Python code that pydantic calls."""

    @model_serializer(mode="wrap")
    def written(self, plain: Any) -> Any:
        raise KeyboardInterrupt


def test_ctrl_c_within_a_call_of_pydantics_is_ctrl_c() -> None:
    with pytest.raises(Exception, match="Error calling function") as without:
        Stopped().model_dump()
    assert not isinstance(without.value, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt), interruptible():
        Stopped().model_dump()


def test_what_fails_because_it_is_stopped_is_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        try:
            raise KeyboardInterrupt
        finally:
            raise OSError("the workers are gone")


def test_other_errors_and_answers_to_ctrl_c_come_through() -> None:
    with pytest.raises(OSError, match="full"), interruptible():
        raise OSError("the disk is full")
    with pytest.raises(RuntimeError, match="130"), interruptible():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("exit status 130") from None
