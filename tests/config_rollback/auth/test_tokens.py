"""Access and login tokens: each rule broken once."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from config_rollback.auth.claims import MAX_LIFETIME_SECONDS
from config_rollback.auth.tokens import TokenVerifier, mint_access_token, mint_login_link
from config_rollback.errors import (
    AuthenticationError,
    TokenExpiredError,
    TokenInvalidError,
    TokenScopeMismatchError,
)
from tests.config_rollback.running import SECRET, Clock

NOW = int(Clock()().timestamp())
CLAIMS: dict[str, Any] = {
    "iss": "driftback",
    "aud": "config_rollback",
    "sub": "ann",
    "role": "ops",
    "scope": "api",
    "jti": "7",
    "iat": NOW,
    "exp": NOW + 3600,
}


def signed(claims: dict[str, Any] | bytes, header: dict[str, Any] | None = None, key: str = SECRET) -> str:
    """A token with exactly these bytes inside, whatever a library would think of them."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    head = json.dumps({"alg": "HS256", "typ": "JWT"} if header is None else header).encode()
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, payload)]
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        b".".join(parts), key.encode()
    )
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in CLAIMS.items() if name not in names}


def public_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
def verifier(clock: Clock) -> TokenVerifier:
    return TokenVerifier(SECRET, clock)


def test_a_good_token_says_who_calls(verifier: TokenVerifier) -> None:
    identity = verifier.verify(signed(CLAIMS), "api")
    assert (identity.subject, identity.role, identity.jti) == ("ann", "ops", "7")
    assert identity.issuer == "driftback"


@pytest.mark.parametrize("ahead", [-3600, 0, 60], ids=["past", "now", "a clock a minute ahead"])
def test_a_token_that_is_valid_already_is_good(verifier: TokenVerifier, ahead: int) -> None:
    assert verifier.verify(signed(CLAIMS | {"nbf": NOW + ahead}), "api").role == "ops"


def test_minted_tokens_are_good(verifier: TokenVerifier) -> None:
    token = mint_access_token(SECRET, subject="ann", role="support", now=NOW)
    assert verifier.verify(token, "api").role == "support"


DUPLICATE_ROLE = json.dumps(CLAIMS).replace('"role": "ops"', '"role": "support", "role": "ops"').encode()

INVALID = {
    "15 alg none": signed(CLAIMS, {"alg": "none", "typ": "JWT"}).rpartition(".")[0] + ".",
    "16 HS256 with a public key as the secret": signed(CLAIMS, key=public_key()),
    "HS512": jwt.encode(CLAIMS, SECRET * 2, algorithm="HS512"),
    "17 no exp": signed(without("exp")),
    "18 exp in the year 9999": signed(CLAIMS | {"exp": 253_370_764_800}),
    "exp beyond any date": signed(CLAIMS | {"exp": 10**30}),
    "exp as a fraction": signed(CLAIMS | {"exp": NOW + 60.5}),
    "exp as text": signed(CLAIMS | {"exp": str(NOW + 60)}),
    "exp as true": signed(CLAIMS | {"exp": True}),
    "a lifetime of a day and a second": signed(CLAIMS | {"exp": NOW + 86_401}),
    "19 wrong iss": signed(CLAIMS | {"iss": "somebody"}),
    "no iss": signed(without("iss")),
    "20 wrong aud": signed(CLAIMS | {"aud": "another"}),
    "20 list aud": signed(CLAIMS | {"aud": ["config_rollback"]}),
    "no aud": signed(without("aud")),
    "21 an ID token: audience the client, a nonce, no scope": signed(
        without("scope") | {"aud": "web-client", "nonce": "n", "email": "ann@example.org"}
    ),
    "21 an ID token for this audience": signed(without("scope") | {"nonce": "n"}),
    "22 duplicate role claim": signed(DUPLICATE_ROLE),
    "duplicate header field": signed(CLAIMS).replace(
        base64.urlsafe_b64encode(b'{"alg": "HS256", "typ": "JWT"}').rstrip(b"=").decode(),
        base64.urlsafe_b64encode(b'{"alg": "HS256", "alg": "none"}').rstrip(b"=").decode(),
    ),
    "no iat": signed(without("iat")),
    "issued an hour from now": signed(CLAIMS | {"iat": NOW + 3600, "exp": NOW + 7200}),
    "not before an hour from now": signed(CLAIMS | {"nbf": NOW + 3600}),
    "nbf as text": signed(CLAIMS | {"nbf": str(NOW)}),
    "nbf as true": signed(CLAIMS | {"nbf": True}),
    "no sub": signed(without("sub")),
    "sub is a number": signed(CLAIMS | {"sub": 7}),
    "sub with a line break": signed(CLAIMS | {"sub": "ann\nroot"}),
    "sub is empty": signed(CLAIMS | {"sub": ""}),
    "no jti": signed(without("jti")),
    "no role": signed(without("role")),
    "role is a list": signed(CLAIMS | {"role": ["ops"]}),
    "unknown scope": signed(CLAIMS | {"scope": "everything"}),
    "another secret": signed(CLAIMS, key="another secret of at least 32 bytes!"),
    "kid with a path": signed(CLAIMS, {"alg": "HS256", "typ": "JWT", "kid": "../../dev/null"}),
    "jku header": signed(CLAIMS, {"alg": "HS256", "typ": "JWT", "jku": "http://127.0.0.1:1/keys"}),
    "jwk header": signed(CLAIMS, {"alg": "HS256", "typ": "JWT", "jwk": {"kty": "oct", "k": "AA"}}),
    "payload is a list": signed(b"[]"),
    "payload is not JSON": signed(b"{"),
    "too long": signed(CLAIMS | {"x": "x" * 19_000}),
    "not a token": "abc",
    "two parts": "abc.def",
    "not base64": "!.!.!",
}


@pytest.mark.parametrize("token", INVALID.values(), ids=INVALID.keys())
def test_a_token_that_breaks_a_rule_is_invalid(verifier: TokenVerifier, token: str) -> None:
    with pytest.raises(TokenInvalidError):
        verifier.verify(token, "api")


def test_a_token_past_its_exp_is_expired(verifier: TokenVerifier, clock: Clock) -> None:
    clock.move(hours=1)
    with pytest.raises(TokenExpiredError):
        verifier.verify(signed(CLAIMS), "api")


def test_a_forged_expired_token_is_invalid_not_expired(verifier: TokenVerifier, clock: Clock) -> None:
    clock.move(hours=2)
    with pytest.raises(TokenInvalidError):
        verifier.verify(signed(CLAIMS, key="another secret of at least 32 bytes!"), "api")


@pytest.mark.parametrize(("made", "wanted"), [("api", "login"), ("login", "api")])
def test_a_token_made_for_something_else_is_refused(verifier: TokenVerifier, made: str, wanted: Any) -> None:
    with pytest.raises(TokenScopeMismatchError):
        verifier.verify(signed(CLAIMS | {"scope": made}), wanted)


def test_errors_do_not_echo_the_token(verifier: TokenVerifier) -> None:
    for token in INVALID.values():
        with pytest.raises(AuthenticationError) as caught:
            verifier.verify(token, "api")
        assert token not in str(caught.value)
        assert caught.value.details == {}


@pytest.mark.parametrize("seconds", [0, -1, MAX_LIFETIME_SECONDS + 1])
def test_no_token_is_minted_that_no_verifier_would_take(seconds: int) -> None:
    with pytest.raises(ValueError, match="lives"):
        mint_access_token(SECRET, subject="ann", role="ops", lifetime_seconds=seconds)


def test_a_login_link_carries_where_to_go(verifier: TokenVerifier) -> None:
    link = mint_login_link(
        SECRET, subject="ann", external_url="https://x.example", next_path="/rollback/a%2Fb?from=3", now=NOW
    )
    assert link.startswith("https://x.example/login?token=")
    assert link.endswith("&next=%2Frollback%2Fa%252Fb%3Ffrom%3D3")
    token = link.partition("token=")[2].partition("&")[0]
    assert verifier.verify(token, "login").subject == "ann"
