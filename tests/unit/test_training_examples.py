"""What is learnt from: weak labels, hand-made masks, how much of it, and what is held out."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from deepfocus_live.errors import InputError
from deepfocus_live.focus import label_stack
from deepfocus_live.frames import Calibration
from deepfocus_live.simulation import simulate_focal_stack
from deepfocus_live.training import UNKNOWN, BatchMaker, LabelledStack, split, with_labels
from deepfocus_live.training._evaluate import by_hand, held_out_slices
from deepfocus_live.training._examples import Source
from deepfocus_live.training._inputs import Given, choose_slices, fingerprint, gather, reopen
from deepfocus_live.training._judging import held_out_sources, old_stacks
from deepfocus_live.training._label import StoredLabels
from deepfocus_live.volume import ImageLayout, VolumeFile
from tests.unit.test_masks import add_label

SHAPE = (5, 96, 128)


class Masks:
    """Hand-made masks in memory; slices of zeros say nothing, as of the label `corrected`."""

    name = "masks"

    def __init__(self, masks: np.ndarray) -> None:
        self._masks = masks
        self.shape: tuple[int, int, int] = masks.shape  # type: ignore[assignment]

    def __getitem__(self, z: int) -> np.ndarray:
        return self._masks[z]

    def said(self, z: int) -> bool:
        return bool(self._masks[z].any())


class Slices:
    """A stack in memory."""

    def __init__(self, slices: np.ndarray, name: str = "tiny") -> None:
        self._slices, self.name = slices, name
        self.shape: tuple[int, int, int] = slices.shape  # type: ignore[assignment]
        self.dtype = slices.dtype

    def __getitem__(self, z: int) -> np.ndarray:
        return self._slices[z]


def noise(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 200, shape, dtype=np.uint16)


def labelled(
    name: str, *, hand_made: tuple[int, ...] = (), width: int = 128, focused: bool = True
) -> LabelledStack:
    target = np.zeros((5, 24, width // 4), np.uint8)
    target[1:3, 4:20] = focused
    drawn = np.isin(np.arange(5), hand_made)
    weight = np.where(drawn, 4.0, 1.0).astype(np.float32)
    return LabelledStack(name, noise((5, 96, width)), target, slice_weight=weight, hand_made=drawn)


# --- hand-made masks ------------------------------------------------------------------------


def test_masks_replace_weak_labels_where_they_say_something_and_weigh_more() -> None:
    masks = np.zeros(SHAPE, np.uint8)
    masks[1, :, :64], masks[1, :, 96:] = 1, 2
    stack = Slices(noise())
    plain = with_labels(stack, preset="axial", reduction=4)
    drawn = with_labels(stack, preset="axial", reduction=4, masks=Masks(masks))
    np.testing.assert_array_equal(
        drawn.target[1], np.repeat([[1] * 16 + [0] * 8 + [255] * 8], 24, 0)
    )
    others = [0, 2, 3, 4]
    np.testing.assert_array_equal(drawn.target[others], plain.target[others])
    assert drawn.slice_weight is not None and drawn.hand_made is not None
    np.testing.assert_array_equal(drawn.slice_weight, [1, 4, 1, 1, 1])
    np.testing.assert_array_equal(drawn.hand_made, [False, True, False, False, False])
    assert drawn.weight > plain.weight
    silent = with_labels(stack, preset="axial", reduction=4, masks=Masks(np.zeros(SHAPE, np.uint8)))
    assert not silent.any_hand_made and silent.weight == plain.weight


def test_of_a_drifting_stack_only_hand_made_slices_are_learnt_from() -> None:
    sheet = np.kron(noise((1, 24, 32), seed=1)[0], np.ones((4, 4), np.uint16))
    drifting = np.stack([np.roll(sheet, 6 * z, axis=1) + noise()[z] for z in range(5)])
    masks = np.zeros(SHAPE, np.uint8)
    masks[3, 8:] = 1
    stack = with_labels(Slices(drifting), preset="consensus", reduction=4)
    assert not stack.trainable
    drawn = with_labels(Slices(drifting), preset="consensus", reduction=4, masks=Masks(masks))
    assert drawn.trainable and len(drawn.slices) == 1
    np.testing.assert_array_equal(drawn.slices[0], drifting[3])


def test_only_chosen_slices_are_held_but_all_are_compared() -> None:
    z_stack = noise()
    z_stack[2, 32:64, 32:64] *= np.uint16(3)
    whole = with_labels(Slices(z_stack), preset="axial", reduction=4)
    part = with_labels(Slices(z_stack), preset="axial", reduction=4, keep=[4, 2])
    np.testing.assert_array_equal(part.slices, z_stack[[2, 4]])
    np.testing.assert_array_equal(part.target, whole.target[[2, 4]])


def with_masks_of(shape: tuple[int, int, int]) -> LabelledStack:
    masks = Masks(np.ones(shape, np.uint8))
    return with_labels(Slices(noise()), preset="axial", reduction=4, masks=masks)


BAD = [
    pytest.param(
        lambda: with_labels(
            Slices(noise()),
            preset="axial",
            reduction=4,
            masks=Masks(np.ones((5, 96, 64), np.uint8)),
        ),
        "masks: masks of 5 x 96 x 64 do not fit tiny of 5 x 96 x 128",
        id="masks-of-another-size",
    ),
    pytest.param(
        lambda: with_labels(
            Slices(noise()),
            preset="axial",
            reduction=4,
            masks=Masks(np.ones((4, 96, 128), np.uint8)),
        ),
        "give masks of every slice",
        id="masks-of-fewer-slices",
    ),
    pytest.param(
        lambda: split([labelled("a", focused=False)]), "nothing is in focus", id="nothing-in-focus"
    ),
]


@pytest.mark.parametrize(("act", "says"), BAD)
def test_what_cannot_be_learnt_from_is_refused_in_words(act: object, says: str) -> None:
    assert callable(act)
    with pytest.raises(InputError, match=says):
        act()


def test_stored_labels_of_other_slices_are_not_learnt_from() -> None:
    specimen = simulate_focal_stack(
        "organoid_layer", shape=(9, 128, 192), z_step_um=5.0, seed=1
    ).slices
    labels = label_stack(specimen)
    weak = np.stack([labels.weak_label_slice(z) for z in range(len(specimen))]).astype(np.uint8)

    def learn_from(masks: np.ndarray) -> LabelledStack:
        stored = StoredLabels(Masks(masks), trainable=True)
        return with_labels(Slices(specimen), preset="consensus", reduction=4, stored=stored)

    assert (learn_from(weak).target == 1).any()
    with pytest.raises(InputError, match="not of the sharper slices"):
        learn_from(np.roll(weak, 4, axis=0))


def test_two_slices_say_nothing_by_rule() -> None:
    stack = with_labels(Slices(noise((2, 64, 64))), preset="axial", reduction=4)
    assert (stack.target == UNKNOWN).all() and not stack.decided


# --- what is held out -----------------------------------------------------------------------

SPLITS = [
    pytest.param("hh", {"h1"}, id="two-hand-made"),
    pytest.param("hw", {"w1"}, id="the-hand-made-one-is-learnt-from"),
    pytest.param("hhww", {"h1", "w3"}, id="of-either-kind"),
    pytest.param("hhw", {"h1"}, id="the-weak-one-is-learnt-from"),
    pytest.param("wwwwwwwwww", {"w9", "w0"}, id="a-fifth"),
]


@pytest.mark.parametrize(("kinds", "wanted"), SPLITS)
def test_whole_stacks_of_either_kind_are_held_out(kinds: str, wanted: set[str]) -> None:
    stacks = [
        labelled(f"{kind}{number}", hand_made=(1,) if kind == "h" else ())
        for number, kind in enumerate(kinds)
    ]
    learn, held, _ = split(stacks)
    assert {stack.name for stack in held} == wanted
    assert {stack.name for stack in learn} == {stack.name for stack in stacks} - wanted


def test_hand_made_truth_is_judged_apart_unless_it_holds_nothing_in_focus() -> None:
    [truth] = by_hand([labelled("a", hand_made=(1, 4)), labelled("b")])
    assert len(truth.slices) == 2 and len(held_out_slices([truth])) == 2
    assert by_hand([labelled("a", hand_made=(0, 4))]) == []


# --- crops ----------------------------------------------------------------------------------


def test_hand_made_slices_are_drawn_more_often_and_their_loss_counts_more() -> None:
    stack = labelled("a", hand_made=(4,))
    batches = BatchMaker([stack], seed=1, size=64, crop_px=64, empty_share=0, defocused_share=0)
    known = batches.draw().known.amax(dim=(1, 2))
    assert set(known.tolist()) == {1.0, 4.0}
    assert 0.4 < (known == 4.0).float().mean() < 0.9, "a fifth of the slices, half of the crops"
    nothing = BatchMaker([stack], seed=1, size=16, crop_px=64, empty_share=0, defocused_share=1)
    assert torch.equal(nothing.draw().known.amax(dim=(1, 2)), torch.ones(16))


def test_weights_decide_how_often_a_stack_is_drawn() -> None:
    bright = replace(labelled("b"), weight=3.0)
    target = np.full_like(bright.target, UNKNOWN)
    maker = BatchMaker(
        [replace(labelled("a"), target=target), bright],
        **{"seed": 0, "size": 200, "crop_px": 64, "empty_share": 0, "defocused_share": 0},
    )
    share = (maker.draw().known.amax(dim=(1, 2)) > 0).float().mean()
    assert 0.65 < share < 0.85


# --- inputs ---------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "image.tif", noise())
    return tmp_path / "image.tif"


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    masks = np.zeros(SHAPE, np.uint8)
    masks[:, 32:64] = 255
    tifffile.imwrite(tmp_path / "drawn.tif", masks)
    return tmp_path / "drawn.tif"


def ome_zarr(path: Path, corrected: np.ndarray | None) -> Path:
    layout = ImageLayout(
        name="specimen",
        shape=(1, 1, *SHAPE),
        dtype="uint16",
        channels=("default",),
        pixel_size_um=Calibration(0.5, "file"),
        z_step_um=Calibration(6.0, "file"),
        labels=("weak_label",),
    )
    with VolumeFile(path, [layout]) as file:
        for z, z_slice in enumerate(noise()):
            file.write_slice(0, z, z_slice)
    if corrected is not None:
        add_label(path / "labels" / "corrected", corrected)
    return path


def test_pairs_and_paths_are_opened_once_with_their_masks(image: Path, drawn: Path) -> None:
    with contextlib.ExitStack() as files:
        [one] = gather([image, str(image)], [(image, drawn)], files)
        assert one.masks is not None and one.masks.said(0)
        assert one.source == Source(str(image.resolve()), "image", str(drawn.resolve()))
        [plain] = gather([image, image], [], files)
        assert plain.masks is None


def test_corrected_labels_of_an_ome_zarr_are_used_by_themselves(tmp_path: Path) -> None:
    masks = np.zeros(SHAPE, np.uint8)
    masks[2, :, :64], masks[2, :, 64:] = 1, 2
    with contextlib.ExitStack() as files:
        corrected, plain = gather(
            [ome_zarr(tmp_path / "a.ome.zarr", masks), ome_zarr(tmp_path / "b.ome.zarr", None)],
            [],
            files,
        )
        assert plain.masks is None and corrected.masks is not None
        stack = with_labels(corrected.stack, preset="axial", reduction=4, masks=corrected.masks)
    assert stack.hand_made is not None
    np.testing.assert_array_equal(stack.hand_made, [False, False, True, False, False])
    np.testing.assert_array_equal(stack.target[2], np.repeat([[1] * 16 + [255] * 16], 24, 0))


def test_stacks_too_large_for_memory_are_thinned_at_random_hand_made_slices_first() -> None:
    masks = np.zeros((20, 64, 64), np.uint8)
    masks[[3, 17]] = 1
    plain = Given(Slices(noise((20, 64, 64)), "plain"))
    drawn = Given(Slices(noise((20, 64, 64)), "drawn"), Masks(masks))
    slice_bytes = 64 * 64 * 2
    chosen = choose_slices([plain, drawn], 10 * slice_bytes, np.random.default_rng(0))
    again = choose_slices([plain, drawn], 10 * slice_bytes, np.random.default_rng(0))
    other = choose_slices([plain, drawn], 10 * slice_bytes, np.random.default_rng(1))
    assert chosen == again != other
    assert chosen[0] is not None and chosen[1] is not None
    assert len(chosen[0]) == len(chosen[1]) == 5
    assert {3, 17} <= set(chosen[1])
    assert choose_slices([plain, drawn], 40 * slice_bytes, np.random.default_rng(0)) == [None, None]
    # A stack gets four slices or as many as still fit, and those with masks come first.
    few = choose_slices([plain, plain, drawn], 6 * slice_bytes, np.random.default_rng(0))
    assert [len(z or ()) for z in few][2] == 4
    assert sorted(len(z or ()) for z in few) == [0, 2, 4]


def test_fingerprint_changes_with_files_masks_and_settings(image: Path, drawn: Path) -> None:
    def now(**settings: object) -> str:
        return fingerprint([image], [(image, drawn)], settings)

    before = now(seed=1)
    assert now(seed=1) == before != now(seed=2)
    assert fingerprint([image], [], {"seed": 1}) != before
    os.utime(drawn, ns=(0, 0))
    touched = now(seed=1)
    assert touched != before
    image.write_bytes(image.read_bytes() + b" ")
    assert now(seed=1) not in (before, touched)
    in_memory = [fingerprint([Slices(noise(seed=k))], [], {}) for k in (0, 0, 1)]
    assert in_memory[0] == in_memory[1] != in_memory[2]


# --- stacks held out before -----------------------------------------------------------------


def test_old_held_out_stacks_are_judged_where_they_are_still_there(
    image: Path, drawn: Path
) -> None:
    def label(given: Given) -> LabelledStack:
        return with_labels(given.stack, preset="axial", reduction=4, masks=given.masks)

    whole = Source(str(image.resolve()), "image", str(drawn.resolve()))
    part = replace(whole, columns=(64, 128))
    gone = replace(whole, path=str(image.with_name("gone.tif")))
    broken = image.with_name("broken.tif")
    broken.write_text("no image", encoding="utf-8")
    bad = Source(str(broken), "broken")
    stacks = [replace(labelled("a"), source=source) for source in (gone, bad, part, whole)]
    card = {"held_out": [*held_out_sources(stacks), "nonsense", {"path": 3}]}
    said: list[str] = []
    found = old_stacks(card, [], label, said.append)
    assert [stack.slices.shape for stack in found] == [(5, 96, 64), SHAPE]
    assert all(stack.any_hand_made for stack in found)
    assert len(said) == 1 and "broken.tif" in said[0]
    # What is learnt from now is no old stack; nor is anything of a model that names none.
    with contextlib.ExitStack() as files:
        new = gather([image], [], files)
        assert old_stacks(card, new, label, said.append) == []
        assert reopen(replace(whole, stack="other"), files) is None
    assert old_stacks({}, [], label, said.append) == []
    many = {"held_out": held_out_sources([replace(labelled("a"), source=whole)] * 5)}
    assert len(old_stacks(many, [], label, said.append)) == 3
