"""Where a login may lead."""

from __future__ import annotations

import pytest

from config_rollback.auth.redirects import check_next
from config_rollback.errors import InvalidRedirectError


@pytest.mark.parametrize("path", ["/", "/audit", "/rollback/a%2Fb?from=3&alert=X"])
def test_pages_of_the_service(path: str) -> None:
    assert check_next(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/x\r\nSet-Cookie: a=b",
        "https://evil.example",
        "javascript:alert(1)",
        "evil.example",
        "",
        "/ä",
        "/" + "x" * 2000,
    ],
)
def test_other_places(path: str) -> None:
    with pytest.raises(InvalidRedirectError):
        check_next(path)
