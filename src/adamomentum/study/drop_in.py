"""AdaMomentum in AdamW's place, at its setting, as a control of a study. Tested in tests/study/test_compare.py."""

from __future__ import annotations

from adamomentum.study.studyfile import Control

DROP_IN = Control(
    name="adamomentum-for-adamw",
    label="Drop-in",
    optimizer="adamomentum",
    setting_from="adamw",
    hyperparameters={"adjust_lr": "match_rms_adamw"},
    about="AdamW swapped for AdaMomentum with adjust_lr, in one line: its learning rate and weight decay stay.",
)
"""Shown wherever both are compared: what costs no search of its own."""
