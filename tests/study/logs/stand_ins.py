"""Trials and results to log, without training."""

from __future__ import annotations

from study.mini import MINI, fingerprints

from adamomentum.study.engine import Round
from adamomentum.study.stages import Planned, plan
from adamomentum.study.studyfile import parse
from adamomentum.study.trial import TrialResult

STUDY = parse(MINI, "mini")
RESULT = TrialResult(
    status="ok",
    final={"val_loss": 0.25, "test_loss": 0.5, "lost": None},
    curve={"step": [3.0, 6.0], "train_loss": [1.0, None], "val_loss": [0.75, 0.25]},
)
ERROR = TrialResult(status="error", error="Traceback\nKeyError: boom")


def first_round() -> tuple[Round, list[Planned]]:
    """A plan of which nothing is done, and its trials."""
    planned = plan(STUDY, fingerprints(STUDY), {})
    return Round(planned, {}, dict(planned.by_id)), list(planned.by_id.values())
