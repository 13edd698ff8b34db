"""When a fine-tune in the background ends, however long it took to get ready."""

from __future__ import annotations

import pytest

from deepfocus_live.training._retraining import late_deadline


@pytest.mark.parametrize(
    ("ready_after_s", "ends_at_s"),
    [
        pytest.param(10.0, 290.0, id="in time: as planned"),
        pytest.param(150.0, 290.0, id="just in time: 120 s and two looks are left"),
        pytest.param(200.0, 340.0, id="late: it gets two fifths of the time all the same"),
        pytest.param(900.0, 1040.0, id="very late: likewise"),
    ],
)
def test_learning_in_the_background_always_has_two_fifths_of_its_time(
    ready_after_s: float, ends_at_s: float
) -> None:
    began = 1000.0
    ends = late_deadline(began + 300.0 - 10.0, 300.0, 10.0, began + ready_after_s)
    assert ends - began == pytest.approx(ends_at_s)
