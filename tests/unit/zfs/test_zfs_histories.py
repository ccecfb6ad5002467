"""Random lives of a storage host: whatever happens to its disks, nothing is added or made beside what is missing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.zfs.rack import CHANGES, Change, Rack

History = list[tuple[Change, int]]
shapes = st.sampled_from([("mirror", 2), ("raidz1", 3)])
changes = st.tuples(st.sampled_from(CHANGES), st.integers(0, 999))


@given(shapes, st.lists(changes, max_size=12))
@settings(max_examples=300)
def test_nothing_is_added_or_made_while_a_vdev_is_missing(shape: tuple[str, int], history: History) -> None:
    rack = Rack(*shape)
    rack.run()
    assert rack.made == 1
    for change, number in history:
        change(rack, number)
        rack.run()


@given(shapes, st.lists(changes, max_size=8))
@settings(max_examples=100)
def test_a_pool_that_is_whole_can_always_grow(shape: tuple[str, int], history: History) -> None:
    rack = Rack(*shape)
    rack.run()
    for change, number in history:
        change(rack, number)
        rack.run()
    rack.plug_back(0)
    rack.rename(0)
    rack.declare_pool(0)
    rack.run()
    before = len(rack.pool)
    rack.plug_many(0)
    rack.declare_more(0)
    rack.run()
    assert len(rack.pool) == before + 1
