"""Which frames a camera did not deliver, told from the plan and from what came."""

from __future__ import annotations

from typing import Any

import pytest
import useq

from deepfocus_live.daemon._missed import find_missed
from deepfocus_live.frames import Placement, RunSpec
from deepfocus_live.microscope._plan import plan_run

_T3_Z2: dict[str, Any] = {
    "time_plan": {"interval": 0, "loops": 3},
    "z_plan": {"range": 1, "step": 1},
    "axis_order": "tz",
}
_UNEVEN: dict[str, Any] = {
    "stage_positions": [
        {"x": 0, "y": 0, "sequence": {"z_plan": {"range": 1, "step": 1}}},
        {"x": 1, "y": 1, "sequence": {"z_plan": {"range": 2, "step": 1}}},
    ]
}
_SPARSE: dict[str, Any] = {
    "channels": [{"config": "A"}, {"config": "B", "acquire_every": 2}],
    "time_plan": {"interval": 0, "loops": 3},
    "axis_order": "tc",
}


def _spec(plan: dict[str, Any], cameras: int = 1, **changes: Any) -> RunSpec:
    info = {
        "height": 4,
        "width": 4,
        "dtype": "uint16",
        "pixel_format": "Mono16",
        "num_camera_adapter_channels": cameras,
    }
    spec = plan_run(useq.MDASequence(**plan), {"image_infos": [info]})
    return spec.model_copy(update=changes)


@pytest.mark.parametrize("completed", [True, False], ids=["completed", "cancelled"])
@pytest.mark.parametrize(
    ("spec", "stored", "gaps", "rest"),
    [
        pytest.param(
            _spec(_T3_Z2), [(0, t, 0, z) for t in range(3) for z in range(2)], [], [], id="all"
        ),
        pytest.param(
            _spec(_T3_Z2),
            [(0, 0, 0, 0), (0, 1, 0, 1)],
            [{"t": 0, "z": 1}, {"t": 1, "z": 0}],
            [{"t": 2, "z": 0}, {"t": 2, "z": 1}],
            id="some",
        ),
        pytest.param(
            _spec(_T3_Z2, continues="another"),
            [(0, 1, 0, 0), (0, 2, 0, 0)],
            [{"t": 1, "z": 1}],
            [{"t": 2, "z": 1}],
            id="goes-on-with-another",
        ),
        pytest.param(
            # The second of two frames with one index was made a later time point.
            _spec(_T3_Z2),
            [(0, 0, 0, 0), (0, 7, 0, 0)],
            [],
            [{"t": t, "z": z} for t in range(3) for z in range(2)][1:],
            id="more-than-planned",
        ),
        pytest.param(
            _spec(_UNEVEN),
            [(0, 0, 0, 1), (1, 0, 0, 0), (1, 0, 0, 2)],
            [{"p": 0, "z": 0}, {"p": 1, "z": 1}],
            [],
            id="positions-with-plans-of-their-own",
        ),
        pytest.param(
            _spec(_SPARSE),
            [(0, 0, 1, 0), (0, 1, 0, 0), (0, 2, 1, 0)],
            [{"t": 0, "c": 0}, {"t": 2, "c": 0}],
            [],
            id="channel-of-every-second-time-point",
        ),
        pytest.param(
            _spec({"z_plan": {"range": 1, "step": 1}}, cameras=2),
            [(0, 0, 0, 0), (0, 0, 0, 1)],
            [{"z": 0, "cam": 1}],
            [{"z": 1, "cam": 1}],
            id="two-cameras",
        ),
        pytest.param(_spec({}, sequence=None), [(0, 0, 0, 0)], [], [], id="no-plan"),
        pytest.param(_spec({}, sequence={"a": 1}), [(0, 0, 0, 0)], [], [], id="no-sequence"),
    ],
)
def test_what_is_missing_is_named(
    spec: RunSpec,
    stored: list[tuple[int, int, int, int]],
    gaps: list[dict[str, int]],
    rest: list[dict[str, int]],
    completed: bool,
) -> None:
    places = [Placement(*place) for place in stored]
    found = find_missed(spec, places, completed=completed, hardware_triggered=False)
    wanted = gaps + (rest if completed else [])
    assert (list(found.frames) if found else []) == wanted
    assert found is None or (found.count, found.exact) == (len(wanted), True)


def test_words_name_the_first_and_count_the_rest() -> None:
    spec = _spec({"z_plan": {"range": 9, "step": 1}})
    stored = [Placement(0, 0, 0, 9)]
    found = find_missed(spec, stored, completed=True, hardware_triggered=True)
    assert found is not None
    said = found.in_words("worm")
    assert "run worm: the camera did not deliver 9 frames: z=0; z=1;" in said
    assert "z=4 and 4 more." in said
    assert "which were lost is not known" in said
