"""Where slices lie, against plain dicts; and how little memory that takes."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfocus_live.frames import Placement
from deepfocus_live.volume._places import SlicePlaces

NUMBERS = st.one_of(st.integers(0, 40), st.integers(1000, 1050), st.integers(0, 2**62))
PLACES = st.builds(
    Placement,
    st.integers(0, 3),
    st.one_of(st.integers(0, 3), st.integers(60, 70), st.integers(0, 2**62)),
    st.integers(0, 2),
    st.one_of(st.integers(0, 5), st.integers(60, 70)),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["claim", "remember"]), NUMBERS, PLACES, st.integers(0, 2**32 - 1)),
    max_size=40,
)


@given(STEPS, PLACES)
@settings(max_examples=200, deadline=None)
def test_places_are_those_of_plain_dicts(
    steps: list[tuple[str, int, Placement, int]], other: Placement
) -> None:
    places = SlicePlaces()
    claimed: dict[int, Placement] = {}
    durable: dict[int, tuple[Placement, str]] = {}
    taken = set()
    for step, number, place, crc in steps:
        if step == "remember":
            places.remember(number, place, f"{crc:08x}")
            durable[number] = place, f"{crc:08x}"
        elif number not in durable:
            places.claim(number, place)
        else:
            continue
        claimed[number] = place
        taken.add(place)

    assert dict(places) == {number: place for number, (place, _) in durable.items()}
    assert list(places) == sorted(durable)
    assert len(places) == len(durable)
    for number in [*claimed, 7, 2**40]:
        assert places.claimed(number) == claimed.get(number)
        assert places.crc32(number) == durable.get(number, (None, None))[1]
    for place in [*taken, other, *(place._replace(t=place.t + 1) for place in taken)]:
        assert places.is_taken(place) == (place in taken)


def test_slice_that_is_not_durable_is_not_there() -> None:
    places = SlicePlaces()
    places.claim(3, Placement(0, 0, 0, 3))
    with pytest.raises(KeyError):
        places[3]
    assert 3 not in places


@pytest.mark.parametrize("size_z", [1, 25, 300])
def test_memory_is_a_few_bytes_a_slice(size_z: int) -> None:
    count = 30_000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    places = SlicePlaces()
    for number in range(count):
        t, z = divmod(number, size_z)
        places.remember(number, Placement(0, t, 0, z), "0badcafe")
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(places) == count
    assert after - before < 60 * count
