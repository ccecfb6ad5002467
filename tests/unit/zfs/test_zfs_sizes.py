"""Sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from module_utils.zfs_pool.sizes import SizeError, format_binary, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10TB", 10 * 10**12),
        ("3.84TB", 3_840_000_000_000),
        ("3.84 tb", 3_840_000_000_000),
        ("10TiB", 10 * 2**40),
        ("10T", 10 * 2**40),
        ("512G", 512 * 2**30),
        ("1.5GiB", 1_610_612_736),
        ("800kB", 800_000),
        ("131072", 131072),
        ("131072B", 131072),
        (131072, 131072),
    ],
)
def test_sizes_are_read(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "TB", "ten TB", "10XB", "-1TB", "0", "0TB", 0, -1, "1e3G", "10iB", True, 1.5, None, [], "10TB x", "१TB"],
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(SizeError, match=r"10TB|larger"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "decimal", "binary"),
    [
        (10 * 10**12, "10 TB", "9.09 TiB"),
        (3_840_000_000_000, "3.84 TB", "3.49 TiB"),
        (512, "512 B", "512 B"),
        (2**30, "1.07 GB", "1 GiB"),
        (500 * 10**9, "500 GB", "466 GiB"),
        (0, "0 B", "0 B"),
    ],
)
def test_sizes_are_shown(size: int, decimal: str, binary: str) -> None:
    assert format_size(size) == decimal
    assert format_binary(size) == binary


@given(st.integers(min_value=1, max_value=2**62))
def test_what_is_shown_can_be_read_again(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.01)
    assert parse_size(format_binary(size)) == pytest.approx(size, rel=0.01)
