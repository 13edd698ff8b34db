"""The first start at a microscope, Ctrl-C in an acquisition, and `bench attach` run small."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import useq
from pymmcore_plus import CMMCorePlus
from typer.testing import CliRunner

from deepfocus_live import open_run
from deepfocus_live.bench import _attach
from deepfocus_live.cli import _setup
from deepfocus_live.cli._main import app
from deepfocus_live.config import load_config
from deepfocus_live.errors import InputError
from deepfocus_live.microscope.acquire import (
    Progress,
    load_microscope,
    plan,
    run,
)
from deepfocus_live.ring import DaemonAddress, leftover_rings, private_daemon

SCOPE = """\
Property,Core,Initialize,0
Device,Camera,DemoCamera,DCam
Device,Z,DemoCamera,DStage
Property,Core,Initialize,1
Property,Core,Camera,Camera
Property,Core,Focus,Z
Property,Core,AutoShutter,0
Property,Camera,OnCameraCCDXSize,96
Property,Camera,OnCameraCCDYSize,64
FocusDirection,Z,-1
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonAddress]:
    """One for both tests: starting it is most of their work."""
    with private_daemon(tmp_path_factory.mktemp("daemon")) as address:
        yield address
        assert not leftover_rings()


@pytest.fixture
def scope(tmp_path: Path, mm_config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MICROMANAGER_PATH", str(mm_config.parent))
    path = tmp_path / "scope.cfg"
    path.write_text(SCOPE, encoding="utf-8")
    return path


def test_setup_shows_asks_writes_and_tries_one_stack(
    daemon: DaemonAddress, scope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("# ours\nweb: {port: 0}\n", encoding="utf-8")
    call = ["setup", "--mm-config", str(scope), "--config", str(mine), "--output", str(tmp_path)]
    monkeypatch.setattr(_setup, "_at_terminal", lambda: True)
    # Pixel size, modality, immersion, numerical aperture (twice), wavelength, the stack.
    answers = "0.1\nsepia\nphase\nwater\n1.4\n0,9\n\ny\n"
    monkeypatch.setattr(_setup, "_SLICES", 3)
    result = CliRunner().invoke(app, call, input=answers)
    said = result.output
    assert result.exit_code == 0, said
    assert "96 × 64 px" in said
    assert "larger z is farther from the specimen" in said
    assert "not known (the configuration has no pixel-size preset)" in said
    assert "'sepia' is no answer" in said
    assert "numerical aperture of the objective: cannot be" in said
    assert "left out of the profile: wavelength_nm" in said
    assert mine.read_text(encoding="utf-8").startswith("# ours\nweb: {port: 0}\n")
    assert load_config(mine).output == tmp_path
    written = load_config(mine).profiles["default"]
    assert (written.modality, written.immersion_index) == ("phase", 1.33)
    assert (written.numerical_aperture, written.wavelength_nm) == (0.9, None)
    # Half of λn/NA² + n·pixel/NA, from 0.55 µm: it moves by a step either way.
    assert "3 slices, 0.53 µm apart" in said
    assert "Z will move by ±0.53 µm" in said
    (path,) = tmp_path.glob("*_setup")
    stored = open_run(path)
    assert stored.spec.pixel_size_um is not None
    assert stored.spec.pixel_size_um.um == pytest.approx(0.1)
    table = [line.split() for line in said.splitlines() if line.rstrip().endswith("%")]
    assert [row[:2] for row in table] == [["0", "-0.53"], ["1", "0.00"], ["2", "0.53"]]
    assert "label preset" in said or "measures not ranked" in said

    # Once more: not over what is there; and without a person no stage moves.
    monkeypatch.setattr(_setup, "_at_terminal", lambda: False)
    before = mine.read_text(encoding="utf-8")
    refused = CliRunner().invoke(app, call)
    assert isinstance(refused.exception, InputError)
    assert "not overwritten" in str(refused.exception)
    assert mine.read_text(encoding="utf-8") == before
    alone = CliRunner().invoke(app, [*call, "--yes", "--profile", "fly"])
    assert alone.exit_code == 0, alone.output
    assert "modality, immersion_index, numerical_aperture, wavelength_nm" in alone.output
    assert set(load_config(mine).profiles) == {"default", "fly"}
    assert len(list(tmp_path.glob("*_setup"))) == 1


def test_demo_configuration_is_found_by_its_name(
    mm_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MICROMANAGER_PATH", str(mm_config.parent))
    monkeypatch.chdir(tmp_path)
    assert load_microscope(Path("MMConfig_demo.cfg")).getCameraDevice() == "Camera"
    with pytest.raises(InputError, match=r"^other\.cfg: no such Micro-Manager configuration"):
        load_microscope(Path("other.cfg"))


def test_stage_returns_from_a_stack_that_was_broken_off(
    scope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = load_microscope(scope)
    core.setPosition(12.5)

    def breaks_off(of: CMMCorePlus, *_: object, **__: object) -> None:
        of.setPosition(40.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(_setup, "run_shown", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        _setup._try(core, 5, 1.0, tmp_path, tmp_path / "config.yaml")
    assert core.getPosition() == pytest.approx(12.5)


def test_interrupt_closes_the_run_as_canceled_and_bench_compares_with_bare(
    daemon: DaemonAddress, scope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = load_microscope(scope)
    core.setExposure(20)
    sequence = useq.MDASequence.model_validate({"time_plan": {"interval": 0.1, "loops": 400}})
    needed = plan(core, sequence)
    assert (needed.frames, needed.seconds) == (400, pytest.approx(399 * 0.1 + 0.02))
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        if progress.taken >= 2 and progress.acquiring:
            signal.raise_signal(signal.SIGINT)

    report = run(core, sequence, output=tmp_path / "cut", on_progress=tell)
    assert (report.reason, report.error) == ("canceled", None)
    assert 2 <= report.frames == report.durable < 400
    assert open_run(report.paths[0]).state == "canceled"
    assert (told[-1].taken, told[-1].acquiring) == (report.frames, False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    # What fails says why, and is no less safe.
    monkeypatch.setattr(core, "getImage", _break, raising=True)
    monkeypatch.setattr(core, "getTaggedImage", _break, raising=False)
    report = run(core, sequence, output=tmp_path / "failed")
    assert (report.reason, report.error) == ("errored", "the cable")

    monkeypatch.setattr(_attach, "private_daemon", lambda *_: nullcontext(daemon))
    effort = _attach.Effort(sides=(64,), rates=(), pairs=2, unthrottled=4)
    rows = {row.name: row for row in _attach.measure(effort)}
    pace = "pace, 64 × 64 uint16, {} z, unthrottled"
    for name in (pace.format("software-timed"), pace.format("hardware-sequenced")):
        assert rows[name].value
        assert rows[name].reference_value
        assert (rows[name].goal, rows[name].at_least) == (0.85, True)
    slot = "handing over a 64 × 64 uint16 frame, in the microscope's thread, median"
    assert rows[slot].ratio is not None
    assert rows[slot].ratio > 1
    durable = rows["camera to durable, 64 × 64 uint16, unthrottled, p50"].value
    assert durable is not None
    assert durable > 0
    (overflows,) = (row for row in rows.values() if row.name.startswith("overflows"))
    assert (overflows.met, "in 4 acquisitions" in overflows.name) == (True, True)


def _break(*_: object) -> None:
    raise RuntimeError("the cable")
