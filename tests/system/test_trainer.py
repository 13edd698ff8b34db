"""The trainer's process: what it hands back, and that it is held and ended when asked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deepfocus_live import _platform
from deepfocus_live.config import Config
from deepfocus_live.daemon._learning import _trainer
from deepfocus_live.daemon._learning._trainer import TrainerNews, TrainerProcess
from deepfocus_live.model import Registry
from deepfocus_live.training import StackAddress, TrainerFolder, TrainerOrder, TrainingJob
from tests.teachable_runs import teachable_run

Make = Callable[[], TrainerProcess]


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "runtime"
    monkeypatch.setenv(_platform.RUNTIME_DIR_VARIABLE, str(path))
    monkeypatch.setattr(_trainer, "_MODULE", "tests.other_trainers")
    return _platform.runtime_dir()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def trainer(runtime: Path, tmp_path: Path, said: list[str]) -> Iterator[TrainerProcess]:
    config = Config.model_validate({"learning": {"threads": 1}})
    process = TrainerProcess(config, Registry(tmp_path / "models"), said.append)
    yield process
    process.stop()
    assert not list(runtime.glob("trainer-*/")), "nothing is left of a training"


def pretended(profile: str) -> TrainingJob:
    return TrainingJob(profile, (StackAddress(Path("run"), 0, 0, 0),), minutes=1)


def news_of(trainer: TrainerProcess, seconds: float = 60) -> TrainerNews:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (news := trainer.look()) is not None:
            return news
        time.sleep(0.02)
    raise TimeoutError(f"no news in {seconds} s")


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not in {seconds} s"
        time.sleep(0.02)


def test_stopped_training_goes_on_and_a_refused_candidate_never_gets_current(
    trainer: TrainerProcess, runtime: Path, tmp_path: Path, said: list[str]
) -> None:
    run = teachable_run(tmp_path / "out", 4)
    stacks = tuple(StackAddress(run, 0, t, 0) for t in range(4))
    job = TrainingJob("default", stacks[:2], stacks[2:], minutes=2)
    trainer.start(job)
    assert trainer.running
    wait_for(lambda: trainer.progress.get("step"))
    assert set(trainer.progress) == {"step", "loss", "iou", "done", "message"}
    trainer.pause(True)
    time.sleep(0.5)  # the step in hand, and a look
    before = trainer.progress
    time.sleep(0.5)
    assert trainer.progress == before, "nothing is learnt while it is paused"
    began = time.monotonic()
    trainer.stop()
    assert time.monotonic() - began < 5
    news = trainer.look()
    assert news is not None and (news.state, news.version) == ("stopped", None)
    assert trainer.progress == {} and trainer.look() is None
    registry = Registry(tmp_path / "models")
    assert (registry.root / "training/default/state.pt").is_file(), "what was learnt is kept"

    trainer.start(job)
    news = news_of(trainer)
    assert news.state == "refused" and news.version is not None
    assert "empty" in news.reason
    candidate = registry.get(news.version)
    assert candidate.parent == news.metrics["parent"] == registry.shipped_version().name
    assert registry.current().name == registry.shipped_version().name
    held = {one["stack"] for one in candidate.card["held_out"]}
    assert len(held) == 2, "one of the new and one of the replayed"
    report = (candidate.path / "report.json").read_text(encoding="utf-8")
    assert '"resumed_at_step": null' not in report
    assert any("decides" in check for check in news.metrics["checks"])
    assert said[0] == "fine-tuning profile default for 2 min"
    assert said[-1].startswith("fine-tuning: refused: ")


def test_trainer_ends_by_itself_when_its_daemon_is_gone(tmp_path: Path) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    order = TrainerOrder(
        pretended("default"),
        Config(),
        tmp_path / "models",
        _platform.ProcessStamp.of(daemon.pid),
    )
    folder = TrainerFolder.create(tmp_path, order)
    folder.pause(True)
    command = [sys.executable, "-m", "deepfocus_live.training._trainer_main", str(folder.path)]
    process = _platform.spawn_detached(command, log=tmp_path / "log")
    try:
        wait_for(lambda: (folder.path / "scratch").is_dir())
        assert process.poll() is None
        nice = psutil.Process(process.pid).nice()
        assert sys.platform == "win32" or nice == 19
        daemon.kill()
        daemon.wait()
        assert process.wait(timeout=10) == 3
        assert not folder.path.exists()
    finally:
        for left in (daemon, process):
            left.kill()
            left.wait()
    assert (tmp_path / "log").read_text(encoding="utf-8") == ""


def test_news_come_once_with_the_candidate_and_its_figures(trainer: TrainerProcess) -> None:
    trainer.start(pretended("passes"))
    with pytest.raises(RuntimeError, match="is running"):
        trainer.start(pretended("passes"))
    assert news_of(trainer) == TrainerNews(
        "passed", "made-up", "passed the gate", {"iou_after": 0.5}
    )
    assert trainer.look() is None and not trainer.running


def test_crash_is_a_failure_that_names_the_log(trainer: TrainerProcess, runtime: Path) -> None:
    trainer.start(pretended("crashes"))
    news = news_of(trainer)
    assert (news.state, news.version) == ("failed", None)
    assert "exit code 7" in news.reason and str(runtime / "trainer.log") in news.reason
    assert "out of memory" in (runtime / "trainer.log").read_text(encoding="utf-8")


def test_trainer_that_does_not_listen_is_killed(
    trainer: TrainerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trainer, "_STOP_S", 0.2)
    trainer.start(pretended("hangs"))
    wait_for(lambda: trainer.progress)
    trainer.stop()
    assert trainer.look() == TrainerNews("stopped", None, "stopped in the middle of a step")


def test_candidate_that_was_ready_when_it_was_stopped_is_news(trainer: TrainerProcess) -> None:
    trainer.start(pretended("waits"))
    wait_for(lambda: trainer.progress)
    assert trainer.progress["message"] == "half way"
    trainer.stop()
    news = trainer.look()
    assert news is not None and news.state == "passed"


def test_trainer_that_cannot_be_started_is_a_failure(
    trainer: TrainerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "no-such-python")
    trainer.start(pretended("passes"))
    news = trainer.look()
    assert news is not None and news.state == "failed"
    assert news.reason.startswith("the trainer cannot be started: ")
    assert not trainer.running
