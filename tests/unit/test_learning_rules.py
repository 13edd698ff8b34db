"""The decisions of learning while acquiring: agreement, sanity, policy, pool, watch, memory."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepfocus_live.config import LearningConfig
from deepfocus_live.focus import label_stack
from deepfocus_live.learning import (
    CLEAR_FALL,
    FALL,
    WATCHED_STACKS,
    Agreement,
    AgreementCounter,
    Decision,
    History,
    Outcome,
    Policy,
    StackFacts,
    StackPool,
    StackRecord,
    Standing,
    Watch,
    contrast_over_z,
    why_not_learn,
)

NOW = 1_800_000_000.0
STACKS = arrays(np.uint8, (3, 3, 4, 5), elements=st.integers(0, 1))


# --- agreement ---------------------------------------------------------------------------------


def _agreement_naive(stack: Any) -> tuple[float | None, float, float]:
    both = either = weak = decided = pixels = 0
    for mask, label, undecided in stack:
        for m, w, u in zip(mask.flat, label.flat, undecided.flat, strict=True):
            pixels += 1
            if u:
                continue
            decided += 1
            weak += int(w)
            both += int(m and w)
            either += int(m or w)
    iou = both / either if either else None
    return iou, decided / pixels, weak / decided if decided else 0.0


@given(stack=STACKS)
@settings(max_examples=25, deadline=None)
def test_agreement_of_a_stack_is_what_its_pixels_say_in_any_order(stack: Any) -> None:
    for slices in (stack, stack[::-1]):
        counter = AgreementCounter()
        for mask, weak, undecided in slices:
            counter.add(mask, weak, undecided, "a")
        found = counter.result()
        assert (found.iou, found.decided, found.in_focus) == _agreement_naive(stack)
        assert (found.slices, found.models) == (3, ("a",))


def test_undecided_pixels_count_for_nothing_and_models_are_told_once() -> None:
    mask, weak = np.array([[1, 1, 0, 0]], np.uint8), np.array([[1, 0, 1, 0]], np.uint8)
    counter = AgreementCounter()
    assert counter.result() == Agreement(None, 0.0, 0.0, 0)
    counter.add(mask, weak, np.array([[0, 1, 1, 0]], np.uint8), "b")
    counter.add(mask, weak, np.ones((1, 4), np.uint8), "a")
    counter.add(mask * 0, weak * 0, weak * 0, "b")
    assert counter.result() == Agreement(1.0, 6 / 12, 1 / 6, 3, ("b", "a"))
    with pytest.raises(ValueError, match="not of one slice"):
        counter.add(mask, weak[:, :2], weak)


# --- sanity ------------------------------------------------------------------------------------

SANE = StackFacts(slices=12, decided=0.9, in_focus=0.05, trainable=True, contrast=3.0)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        pytest.param(SANE, None, id="sane"),
        pytest.param(replace(SANE, contrast=None), None, id="contrast-not-known"),
        pytest.param(replace(SANE, slices=2), "too few", id="two-slices"),
        pytest.param(replace(SANE, trainable=False), "sideways", id="drifts"),
        pytest.param(replace(SANE, decided=0.24), "24% of it only", id="undecided"),
        pytest.param(replace(SANE, in_focus=0.0), "next to nothing", id="nothing-in-focus"),
        pytest.param(replace(SANE, in_focus=0.61), "61% of it in focus", id="all-in-focus"),
        pytest.param(replace(SANE, contrast=1.05), "× 1.05", id="no-contrast-over-z"),
    ],
)
def test_labels_that_nothing_may_be_learnt_from_are_named(
    facts: StackFacts, said: str | None
) -> None:
    why_not = why_not_learn(facts)
    assert (why_not is None) if said is None else (why_not is not None and said in why_not)


def test_contrast_is_the_rise_of_the_sharpest_slice_where_anything_is_in_focus() -> None:
    scores = np.ones((5, 1, 3), np.float32)
    scores[2, 0] = 4.0, 2.0, 90.0
    weak = np.zeros((5, 1, 3), bool)
    assert contrast_over_z(scores, weak) is None
    weak[2, 0, :2] = True
    assert contrast_over_z(scores, weak) == 3.0
    weak[2, 0, 1] = False
    assert contrast_over_z(scores * 7, weak) == 4.0, "not a matter of the measure's unit"
    assert contrast_over_z(scores * 0, weak) == 0.0


def test_noise_that_a_rule_finds_winners_in_is_not_learnt_from() -> None:
    noise = np.random.default_rng(0).normal(1000, 30, (8, 96, 96)).astype(np.uint16)
    bent = noise.copy()
    bent[4, :48] += np.random.default_rng(1).integers(0, 400, (48, 96), np.uint16)
    said = []
    for slices in (noise, bent):
        labels = label_stack(slices, "axial")
        assert labels.weak_label.any()
        share = float(labels.weak_label.mean())
        contrast = contrast_over_z(labels.scores, labels.weak_label)
        said.append(why_not_learn(replace(SANE, in_focus=share, contrast=contrast)))
    assert said[0] is not None and "hardly change over z" in said[0]
    assert said[1] is None


# --- policy ------------------------------------------------------------------------------------

BY_COUNT = Policy(after_stacks=20, below_agreement=None, for_stacks=3, every_s=900.0)
BY_LEVEL = Policy(after_stacks=0, below_agreement=0.6, for_stacks=3, every_s=900.0)
OFF = Policy(after_stacks=0, below_agreement=None, for_stacks=3, every_s=900.0)
LOW = (0.9, 0.5, 0.4, 0.59)


@pytest.mark.parametrize(
    ("policy", "standing", "start", "said"),
    [
        pytest.param(BY_COUNT, Standing(19), False, "19 of 20", id="not-enough"),
        pytest.param(BY_COUNT, Standing(20), True, "20 new stacks", id="enough"),
        pytest.param(BY_COUNT, Standing(3, LOW), False, "3 of 20", id="level-not-asked-for"),
        pytest.param(BY_LEVEL, Standing(90, LOW[:3]), False, "not below", id="two-low-ones"),
        pytest.param(BY_LEVEL, Standing(3, LOW), True, "0.50, 0.40, 0.59", id="three-low-ones"),
        pytest.param(BY_LEVEL, Standing(3, (0.5, 0.5, 0.6)), False, "", id="on-the-level"),
        pytest.param(BY_LEVEL, Standing(0, LOW), False, "no stack yet", id="low-but-not-sane"),
        pytest.param(
            BY_COUNT, Standing(20, last_started=NOW - 600), False, "waits 5 min", id="too-soon"
        ),
        pytest.param(BY_COUNT, Standing(20, last_started=NOW - 900), True, "", id="soon-enough"),
        pytest.param(
            BY_COUNT, Standing(20, last_started=NOW + 9e9), True, "", id="clock-was-set-back"
        ),
        pytest.param(
            BY_COUNT, Standing(1, last_started=NOW, asked=True), True, "by hand", id="asked-for"
        ),
        pytest.param(OFF, Standing(500, LOW), False, "only when asked", id="switched-off"),
        pytest.param(OFF, Standing(0, known=4, asked=True), True, "by hand", id="off-and-asked"),
        pytest.param(OFF, Standing(0, asked=True), False, "no stack yet", id="asked-for-nothing"),
        pytest.param(
            BY_COUNT,
            Standing(20, asked=True, held_up_by="a fine-tune runs"),
            False,
            "waits: a fine-tune runs",
            id="one-at-a-time",
        ),
    ],
)
def test_policy_says_when_and_why(
    policy: Policy, standing: Standing, start: bool, said: str
) -> None:
    decision = policy.decide(standing, NOW)
    assert (decision.start, decision.at) == (start, NOW)
    assert said in decision.reason


@given(
    steps=st.lists(st.tuples(st.floats(0.0, 2000.0), st.floats(0.0, 1.0)), max_size=60),
    after=st.integers(0, 5),
    level=st.none() | st.floats(0.0, 1.0),
)
@settings(max_examples=40, deadline=None)
def test_fine_tunes_never_come_closer_than_asked_for_and_never_without_cause(
    steps: list[tuple[float, float]], after: int, level: float | None
) -> None:
    policy = Policy(after, level, 2, every_s=900.0)
    now = NOW
    started: list[float] = []
    since: list[float] = []
    for wait, agreement in steps:
        now += wait
        since.append(agreement)
        standing = Standing(len(since), since, started[-1] if started else None)
        if policy.decide(standing, now).start:
            by_count = bool(after) and len(since) >= after
            by_level = level is not None and len(since) > 1 and max(since[-2:]) < level
            assert by_count or by_level
            started.append(now)
            since = []
    assert all(later - earlier >= 900.0 for earlier, later in pairwise(started))


def test_default_policy_learns_by_count_and_never_within_a_run() -> None:
    config = LearningConfig()
    assert Policy.of(config).in_words == "fine-tunes after 20 new stacks, at most every 15 min"
    assert config.swap == "between-runs"
    assert Policy.of(LearningConfig(after_stacks=0)).in_words == "fine-tunes only when asked"


# --- pool --------------------------------------------------------------------------------------


def _record(number: int, **looks: Any) -> StackRecord:
    usual = {"at": NOW + number, "agreement": 0.8, "in_focus": 0.05, "brightness": 1000.0}
    return StackRecord("/run", 0, number, 0, **{**usual, **looks})


RECORDS = st.builds(
    StackRecord,
    run=st.sampled_from(["/a", "/b"]),
    image=st.integers(0, 2),
    t=st.integers(0, 3),
    c=st.just(0),
    at=st.floats(NOW, NOW + 1e6),
    agreement=st.none() | st.floats(0, 1),
    in_focus=st.floats(0, 1),
    decided=st.floats(0, 1),
    brightness=st.floats(0, 65535),
)


@given(records=st.lists(RECORDS, max_size=30), size=st.integers(1, 8), count=st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_pool_is_bounded_and_chooses_each_stack_once_and_always_the_same(
    records: list[StackRecord], size: int, count: int
) -> None:
    pool = StackPool(size, records)
    kept = list(pool)
    addresses = [record.address for record in kept]
    assert len(pool) == min(size, len({record.address for record in records}))
    assert len(set(addresses)) == len(addresses)
    # What comes again replaces itself.
    assert all(next(r for r in reversed(records) if r.address == k.address) == k for k in kept)
    chosen = pool.choose(count)
    assert len({record.address for record in chosen}) == len(chosen) == min(count, len(kept))
    assert chosen == StackPool(size, kept).choose(count)
    assert set(chosen) <= set(kept)


def test_rare_kinds_stay_in_the_pool_and_are_chosen_first() -> None:
    odd = [
        _record(5, brightness=60.0),
        _record(11, agreement=0.1),
        _record(17, in_focus=0.4),
    ]
    alike = [_record(number) for number in range(60) if number not in (5, 11, 17)]
    pool = StackPool(8, sorted([*alike, *odd], key=lambda record: record.at))
    assert set(odd) < set(pool)
    newest = max(pool, key=lambda record: record.at)
    assert newest.t == 59, "of two that are alike the older goes"
    assert set(pool.choose(4)) == {newest, *odd}


def test_old_stacks_stay_beside_new_ones_of_the_same_kind() -> None:
    last_week = _record(0, at=NOW - 7 * 86400)
    pool = StackPool(4, [last_week, *(_record(number) for number in range(1, 20))])
    assert last_week in set(pool)


def test_stacks_whose_run_is_gone_leave_the_pool() -> None:
    pool = StackPool(8, [_record(number) for number in range(4)])
    gone = pool.keep(lambda record: record.t != 2)
    assert [record.t for record in gone] == [2]
    assert [record.t for record in pool] == [0, 1, 3]
    assert _record(2).address not in pool


# --- watch -------------------------------------------------------------------------------------

WATCH = Watch("new", "old", NOW)


def _watched(*pairs: tuple[float | None, float | None]) -> Watch:
    watch = WATCH
    for old, new in pairs:
        watch = watch.with_stack(old, new)
    return watch


@pytest.mark.parametrize(
    ("watch", "outcome"),
    [
        pytest.param(_watched(), Outcome.UNDECIDED, id="nothing-seen"),
        pytest.param(_watched((0.8, 0.7), (0.8, 0.8)), Outcome.UNDECIDED, id="two-stacks"),
        pytest.param(_watched((0.8, 0.69)), Outcome.ROLL_BACK, id="clear-fall-at-once"),
        pytest.param(_watched((0.8, 0.79), (0.7, 0.7), (0.6, 0.6)), Outcome.KEEP, id="as-good"),
        pytest.param(
            _watched((0.8, 0.77), (0.8, 0.77), (0.8, 0.77)), Outcome.ROLL_BACK, id="creeping-fall"
        ),
        pytest.param(
            _watched((0.9, 0.92), (0.3, 0.31), (0.2, 0.2)), Outcome.KEEP, id="specimen-changed"
        ),
        pytest.param(_watched((None, None), (None, None)), Outcome.UNDECIDED, id="empty-stacks"),
        pytest.param(_watched((None, 0.0)), Outcome.ROLL_BACK, id="sees-focus-in-nothing"),
        pytest.param(_watched((0.0, None)), Outcome.UNDECIDED, id="sees-nothing-in-nothing"),
        pytest.param(WATCH.with_anchor(0.80, 0.779), Outcome.ROLL_BACK, id="forgets-the-anchor"),
        pytest.param(WATCH.with_anchor(0.80, 0.781), Outcome.UNDECIDED, id="anchor-keeps"),
        pytest.param(
            _watched(*[(0.5, 0.9)] * 3).with_anchor(0.8, 0.2),
            Outcome.ROLL_BACK,
            id="agrees-with-wrong-labels",
        ),
    ],
)
def test_watch_keeps_what_does_as_well_and_takes_back_what_falls(
    watch: Watch, outcome: Outcome
) -> None:
    assert watch.outcome is outcome
    assert Watch.from_json(json.loads(json.dumps(watch.as_json()))) == watch
    if watch.pairs and outcome is Outcome.ROLL_BACK:
        assert "→" in watch.reason and "may be lost" in watch.reason


@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3),
    shared=st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_a_verdict_comes_within_three_stacks_and_equal_models_are_never_taken_back(
    pairs: list[tuple[float, float]], shared: float
) -> None:
    assert len(pairs) == WATCHED_STACKS
    outcome = _watched(*pairs).outcome
    assert outcome is not Outcome.UNDECIDED
    lost = [old - new for old, new in pairs]
    if max(lost) > CLEAR_FALL + 1e-6 or sum(lost) / 3 > FALL + 1e-6:
        assert outcome is Outcome.ROLL_BACK
    elif max(lost) < CLEAR_FALL - 1e-6 and sum(lost) / 3 < FALL - 1e-6:
        assert outcome is Outcome.KEEP
    # However the specimen changes, it changes for both.
    assert _watched(*((old * shared, old * shared) for old, _ in pairs)).outcome is Outcome.KEEP


# --- memory ------------------------------------------------------------------------------------


def _lived() -> History:
    history = History()
    for number in range(5):
        history.count(_record(number))
        history.point(_point(number))
    history.begin_lesson("shipped", NOW + 5, replay=8)
    history.decided(Decision(True, "5 new stacks", NOW + 5))
    history.waiting, history.watch = "v2", WATCH.with_stack(0.5, 0.6)
    history.take_back("v1", "agreement fell", NOW + 6)
    history.count(_record(9))
    history.watch = WATCH.with_anchor(0.5, 0.6)
    return history


def _point(number: int, **changes: Any) -> dict[str, Any]:
    point = {"at": NOW + number, "run": "r", "image": 0, "t": number, "c": 0}
    return {**point, "iou": 0.5, "decided": 1.0, "model": "a", **changes}


def test_memory_outlives_the_daemon(tmp_path: Path) -> None:
    history, file = _lived(), tmp_path / "learning" / "default.json"
    assert History.load(file)[1] is None, "that there is none yet is no trouble"
    history.save(file)
    again, trouble = History.load(file)
    assert trouble is None
    assert again._as_json() == history._as_json()
    assert again.was_taken_back("v1") and not again.was_taken_back("v2")
    assert [path.name for path in file.parent.iterdir()] == ["default.json"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[1, 2]", id="no-record"),
        pytest.param('{"format": 1}', id="keys-missing"),
        pytest.param('{"format": 99}', id="of-a-later-version"),
        pytest.param("\udcff", id="not-text"),
        pytest.param("HALF", id="torn"),
        pytest.param("BAD", id="value-of-another-kind"),
    ],
)
def test_damaged_memory_is_begun_anew_and_said(tmp_path: Path, text: str) -> None:
    file = tmp_path / "default.json"
    _lived().save(file)
    whole = file.read_text(encoding="utf-8")
    bad = whole.replace('"points": [', '"points": [3,')
    text = {"HALF": whole[: len(whole) // 2], "BAD": bad}.get(text, text)
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    history, trouble = History.load(file)
    assert history._as_json() == History()._as_json()
    assert trouble is not None and str(file) in trouble and "\n" not in trouble
    history.save(file)
    assert History.load(file)[1] is None


def test_memory_is_bounded() -> None:
    history = History()
    for number in range(300):
        history.count(_record(number))
        history.point(_point(number))
        history.take_back(f"v{number}", "fell", NOW)
    assert history.stacks == 300
    sizes = len(history.new), len(history.points), len(history.rolled_back)
    assert sizes == (32, 200, 50)


def test_a_stack_counts_once_and_a_lesson_s_stacks_are_earlier_ones_then() -> None:
    history = History()
    for number in (0, 1, 1, 2):
        history.count(_record(number))
    assert history.stacks == 3
    lesson = history.begin_lesson("shipped", NOW, replay=8)
    assert [record.t for record in lesson.new] == [0, 1, 2] and not lesson.replay
    assert (history.stacks, len(history.new), len(history.earlier)) == (0, 0, 3)
    history.end_lesson(learnt=True)
    history.count(_record(2))
    history.count(_record(3))
    assert history.stacks == 1, "what was learnt from is not new"
    lesson = history.begin_lesson("v1", NOW, replay=2)
    assert [record.t for record in lesson.new] == [3]
    assert len(lesson.replay) == 2 and {r.t for r in lesson.replay} <= {0, 1, 2}
    history.end_lesson(learnt=True)
    again = history.begin_lesson("v1", NOW, replay=8)
    assert {record.t for record in again.new} == {0, 1, 2, 3}, "by hand, with nothing new"


def test_what_a_failed_fine_tune_did_not_learn_from_stays_new() -> None:
    history = History()
    history.count(_record(0))
    history.begin_lesson("shipped", NOW, replay=8)
    history.end_lesson(learnt=False)
    history.count(_record(1))
    assert history.stacks == 1
    lesson = history.begin_lesson("shipped", NOW, replay=8)
    assert {record.t for record in lesson.new} == {0, 1} and not lesson.replay


def test_nothing_more_is_learnt_from_the_stacks_of_a_model_that_was_taken_back() -> None:
    history = History()
    history.count(_record(0))
    history.begin_lesson("shipped", NOW, replay=8)
    history.end_lesson(learnt=True)
    history.count(_record(1))
    history.take_back("v1", "fell", NOW)
    history.count(_record(0))
    assert [record.t for record in history.new] == [1]
    assert not history.begin_lesson("shipped", NOW, replay=8).replay


def test_agreements_that_ask_for_a_fine_tune_are_the_current_model_s_since_the_last() -> None:
    history = History(last_started=NOW + 2)
    kinds: list[dict[str, Any]] = [{}, {}, {"iou": 0.1}, {"iou": None}, {"model": None}]
    for number, changes in enumerate([*kinds, {"model": "b"}, {"iou": 0.2}]):
        history.point(_point(number, **changes))
    assert history.agreements_of("a") == [0.1, 0.2]
