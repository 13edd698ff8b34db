"""How a slice is shown: zoom, threshold, contrast, what is marked, views side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Page, expect
from scipy import ndimage

from tests.system._page import (
    CLIPPED_Z,
    SHAPE,
    SIZE_Z,
    SPEC,
    Daemon,
    colourfulness,
    pixels,
    show,
    show_stack,
)
from tests.system._page import make_specimen as make_specimen
from tests.system._page import open_page as open_page
from tests.system._page import start_daemon as start_daemon

Z = 2


def show_one(page: Page, daemon: Daemon, z: int = Z) -> None:
    daemon.hub.run_started(SPEC)
    show(page, daemon, z)


def place_under_pointer(page: Page) -> NDArray[np.int64]:
    """Return x and y in pixels of the slice, as they are read out."""
    text = page.locator("#readout dd").first.text_content() or ""
    return np.array(text.removesuffix(" px").split(", "), np.int64)


def part_shown(page: Page) -> float:
    return float(page.locator("#view").get_attribute("data-part") or "nan")


def test_opacity_style_and_key_act_on_the_mask(page: Page, daemon: Daemon) -> None:
    show_one(page, daemon)
    tinted = colourfulness(pixels(page)).astype(float)
    page.locator("#opacity").fill("10")
    assert colourfulness(pixels(page)).sum() < 0.5 * tinted.sum()
    expect(page.locator("#opacity-output")).to_have_text("10 %")
    page.locator("#opacity").fill("40")
    page.keyboard.press("o")
    inside = ndimage.binary_erosion(daemon.specimen.masks[Z], iterations=8)[2::4, 2::4]
    contour = colourfulness(pixels(page)).astype(float)
    assert contour[inside].max() < 8 < tinted[inside].min()
    assert contour.max() > 60
    page.keyboard.press("m")
    assert colourfulness(pixels(page)).max() < 8
    expect(page.locator("#mask-note")).to_have_text("mask hidden")
    page.keyboard.press("m")
    expect(page.locator("#view")).to_have_attribute("data-mask-visible", "true")


def test_threshold_moves_the_mask_in_the_browser_and_back(page: Page, daemon: Daemon) -> None:
    show_one(page, daemon)
    own = part_shown(page)
    assert own == round(daemon.specimen.fractions[Z], 5)
    expect(page.locator("#threshold-output")).to_have_text("0.50")
    probability = daemon.specimen.probabilities[Z]
    for threshold in (0.2, 0.9):
        page.locator("#threshold").fill(str(threshold))
        expected = float((probability >= 255 * threshold).mean())
        page.wait_for_function(
            "part => Math.abs(document.querySelector('#view').dataset.part - part) < 1e-4",
            arg=expected,
        )
    assert part_shown(page) < own
    expect(page.locator("#fraction-note")).to_have_text("from 0.90 on")
    page.keyboard.press("\\")
    assert part_shown(page) == own
    expect(page.locator("#threshold-reset")).to_be_disabled()


def test_threshold_goes_along_to_the_next_slice(page: Page, daemon: Daemon) -> None:
    show_one(page, daemon)
    page.locator("#threshold").fill("0.2")
    show(page, daemon, Z + 1)
    expected = float((daemon.specimen.probabilities[Z + 1] >= 51).mean())
    page.wait_for_function(
        "part => Math.abs(document.querySelector('#view').dataset.part - part) < 1e-4",
        arg=expected,
    )


def test_contrast_by_hand_darkens_and_automatic_brings_back(page: Page, daemon: Daemon) -> None:
    show_one(page, daemon)
    page.keyboard.press("m")
    automatic = pixels(page)
    page.locator("#contrast-low").fill("128")
    expect(page.locator("#contrast-auto")).to_have_attribute("aria-pressed", "false")
    by_hand = pixels(page).astype(int)
    dull = automatic[..., 0] < 100
    assert by_hand[dull].max() < 16
    assert by_hand.max() > 240
    low = int((page.locator("#contrast-output").text_content() or "").split(" – ")[0])
    assert 1000 < low < 3000
    page.keyboard.press("a")
    assert (pixels(page) == automatic).all()


def test_clipped_and_undecided_pixels_are_marked_where_they_are(page: Page, daemon: Daemon) -> None:
    show_stack(page, daemon)
    expect(page.locator("#mask-note")).to_have_text("provisional: stack not labelled yet")
    daemon.label()
    expect(page.locator("#mask-note")).to_have_text("")
    page.locator("#z-slider").fill(str(CLIPPED_Z))
    expect(page.locator("#view")).to_have_attribute("data-z", str(CLIPPED_Z))
    page.keyboard.press("m")
    marked = pixels(page).astype(int)
    blue = marked[..., 2] - marked[..., 0] > 60
    where = daemon.specimen.undecided[CLIPPED_Z][2::4, 2::4] > 0
    assert blue[where].mean() > 0.2
    assert not blue[~ndimage.binary_dilation(where, iterations=2)].any()
    red = marked[..., 0] - marked[..., 2] > 100
    assert red[25:27, 50:52].all()
    assert red.sum() < 16
    page.keyboard.press("u")
    page.keyboard.press("k")
    assert colourfulness(pixels(page)).max() < 8


def test_wheel_zooms_where_the_pointer_is_and_the_scale_bar_follows(
    page: Page, daemon: Daemon
) -> None:
    show_one(page, daemon)
    view = page.locator("#view")
    box = view.bounding_box()
    assert box is not None
    at = (box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.move(*at)
    before = place_under_pointer(page)
    wide = page.locator("#scale-label").text_content()
    page.mouse.wheel(0, -1000)
    page.wait_for_function("() => document.querySelector('#view').dataset.zoom > 4")
    assert np.abs(place_under_pointer(page) - before).max() <= 1
    assert float((page.locator("#scale-label").text_content() or "").split()[0]) < 20
    assert wide == "20 µm"
    page.mouse.down()
    page.mouse.move(at[0] + 100, at[1] + 60)
    page.mouse.up()
    held = np.abs(place_under_pointer(page) - before).max()
    assert held <= 1, "what was taken hold of stays under the pointer"
    page.keyboard.press("0")
    expect(view).to_have_attribute("data-zoom", "1.000")
    page.keyboard.press("+")
    expect(view).to_have_attribute("data-zoom", "1.400")
    page.mouse.dblclick(*at)
    expect(view).to_have_attribute("data-zoom", "1.000")


def test_readout_gives_the_cameras_own_counts(page: Page, daemon: Daemon) -> None:
    show_one(page, daemon)
    x, y = page.evaluate(
        """([width, height]) => {
          const box = document.getElementById("view").getBoundingClientRect();
          const scale = Math.min(box.width / width, box.height / height);
          return [
            box.left + box.width / 2 + scale * (402.5 - width / 2),
            box.top + box.height / 2 + scale * (100.5 - height / 2),
          ];
        }""",
        [SHAPE[1], SHAPE[0]],
    )
    page.mouse.move(x, y)
    readout = page.locator("#readout")
    expect(readout).to_contain_text("402, 100 px")
    expect(readout).to_contain_text(f"{402 * 0.325:.1f}, {100 * 0.325:.1f} µm")
    counts = int(daemon.specimen.slices[Z][100, 402])
    expect(page.locator("#readout dd").nth(2)).to_have_text(str(counts))
    probability = daemon.specimen.probabilities[Z][50, 201] / 255
    expect(page.locator("#readout dd").nth(3)).to_have_text(f"{probability:.2f}")


def test_four_views_show_slice_stack_and_depth_and_zoom_together(
    page: Page, daemon: Daemon
) -> None:
    show_stack(page, daemon)
    page.keyboard.press("4")
    expect(page.locator(".pane:visible")).to_have_count(4)
    bar = page.locator(".pane[data-kind=depth] .bar")
    expect(bar).to_contain_text("1030")
    sharp = pixels(page, "view-2")[..., 0].astype(int)
    truth = np.min(daemon.specimen.slices, axis=0)[2::4, 2::4]
    assert np.corrcoef(sharp.ravel(), truth.ravel())[0, 1] > 0.8
    depth = pixels(page, "view-4")
    known = np.isfinite(daemon.specimen.depth)[2::4, 2::4]
    assert depth[ndimage.binary_erosion(known, iterations=2)].max(axis=1).min() > 40
    assert depth[~ndimage.binary_dilation(known, iterations=3)].max() < 8
    only = pixels(page, "view-3")
    mask = daemon.specimen.masks[SIZE_Z - 1][2::4, 2::4] > 0
    assert only[~ndimage.binary_dilation(mask, iterations=2)].max() < 8
    page.keyboard.press("+")
    assert np.abs(pixels(page, "view-2")[..., 0] - sharp).mean() > 1
    page.locator(".pane[data-kind=depth] select").select_option("raw")
    expect(bar).to_have_count(0)


def test_a_stack_that_is_not_made_yet_is_said(page: Page, daemon: Daemon) -> None:
    daemon.archive.whole = False
    page.keyboard.press("2")
    show_stack(page, daemon)
    note = page.locator(".pane[data-kind=sharp] .note")
    expect(note).to_have_text("being made: 25 %")
    daemon.archive.whole = True
    expect(note).to_have_text("")
    show(page, daemon, SIZE_Z)
    expect(note).to_have_text("stack before (t 1)")


def test_a_stack_that_was_refused_is_asked_for_again_once_labelled(
    page: Page, daemon: Daemon
) -> None:
    daemon.archive.refusal = "its slices are not read yet"
    page.keyboard.press("2")
    show_stack(page, daemon)
    note = page.locator(".pane[data-kind=sharp] .note")
    expect(note).to_have_text("its slices are not read yet")
    daemon.archive.refusal = None
    daemon.label()
    expect(note).to_have_text("", timeout=2500)
