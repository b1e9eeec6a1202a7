"""The Authorization header, and static tokens."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from config_rollback.auth.bearer import bearer_token, check_static
from config_rollback.errors import TokenInvalidError, UnauthenticatedError


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "Bearer  abc "])
def test_the_scheme_has_no_case(header: str) -> None:
    assert bearer_token(header) == "abc"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "abc"])
def test_without_a_token_nobody_is_known(header: str | None) -> None:
    with pytest.raises(UnauthenticatedError):
        bearer_token(header)


def test_every_token_of_the_list_is_good_and_no_other() -> None:
    accepted = [SecretStr("first"), SecretStr("second")]
    check_static("first", accepted)
    check_static("second", accepted)
    for token in ("", "fir", "firstsecond", "third", "\udcff"):
        with pytest.raises(TokenInvalidError):
            check_static(token, accepted)


def test_an_empty_list_accepts_nothing() -> None:
    with pytest.raises(TokenInvalidError):
        check_static("", [])
