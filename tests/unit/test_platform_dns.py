"""Names as DNS has them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from module_utils.platform_dns import is_host_name


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]{1,10}){0,3}", fullmatch=True))
def test_legal_host_names(name: str) -> None:
    assert is_host_name(name)
