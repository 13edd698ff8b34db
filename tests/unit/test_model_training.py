"""Training: loss, targets, splits, batches and the gate."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from deepfocus_live.errors import InputError
from deepfocus_live.focus import Conditions, label_stack
from deepfocus_live.frames import Calibration
from deepfocus_live.inference import InFocusModel
from deepfocus_live.model import Registry
from deepfocus_live.model.network import Architecture, FocusNetwork
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.training import (
    FP32,
    UNKNOWN,
    BatchMaker,
    LabelledStack,
    block_target,
    empty_field,
    fit,
    focus_loss,
    model_iou,
    network_iou,
    simulated_stack,
    split,
    with_labels,
)


def _stack(name: str, *, focused: bool = True, width: int = 256) -> LabelledStack:
    random = np.random.default_rng(0)
    slices = random.integers(100, 200, (3, 128, width), dtype=np.uint16)
    target = np.zeros((3, 32, width // 4), np.uint8)
    if focused:
        target[1, 8:24] = 1
    return LabelledStack(name, slices, target)


class _Opened:
    """The least that a stack must be."""

    name = "tiny"
    pixel_size_um: Calibration | None = None

    def __init__(self, slices: np.ndarray) -> None:
        self._slices = slices

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._slices.shape  # type: ignore[return-value]

    def __getitem__(self, z_index: int) -> np.ndarray:
        return self._slices[z_index]


@pytest.fixture(scope="module")
def specimen() -> np.ndarray:
    return simulate_focal_stack("organoid_layer", shape=(5, 128, 192), seed=1).slices


def test_loss_falls_as_logits_turn_right() -> None:
    target = torch.zeros(1, 16, 16)
    target[:, 4:12] = 1.0
    known = torch.ones_like(target)
    sure = [focus_loss(k * (2 * target - 1), target, known).item() for k in (-4, 0, 1, 4, 8)]
    assert sure == sorted(sure, reverse=True)
    assert sure[-1] < 0.01


def test_undecided_pixels_carry_no_loss_and_no_gradient() -> None:
    target = torch.zeros(1, 16, 16)
    target[:, :8] = 1.0
    known = torch.ones_like(target)
    known[:, :, 8:] = 0.0
    logits = torch.randn(1, 16, 16, requires_grad=True)
    loss = focus_loss(logits, target, known)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 8:].any()
    changed = logits.detach().clone()
    changed[:, :, 8:] = 50.0
    torch.testing.assert_close(focus_loss(changed, target, known), loss.detach())


def test_crop_by_crop_a_missed_little_thing_weighs_what_a_missed_large_one_does() -> None:
    target = torch.zeros(2, 16, 16)
    target[0], target[1, 4:8, 4:8] = 1.0, 1.0
    found = 20.0 * (2.0 * target - 1.0)
    known, unknown = torch.ones_like(target), torch.ones_like(target)
    unknown[1] = 0.0

    def dice(missed: int, over: Literal["crop", "batch"], known: torch.Tensor = known) -> float:
        logits = found.clone()
        logits[missed] = -20.0
        only = {"focal_weight": 0.0, "bce_weight": 0.0}
        return focus_loss(logits, target, known, dice_over=over, **only).item()

    assert dice(1, "crop") == pytest.approx(dice(0, "crop"), rel=0.25)
    assert dice(1, "batch") < 0.1 * dice(0, "batch")
    # A crop of which nothing is known says nothing; one that counts more says more.
    assert dice(1, "crop", unknown) == pytest.approx(0.0, abs=1e-6)
    heavy = known.clone()
    heavy[1] = 4.0
    assert dice(1, "crop", heavy) > 1.3 * dice(1, "crop")


def test_block_is_in_focus_by_majority_of_what_is_decided_in_it() -> None:
    in_focus, undecided = np.zeros((14, 8), bool), np.zeros((14, 8), bool)
    in_focus[:2, :4] = True  # half of the first block
    in_focus[4:5, 4:] = True  # a quarter of the one below its neighbour
    in_focus[8:10, 4:6], undecided[8:12, 6:] = True, True  # half of what is decided
    undecided[7, 0] = True  # one pixel does not silence a block
    undecided[8:11, :4], undecided[11, 0] = True, True  # more than three quarters do
    target = block_target(in_focus, undecided, 4)
    np.testing.assert_array_equal(target, [[1, 0], [0, 0], [UNKNOWN, 1]])


def test_stacks_are_held_out_whole() -> None:
    stacks = [_stack(f"s{i}") for i in range(6)]
    learn, held, words = split(stacks)
    assert len(held) == 1
    assert not {s.name for s in learn} & {s.name for s in held}
    assert held[0].name in words


def test_stack_without_anything_in_focus_is_never_what_is_judged_by() -> None:
    learn, held, _ = split([_stack("sharp"), _stack("blurred", focused=False), _stack("sharp 2")])
    assert [s.name for s in held] == ["sharp 2"]
    assert [s.name for s in learn] == ["sharp", "blurred"]


def test_single_stack_is_parted_by_region_with_a_gap_and_says_so() -> None:
    stack = _stack("only")
    [learn], [held], words = split([stack])
    assert learn.slices.shape[2] + held.slices.shape[2] <= 256 - 32
    assert "region" in words and "one stack" in words


def test_nothing_in_focus_anywhere_is_refused() -> None:
    with pytest.raises(InputError, match="nothing is in focus in any of the stacks"):
        split([_stack("a", focused=False), _stack("b", focused=False)])


def test_stack_too_narrow_to_part_is_refused() -> None:
    with pytest.raises(InputError, match="give a second stack"):
        split([_stack("narrow", width=128)])


def test_slices_too_small_and_of_another_type_are_refused() -> None:
    with pytest.raises(InputError, match="tiny: slices of 60 x 200 pixels are too small"):
        with_labels(_Opened(np.zeros((5, 60, 200), np.uint16)), preset="axial", reduction=4)
    with pytest.raises(InputError, match="must be uint8 or uint16"):
        with_labels(_Opened(np.zeros((5, 64, 64), np.float32)), preset="axial", reduction=4)
    with pytest.raises(InputError, match="preset"):
        with_labels(_Opened(np.zeros((5, 64, 64), np.uint16)), preset="none", reduction=4)


def test_stack_that_drifts_sideways_is_not_to_be_learned_from(specimen: np.ndarray) -> None:
    drifting = np.stack([np.roll(plane, 6 * z, axis=1) for z, plane in enumerate(specimen)])
    still, moving = (
        with_labels(_Opened(slices), preset="consensus", reduction=4)
        for slices in (specimen, drifting)
    )
    assert (still.trainable, moving.trainable) == (True, False)
    # The other presets do not look.
    assert with_labels(_Opened(drifting), preset="axial", reduction=4).trainable


def test_labels_reckon_with_the_stack_s_own_calibration(specimen: np.ndarray) -> None:
    opened = _Opened(specimen)
    opened.pixel_size_um = Calibration(0.5, "file")
    stack = with_labels(
        opened, preset="consensus", reduction=4, conditions=Conditions(window_um=16.0)
    )
    labels = label_stack(
        specimen, "consensus", conditions=Conditions(window_um=16.0, pixel_size_um=0.5)
    )
    assert labels.block_px == 16
    for z in range(len(specimen)):
        target = block_target(labels.weak_label_slice(z), labels.undecided_slice(z), 4)
        np.testing.assert_array_equal(stack.target[z], target)


def test_a_slice_of_zeros_teaches_nothing(specimen: np.ndarray) -> None:
    torn = specimen.copy()
    torn[3] = 0
    stack = with_labels(_Opened(torn), preset="consensus", reduction=4)
    assert (stack.target[3] == UNKNOWN).all()
    assert not (stack.target[[0, 1, 2, 4]] == UNKNOWN).all(axis=(1, 2)).any()


def test_what_is_judged_lies_beyond_the_windows_of_the_labels(specimen: np.ndarray) -> None:
    wide = with_labels(
        _Opened(specimen),
        preset="consensus",
        reduction=4,
        conditions=Conditions(window_um=64.0, pixel_size_um=1.0),
    )
    assert wide.gap_px == 128
    assert with_labels(_Opened(specimen), preset="axial", reduction=4).gap_px == 32


def test_same_seed_draws_the_same_batches() -> None:
    stacks = [_stack("a"), _stack("b")]
    first, second = (BatchMaker(stacks, seed=5).draw() for _ in range(2))
    torch.testing.assert_close(first.counts, second.counts)
    torch.testing.assert_close(first.target, second.target)


def test_crops_of_small_stacks_are_small_and_whole_counts() -> None:
    batch = BatchMaker([_stack("a", width=192)], seed=1, size=4).draw()
    assert batch.counts.shape == (4, 128, 128)
    assert batch.target.shape == batch.known.shape == (4, 32, 32)
    assert torch.equal(batch.counts, batch.counts.round())
    assert 0 <= float(batch.counts.min()) and float(batch.counts.max()) <= 65535


def test_empty_fields_are_counts_of_a_camera() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        field = empty_field(random, (64, 64))
        assert field.shape == (64, 64)
        assert 0 <= field.min() and field.max() <= 65535
        assert np.array_equal(field, np.rint(field))


def test_simulated_stacks_repeat_by_seed() -> None:
    first, again, other = (
        simulated_stack("spheres", seed=(0, k), shape=(3, 128, 128)) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.slices, again.slices)
    assert not np.array_equal(first.slices, other.slices)
    assert first.target.shape == (3, 32, 32)


def test_fit_learns_and_keeps_the_best_weights() -> None:
    torch.manual_seed(0)
    stack = simulated_stack("spheres", seed=(3, 3), shape=(5, 128, 128))
    network = FocusNetwork(Architecture(base_channels=4, levels=2))
    scores = iter([0.1, 0.5, 0.3])
    states = []

    def judge(candidate: FocusNetwork) -> float:
        states.append(candidate.unet.head.weight.detach().clone())
        return next(scores)

    result = fit(
        network,
        BatchMaker([stack], size=2, crop_px=128),
        judge=judge,
        learning_rate=1e-2,
        precision=FP32,
        max_steps=6,
        looks=2,
    )
    assert (result.steps, result.best_score, result.best_step) == (6, 0.5, 3)
    torch.testing.assert_close(network.unet.head.weight.detach(), states[1])
    assert not torch.equal(states[1], states[2])


@pytest.mark.parametrize(
    ("scores", "blend"),
    [
        pytest.param([0.1, 0.5, 0.4, 0.6, 0.3], 0.5, id="half-way"),
        pytest.param([0.1, 0.5, 0.4, 0.3, 0.2], 1.0, id="last"),
        pytest.param([0.9, 0.5, 0.4, 0.3, 0.2], 1.0, id="first"),
    ],
)
def test_averages_of_first_and_last_weights_are_judged_too(
    scores: list[float], blend: float
) -> None:
    torch.manual_seed(0)
    network = FocusNetwork(Architecture(base_channels=4, levels=2))
    said, seen = iter(scores), []

    def judge(candidate: FocusNetwork) -> float:
        seen.append(candidate.unet.head.weight.detach().clone())
        return next(said)

    result = fit(
        network,
        BatchMaker([_stack("a")], size=2),
        judge=judge,
        learning_rate=1e-2,
        precision=FP32,
        max_steps=2,
        looks=1,
        blend=True,
    )
    first, last, *averages = seen
    for average, share in zip(averages, (0.75, 0.5, 0.25), strict=True):
        torch.testing.assert_close(average, (1 - share) * first + share * last)
    assert (result.best_score, result.best_blend) == (max(scores), blend)
    best = seen[scores.index(max(scores))]
    torch.testing.assert_close(network.unet.head.weight.detach(), best)


def test_training_that_only_harms_changes_nothing() -> None:
    torch.manual_seed(0)
    network = FocusNetwork(Architecture(base_channels=4, levels=2))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    scores = iter([0.9, 0.5, 0.3])
    stack = _stack("a")
    result = fit(
        network,
        BatchMaker([stack], size=2),
        judge=lambda _: next(scores),
        learning_rate=1.0,
        precision=FP32,
        max_steps=2,
        looks=2,
    )
    assert result.best_step == 0
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key])


def test_iou_is_pooled_over_what_is_known() -> None:
    network = FocusNetwork(Architecture(base_channels=4, levels=2)).eval()
    with torch.no_grad():
        network.unet.head.weight.zero_()
        network.unet.head.bias.fill_(5.0)  # everything in focus
    stack = _stack("a")
    target = stack.target.copy()
    target[1, 24:] = UNKNOWN
    examples = [(stack.slices[1], target[1])]
    assert network_iou(network, examples) == pytest.approx(16 / 24)


def test_model_is_judged_at_the_resolution_of_the_labels() -> None:
    model = InFocusModel.load(Registry().shipped_version(), provider="cpu", threads=1)
    stack = simulate_focal_stack("organoid_layer", shape=(3, 130, 150), seed=4)
    z_slice = stack.slices[1]
    mask = model.infer(z_slice).mask
    assert 0 < mask.mean() < 1
    for reduction in (1, 2, 4):
        height, width = (side // reduction * reduction for side in mask.shape)
        target = mask[:height:reduction, :width:reduction]
        assert model_iou(model, [(z_slice, target)]) == 1.0
        assert model_iou(model, [(z_slice, 1 - target)]) == 0.0
