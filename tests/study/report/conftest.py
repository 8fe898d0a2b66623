"""What the tests of reports share."""

from __future__ import annotations

import pytest
from study.report_mini import Fake, gathered

from adamomentum.study.report.tables import StudyTables
from adamomentum.study.results import StudyResults


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> tuple[StudyResults, StudyTables]:
    """The made-up study of digits, where all went well, and its tables; to be read alone."""
    return gathered(tmp_path_factory.mktemp("whole"), Fake())
