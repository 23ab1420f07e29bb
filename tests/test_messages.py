"""Messages are read in one look, however many names they are about."""

from __future__ import annotations

import pytest
from torch import nn

from rhoselect.client import SelectionClient
from rhoselect.errors import ConfigError, listed, shortened
from rhoselect.importing import one_line


def test_a_list_has_ten_names_and_says_how_many_more() -> None:
    assert listed(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed(range(600)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 (and 590 more)"
    assert listed(["a, b", "c"], 1, "; ") == "a, b (and 1 more)"
    assert listed([]) == "none"
    assert len(listed(["x" * 5000])) < 200


def test_texts_of_others_are_cut_and_on_one_line() -> None:
    assert shortened(" a\n\tb ") == "a b"
    assert shortened("x" * 500) == "x" * 500
    assert shortened("x" * 501) == "x" * 499 + "…"
    assert len(one_line(ValueError("no\n" * 5000))) == 500


def test_options_that_a_client_does_not_know() -> None:
    options = {f"option_{number}": 1 for number in range(600)}
    with pytest.raises(ConfigError, match=r"got option_0, .* \(and 590 more\), allowed") as caught:
        SelectionClient(nn.Linear(1, 1), **options)
    assert len(str(caught.value)) < 1500
