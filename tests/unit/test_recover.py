"""`verify` and `recover`: a run that was left is told as it is, and made whole where it can be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models.v05.bioformats2raw as bf2raw
import pytest
import yaozarrs
import zarr
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.labels import Labels

from deepfocus_live._platform import RUNTIME_DIR_VARIABLE
from deepfocus_live.cli._main import main
from deepfocus_live.frames import Placement
from deepfocus_live.ring import MemoryRing, new_ring_path
from deepfocus_live.volume import RunWriter, open_run, read_ledger, verify_run
from deepfocus_live.volume._verify import _in_threads
from tests.stored_frames import QUICK, pixels_of, run_spec, store_frame

Command = Callable[..., tuple[int, list[str], str]]
Damage = Callable[[Path], object]

WIDE = run_spec(
    height_px=130, width_px=300, images=[{"name": "here", "size_t": 3, "size_z": 3}], name="wide"
)
CHUNK = "volume.ome.zarr/0/0/c/0/0/1/0/0"
HEX = "0123456789abcdef" * 2

_WRITES_UNTIL_KILLED = """
import sys
from pathlib import Path
import numpy as np
import tests.stored_frames as ours
from deepfocus_live.frames import RunSpec
from deepfocus_live.volume import RunWriter

WIDE = RunSpec.model_validate_json(sys.argv[2])
writer = RunWriter.create(Path(sys.argv[1]), WIDE, ours.SAFE, about={})
print(writer.path, flush=True)
number = 0
while True:
    stored = ours.store_frame(writer, number, {"t": number // 3, "z": number % 3})
    if number < 2:
        writer.write_pyramid(stored.placement, ours.pixels_of(number, WIDE))
    print(number, flush=True)
    number += 1
"""


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command line in this process: exit code, lines on stdout, stderr."""
    monkeypatch.setenv(RUNTIME_DIR_VARIABLE, str(tmp_path / "runtime"))

    def run(*arguments: object) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["deepfocus-live", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out.splitlines(), said.err

    return run


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose writer was killed while it wrote."""
    folder = str(tmp_path_factory.mktemp("killed"))
    script = [sys.executable, "-c", _WRITES_UNTIL_KILLED, folder, WIDE.model_dump_json()]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        for _ in range(5):
            process.stdout.readline()
        process.kill()
    assert process.returncode != 0
    return path


@pytest.fixture(scope="module")
def finished(killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The killed writer's run as `recover` leaves it."""
    from deepfocus_live.daemon import Recovery

    folder = tmp_path_factory.mktemp("finished")
    path = folder / "run"
    shutil.copytree(killed, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(RUNTIME_DIR_VARIABLE, str(folder / "runtime"))
        recovery = Recovery(path, models=folder / "models")
        recovery.mend_files()
        assert recovery.look(lambda _: None).whole
        recovery.make(lambda _: None)
    assert recovery.troubles == []
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a whole, finished run, to be damaged."""
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    return path


def _contents(path: Path) -> dict[str, bytes]:
    """Return every file of a run but its lock, which only has to be there."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != ".writer.lock"
    }


def _assert_valid(path: Path) -> None:
    for name in ("volume.ome.zarr", "probability.ome.zarr"):
        yaozarrs.validate_zarr_store(str(path / name))
        yaozarrs.validate_zarr_store(str(path / name / "0"))
        root = zarr.open_group(str(path / name), mode="r")
        assert bf2raw.BioFormats2Raw.from_zarr(root).image_paths == ["0"]
        image: Any = root["0"]
        Image.from_zarr(image)
    labels: Any = zarr.open_group(str(path / "volume.ome.zarr/0/labels"), mode="r")
    Labels.from_zarr(labels)


def _edit_lines(path: Path, edit: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Change or leave out lines of a journal."""
    file = path / "frames.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kept = [json.dumps(new) + "\n" for line in lines if (new := edit(line)) is not None]
    file.write_text("".join(kept), encoding="utf-8")


def _without(kind: str, **has: Any) -> Damage:
    """Return what takes lines of a kind out of a journal."""

    def is_it(line: dict[str, Any]) -> bool:
        return {**line, **has} == line and line["kind"] == kind

    return lambda path: _edit_lines(path, lambda line: None if is_it(line) else line)


def _write(name: str, data: bytes) -> Damage:
    def write(path: Path) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)

    return write


def _cut(name: str) -> Damage:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-7])


def _remove(name: str) -> Damage:
    return lambda path: (path / name).unlink()


def _tear(path: Path) -> None:
    with (path / "frames.jsonl").open("ab") as file:
        file.write(b'{"kind":"frame","sequence_num')


# ------------------------------------------------------------ after a death


def test_run_of_a_killed_writer_is_whole_and_is_finished(
    killed: Path, finished: Path, command: Command
) -> None:
    frames = read_ledger(killed).frames
    assert len(frames) >= 5
    assert verify_run(read_ledger(killed)).whole, "nothing that was acknowledged is lost"
    assert open_run(killed).state == "open"
    run = open_run(finished)
    assert run.state == "interrupted"
    assert read_ledger(finished).frames == frames
    masks = [line["sequence_number"] for line in run.journal if line["kind"] == "mask"]
    assert sorted(masks) == sorted(frames)
    labels = {line["t"] for line in run.journal if line["kind"] == "label"}
    assert labels == {place.t for place, _ in frames.values()}
    assert not list(finished.rglob("*.partial"))
    _assert_valid(finished)
    image = zarr.open_group(str(finished / "volume.ome.zarr/0"), mode="r")
    for place, _ in frames.values():
        at = place[1:]
        full, half = (np.asarray(image[level][at]) for level in ("0", "1"))  # type: ignore[index]
        np.testing.assert_array_equal(full, pixels_of(3 * place.t + place.z, WIDE))
        assert half.shape == (65, 150)
        assert half[1, 1] == (int(full[2:4, 2:4].sum(dtype=int)) + 2) // 4
    code, said, _ = command("verify", finished)
    assert (code, said) == (0, [f"{len(frames)} of {len(frames)} slices are whole"])


def test_second_recovery_finds_nothing_to_do(run: Path, command: Command) -> None:
    _write("volume.ome.zarr/mine.partial", b"not a name that only we give")(run)
    before = _contents(run)
    code, said, err = command("recover", run)
    slices = len(read_ledger(run).frames)
    assert (code, err) == (0, "")
    assert said[0] == "wide: 1 image, BF, 130 × 300 uint16, interrupted"
    assert said[1].startswith("  image 0 (here): ")
    assert f"masks: {slices} of {slices} slices; weak labels: " in "\n".join(said)
    assert said[-2:] == ["nothing to repair", f"{slices} of {slices} slices are whole"]
    assert _contents(run) == before


# --------------------------------------------------------- what can be mended

_MENDED: list[tuple[str, Damage, str]] = [
    ("torn-line", _tear, "torn last line of frames.jsonl cut off"),
    (
        "temporary-files",
        lambda p: (
            _write(f"volume.ome.zarr/0/0/c/0/0/0/0/0.{HEX}.partial", b"half")(p),
            _write(f"volume.ome.zarr/0/zarr.{HEX}.partial", b"{")(p),
            _write("probability.ome.zarr/.1.partial/zarr.json", b"{}")(p),
        ),
        "3 half-written files removed",
    ),
    (
        "metadata",
        lambda p: (
            _write("volume.ome.zarr/0/1/zarr.json", b"")(p),
            _remove("volume.ome.zarr/0/labels/in_focus/0/zarr.json")(p),
            _write("probability.ome.zarr/zarr.json", bytes(80))(p),
        ),
        "3 zarr.json files written",
    ),
    ("end", _without("end"), "end noted as interrupted"),
    (
        "levels",
        lambda p: (
            _remove("volume.ome.zarr/0/1/c/0/0/0/0/0")(p),
            _write("volume.ome.zarr/0/labels/in_focus/1/c/0/0/2/0/0", b"")(p),
            _cut("volume.ome.zarr/0/labels/undecided/1/c/0/0/1/0/0")(p),
        ),
        "3 pyramids written",
    ),
    (
        "masks",
        lambda p: (
            _remove("volume.ome.zarr/0/labels/in_focus/0/c/0/0/0/0/0")(p),
            _write("probability.ome.zarr/0/0/c/0/0/1/0/0", bytes(400))(p),
            _without("mask", sequence_number=3)(p),
        ),
        "3 masks made",
    ),
    ("labels", _without("label", t=0), "1 stack labelled"),
    ("a-label", _remove("volume.ome.zarr/0/labels/weak_label/0/c/1/0/0/0/0"), "1 stack labelled"),
]


def _repairs(said: list[str]) -> list[str]:
    words = ("removed", "written", "cut off", "interrupted", "made", "labelled")
    return [line for line in said[1:] if line.endswith(words)]


@pytest.mark.parametrize(
    ("damage", "says"), [pytest.param(*rest, id=name) for name, *rest in _MENDED]
)
def test_dry_run_says_what_is_to_do_and_does_nothing(
    run: Path, command: Command, damage: Damage, says: str
) -> None:
    damage(run)
    before = _contents(run)
    code, said, err = command("recover", run, "--dry-run")
    assert (code, err) == (0, "")
    (line,) = _repairs(said)
    assert line.replace("to be ", "") == says
    assert line != says
    assert _contents(run) == before


def test_recovered_run_is_as_it_was_before_the_damage(
    finished: Path, run: Path, command: Command, tmp_path: Path
) -> None:
    for _, damage, _ in reversed(_MENDED):  # the journal is torn last
        damage(run)
    code, said, err = command("recover", run, "--models", tmp_path / "models")
    assert (code, err) == (0, "")
    assert _repairs(said) == [
        "3 half-written files removed",
        "3 zarr.json files written",
        "torn last line of frames.jsonl cut off",
        "end noted as interrupted",
        # Of the slices with a new mask and the stacks with new labels none is to be mended.
        "2 pyramids written",
        "3 masks made",
        "2 stacks labelled",
    ]
    before, after = _contents(finished), _contents(run)
    journal = after.pop("frames.jsonl")
    assert len(journal) > len(before.pop("frames.jsonl"))
    assert after == before
    _assert_valid(run)
    assert open_run(run).state == "interrupted"
    code, said, _ = command("verify", run)
    assert (code, len(said)) == (0, 1)
    assert command("recover", run)[1][-2] == "nothing to repair"


def test_masks_are_made_for_the_channels_and_slices_that_get_any(
    run: Path, command: Command, tmp_path: Path
) -> None:
    _without("mask")(run)
    _without("label")(run)
    settings = tmp_path / "own.yaml"
    settings.write_text(
        "labels: {enabled: false}\nprofiles: {default: {channels: [DAPI]}}", encoding="utf-8"
    )
    _, said, _ = command("recover", run, "--dry-run", "--config", settings)
    assert "nothing to repair" in said
    settings.write_text("inference: {enabled: false}", encoding="utf-8")
    _, said, _ = command("recover", run, "--dry-run", "--config", settings)
    stacks = len(read_ledger(run).stacks)
    assert _repairs(said) == [f"{stacks} stacks to be labelled"]
    small = RunWriter.create(tmp_path, run_spec(), QUICK, about={})
    store_frame(small, 0)
    small.note("label", image=0, t=0, c=0)
    small.end("completed")
    small.close()
    _, said, _ = command("recover", small.path, "--dry-run")
    assert _repairs(said) == ["1 stack to be labelled"], "its slices are too small for the network"


def test_what_cannot_be_made_is_said_and_the_rest_is_made(
    run: Path, command: Command, tmp_path: Path
) -> None:
    _without("end")(run)
    _without("label", t=0)(run)
    settings = tmp_path / "own.yaml"
    settings.write_text("profiles: {default: {label_preset: papr}}", encoding="utf-8")
    code, said, err = command("recover", run, "--config", settings)
    assert (code, err) == (1, "")
    (trouble,) = [line for line in said if line.startswith("labels not made: ")]
    assert "'papr'" in trouble
    assert _repairs(said) == ["end noted as interrupted"]


def test_masks_that_are_missing_are_made_by_the_model_of_the_others(
    run: Path, command: Command, tmp_path: Path
) -> None:
    from deepfocus_live.model import Registry

    models = tmp_path / "models"
    shipped = Registry(models).shipped_version()
    _without("mask", sequence_number=0)(run)
    code, said, _ = command("recover", run, "--models", models)
    assert code == 0
    assert not [line for line in said if "model" in line], "nothing had to be decided"
    _edit_lines(run, lambda line: {**line, "model": "gone"} if line["kind"] == "mask" else line)
    _without("mask", sequence_number=1)(run)
    code, said, _ = command("recover", run, "--models", models)
    assert code == 0
    notes = [line for line in said if "model" in line]
    assert len(notes) == 2
    assert "gone" in notes[0]
    assert shipped.name in notes[1]
    last = [line for line in open_run(run).journal if line["kind"] == "mask"][-1]
    assert (last["sequence_number"], last["model"]) == (1, shipped.name)


# ------------------------------------------------------ what cannot be mended


def _flip(path: Path) -> None:
    raw = bytearray((path / CHUNK).read_bytes())
    raw[-9] ^= 0x10
    (path / CHUNK).write_bytes(raw)


def _wrong_crc(path: Path) -> None:
    _edit_lines(path, lambda line: {**line, "crc32": "0badc0de"} if line.get("z") == 1 else line)


def _beyond(path: Path) -> None:
    """Say of a slice that it lies where the array does not reach, and put its chunk there."""
    _edit_lines(path, lambda line: {**line, "t": 7} if _is_second(line) else line)
    shutil.copytree(path / "volume.ome.zarr/0/0/c/0", path / "volume.ome.zarr/0/0/c/7")


def _is_second(line: dict[str, Any]) -> bool:
    return line["kind"] == "frame" and line["sequence_number"] == 1


_BROKEN = [
    pytest.param(_flip, CHUNK, "differ", id="flipped-byte"),
    pytest.param(_cut(CHUNK), CHUNK, "cannot be read", id="truncated"),
    pytest.param(_write(CHUNK, b""), CHUNK, "cannot be read", id="empty"),
    pytest.param(_write(CHUNK, bytes(9999)), CHUNK, "cannot be read", id="zeros"),
    pytest.param(_remove(CHUNK), CHUNK, "missing", id="removed"),
    pytest.param(lambda p: (_remove(CHUNK)(p), (p / CHUNK).mkdir()), CHUNK, "missing", id="folder"),
    pytest.param(_beyond, CHUNK.replace("c/0", "c/7"), "cannot be read", id="out-of-bounds"),
]


@pytest.mark.parametrize(("damage", "file", "says"), _BROKEN)
def test_damaged_slice_is_named_and_left_alone(
    run: Path, command: Command, damage: Damage, file: str, says: str
) -> None:
    slices = len(read_ledger(run).frames)
    damage(run)
    _without("mask", sequence_number=1)(run)
    before = _contents(run)
    code, said, err = command("verify", run)
    assert (code, err) == (1, "")
    assert _contents(run) == before
    (line,) = [line for line in said if line.startswith("slice ")]
    assert line.startswith("slice 1, image 0, t ")
    assert says in line
    assert line.endswith(f"({file})")
    assert said[-1] == f"{slices - 1} of {slices} slices are whole"
    code, found, _ = command("verify", "--json", run)
    assert code == 1
    report = json.loads("\n".join(found))
    assert (report["slices"], report["slices_whole"]) == (slices, slices - 1)
    assert report["faults"][0]["path"] == file
    code, said, err = command("recover", run)
    assert (code, err) == (1, ""), "no traceback, and not all is well"
    assert line in said
    assert "nothing to repair" in said, "no mask is made of what is not a slice"
    assert _contents(run) == before


def test_stack_with_a_damaged_slice_is_labelled_from_the_others(
    run: Path, command: Command
) -> None:
    _flip(run)
    _without("label", t=0)(run)
    code, said, _ = command("recover", run)
    assert code == 1
    assert _repairs(said) == ["1 stack labelled"]
    line = [line for line in open_run(run).journal if line["kind"] == "label"][-1]
    assert [share is None for share in line["in_focus_fraction"]] == [False, True, False]


def test_verify_tells_of_what_is_no_slice_and_still_calls_the_slices_whole(
    run: Path, command: Command
) -> None:
    for name, damage, _ in _MENDED[:2]:
        assert name in ("torn-line", "temporary-files")
        damage(run)
    _write("volume.ome.zarr/0/0/c/9/0/1/0/0", b"written, and its writer killed")(run)
    before = _contents(run)
    code, said, _ = command("verify", run)
    slices = len(read_ledger(run).frames)
    assert code == 0
    assert said == [
        "not in the journal, so never acknowledged: volume.ome.zarr/0/0/c/9/0/1/0/0",
        "half-written: probability.ome.zarr/.1.partial",
        f"half-written: volume.ome.zarr/0/0/c/0/0/0/0/0.{HEX}.partial",
        f"half-written: volume.ome.zarr/0/zarr.{HEX}.partial",
        "frames.jsonl: the last line is torn; no acknowledged slice stands in it",
        f"{slices} of {slices} slices are whole",
    ]
    assert _contents(run) == before


_DAMAGED_LINES = (
    b"\0\0\0\0",
    b"7",
    b'{"kind":"frame"}',
    b'{"kind":"frame","sequence_number":Infinity,"image":0,"t":0,"c":0,"z":0,"crc32":""}',
    b'{"kind":"frame","sequence_number":1,"image":5,"t":0,"c":0,"z":0,"crc32":""}',
    b'{"kind":"image","image":1,"spec":{}}',
)


def test_damaged_lines_within_the_journal_are_told_and_are_no_traceback(
    run: Path, command: Command
) -> None:
    _without("end")(run)
    first, *rest = (run / "frames.jsonl").read_bytes().splitlines(keepends=True)
    damaged = [line + b"\n" for line in _DAMAGED_LINES]
    (run / "frames.jsonl").write_bytes(b"".join([first, *damaged, *rest]))
    told = [
        f"frames.jsonl: line {number} cannot be read: it may have named a slice"
        for number in range(2, 2 + len(damaged))
    ]
    for words in (["verify"], ["recover", "--dry-run"]):
        code, said, err = command(*words, run)
        assert (code, err) == (1, "")
        assert [line for line in said if line.startswith("frames.jsonl")] == told
    code, _, err = command("recover", run)
    (line,) = err.splitlines()
    assert code == 2
    assert "cannot be gone on with, its journal or metadata are damaged" in line
    # Those that a writer passes over are no reason to leave the rest undone.
    (run / "frames.jsonl").write_bytes(b"".join([first, damaged[0], *rest]))
    code, said, err = command("recover", run)
    assert (code, err) == (1, "")
    assert _repairs(said) == ["end noted as interrupted"]


def test_journal_that_is_gone_is_told(run: Path, command: Command) -> None:
    (run / "frames.jsonl").unlink()
    code, said, err = command("verify", run)
    assert (code, err) == (1, "")
    assert "frames.jsonl is missing: nothing says which slices there are" in said
    assert said[-1] == "0 of 0 slices are whole, as far as the journal can be read"


# ------------------------------------------------------------ who may, and what


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RunWriter]:
    writer = RunWriter.create(tmp_path / "runs", run_spec(), QUICK, about={})
    store_frame(writer, 0)
    yield writer
    writer.close()


def test_run_that_is_being_written_is_verified_and_not_recovered(
    writer: RunWriter, command: Command
) -> None:
    code, said, _ = command("verify", writer.path)
    assert (code, said[-1]) == (0, "1 of 1 slices are whole")
    assert "is being written" in said[-2]
    for words in (["recover"], ["recover", "--dry-run"]):
        code, said, err = command(*words, writer.path)
        assert (code, said) == (2, [])
        assert "another process is writing this run" in err
    store_frame(writer, 1)


def test_run_whose_slices_wait_in_memory_is_left_to_the_daemon(
    writer: RunWriter, command: Command
) -> None:
    writer.close()
    command("verify", writer.path)
    ring = MemoryRing.create(new_ring_path(100_000), slots=2, slot_bytes=2000, run_room=1000)
    try:
        ring.folder = writer.path
        code, _, err = command("recover", writer.path)
        assert code == 2
        assert "deepfocus-live start" in err
        ring.folder = writer.path.with_name("another")
        assert command("recover", writer.path, "--dry-run")[0] == 0
        # Whoever has ended the run, and lives on, wants nothing of it any more.
        ring.folder = writer.path
        _write("frames.jsonl", b'{"kind":"end","reason":"completed"}\n')(writer.path)
        code, _, err = command("recover", writer.path, "--dry-run")
        assert (code, err) == (0, "")
    finally:
        ring.close(remove=True)


_NO_RUN: list[Any] = [
    pytest.param(shutil.rmtree, "not a run directory", id="missing"),
    pytest.param(_remove("run.json"), "not a run directory", id="no-record"),
    pytest.param(_write("run.json", b"{"), "damaged", id="cut-record"),
    pytest.param(_write("run.json", b"[]"), "damaged", id="no-mapping"),
    pytest.param(_write("run.json", b'{"format": 1}'), "damaged", id="no-plan"),
    pytest.param(_write("run.json", b'{"format": 1, "spec": {}}'), "damaged", id="empty-plan"),
    pytest.param(_write("run.json", b'{"format": 99}'), "update", id="later-format"),
]


@pytest.mark.parametrize(("spoil", "says"), _NO_RUN)
def test_what_is_no_run_gets_one_line_and_exit_code_2(
    tmp_path: Path, finished: Path, command: Command, spoil: Damage, says: str
) -> None:
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(finished / "run.json", path)
    spoil(path)
    for name in ("verify", "recover"):
        code, said, err = command(name, path)
        assert (code, said) == (2, [])
        (line,) = err.splitlines()
        assert line.startswith(f"deepfocus-live: {path}: ")
        assert says in line


def test_slices_are_read_a_few_at_a_time() -> None:
    begun: list[int] = []

    def checks() -> Iterator[Callable[[], Any]]:
        for number in range(50):
            begun.append(number)
            yield lambda number=number: (Placement(0, 0, 0, number), None)

    results = _in_threads(checks(), 2)
    first, _ = next(results)
    assert first.z == 0
    assert len(begun) <= 5
    assert [place.z for place, _ in results] == list(range(1, 50))
