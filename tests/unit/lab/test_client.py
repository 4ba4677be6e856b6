# Copyright (c) 2026 Stowage contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a simulated command says to the daemon and hears from it is JSON, without the module of that name."""

from __future__ import annotations

import json
from typing import Any

from esxilab import client
from hypothesis import given
from hypothesis import strategies as st

# Arguments of a command may hold any byte; what is no UTF-8 comes as half of a surrogate pair.
texts = st.text(st.characters(exclude_categories=())) | st.binary().map(
    lambda data: data.decode("utf-8", "surrogateescape")
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=12,
)


@given(st.dictionaries(texts, values, max_size=6))
def test_what_is_said_and_heard_is_what_json_makes_of_it(value: dict[str, Any]) -> None:
    said = client.text_of(value)
    assert json.loads(said) == json.loads(json.dumps(value))
    assert client.read(json.dumps(value), 0)[0] == json.loads(json.dumps(value))
