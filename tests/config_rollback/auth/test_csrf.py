"""Which forms are the service's own."""

from __future__ import annotations

import pytest

from config_rollback.auth.csrf import check_form_token, check_origin, form_token
from config_rollback.errors import CsrfRejectedError

URL = "https://driftback.example"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": URL},
        {"origin": "http://127.0.0.1:9811", "host": "127.0.0.1:9811"},
        {"sec-fetch-site": "same-origin", "origin": "https://behind-a-proxy.example"},
    ],
    ids=str,
)
def test_own_forms_pass(headers: dict[str, str]) -> None:
    check_origin(headers, URL)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "driftback.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": URL},
        {"sec-fetch-site": ""},
        {"origin": "null"},
        {"origin": "", "host": "x"},
        {"origin": "http://[", "host": "driftback.example"},
        {"origin": "null", "host": "null"},
        {"origin": "https://evil.example", "host": "driftback.example"},
        {"origin": "https://driftback.example.evil.example"},
        {"origin": "https://driftback.example:8443", "host": "driftback.example"},
    ],
    ids=str,
)
def test_other_forms_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(CsrfRejectedError):
        check_origin(headers, URL)


def test_a_form_token_belongs_to_one_session() -> None:
    check_form_token("cookie", form_token("cookie"))
    for given in ("", form_token("another"), "\udcff", "ä"):
        with pytest.raises(CsrfRejectedError):
            check_form_token("cookie", given)
