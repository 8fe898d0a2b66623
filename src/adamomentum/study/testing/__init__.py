"""Checks for classes of your own: does a task, or an optimizer, keep what the study relies on?

    check_task("my_package.tasks:Segmentation", {"data": "cells"})
    check_optimizer("my_package.optim:Lion", {"betas": (0.9, 0.99)})

Each runs for seconds on a few steps and raises a ``ContractError`` that says what is broken, why it matters, and what
to do; the built-in families and optimizers are held by the same checks. They are meant for a test of yours.
"""

from adamomentum.study.testing.checks import ContractError
from adamomentum.study.testing.optimizers import check_optimizer
from adamomentum.study.testing.tasks import check_task

__all__ = ["ContractError", "check_optimizer", "check_task"]
