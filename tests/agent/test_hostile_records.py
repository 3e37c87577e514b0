"""Whatever bytes a box, a store or a file holds: reading them gives finite values, or a ``ProtocolError``."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vl_agent import protocol
from vl_agent.protocol import Beat, Head, ProtocolError, decode, parse_event

HUGE = "1" + "0" * 400
BEAT = '{"counter": 1, "launch": 1, "epoch": 1, "phase": "training", "loss": %s}'


@pytest.mark.parametrize("number", [HUGE, "-" + HUGE, "1e999", "-1e999", "NaN", "Infinity"])
def test_a_number_that_is_none_is_refused_wherever_it_stands(number: str) -> None:
    with pytest.raises(ProtocolError):
        decode(Beat, BEAT % number)
    with pytest.raises(ProtocolError):
        parse_event(f'{{"t": {number}, "kind": "step", "epoch": 1}}'.encode())
    with pytest.raises(ProtocolError):
        parse_event(f'{{"t": 1, "kind": "step", "epoch": 1, "step": 1, "loss": {number}}}'.encode())


@pytest.mark.parametrize("raw", [b"\xff", b"[" * 100_000, b"", b"null", b"1", b'"x"', ("1" * 5000).encode(), b"{}"])
def test_bytes_that_are_no_record_are_refused(raw: bytes) -> None:
    for cls in (Beat, Head, protocol.Manifest, protocol.Hello):
        with pytest.raises(ProtocolError):
            decode(cls, raw)
    with pytest.raises(ProtocolError):
        parse_event(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
RECORDS = (Beat, Head, protocol.LaunchRecord, protocol.RunSpec, protocol.Intent, protocol.Lease, protocol.Hello)


@given(st.sampled_from(RECORDS), st.data())
def test_fields_of_any_kind_give_a_record_of_its_own_types_or_a_refusal(cls: Any, data: st.DataObject) -> None:
    body = {part.name: data.draw(JSON) for part in dataclasses.fields(cls)}
    try:
        found = decode(cls, body)
    except ProtocolError:
        return
    assert all(math.isfinite(value) for value in vars(found).values() if isinstance(value, float))
