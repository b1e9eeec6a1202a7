"""Access tokens of another issuer, by its key set: security cases 15 to 24 with RS256 and ES256."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.config_rollback.auth.test_tokens import signed
from tests.config_rollback.databases import Sqlite
from tests.config_rollback.delivery.test_delivery import wait_until
from tests.config_rollback.running import SECRET, Clock, Service
from tests.config_rollback.web.test_api_ops import error
from tests.support.documents import Documents

ISSUER = "https://issuer.example/"
AUDIENCE = "driftback-api"
NOW = int(Clock()().timestamp())
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "ann@example.org",
    "role": "ops",
    "iat": NOW,
    "exp": NOW + 3600,
}
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
SHORT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def database(sqlite: Sqlite) -> Sqlite:
    """One kind is enough: nothing here depends on it."""
    return sqlite


def public(key: Any, kid: str, **more: str) -> dict[str, Any]:
    kind = (
        jwt.algorithms.ECAlgorithm
        if isinstance(key, ec.EllipticCurvePrivateKey)
        else jwt.algorithms.RSAAlgorithm
    )
    described: dict[str, Any] = json.loads(kind.to_jwk(key.public_key()))
    return described | {"kid": kid} | more


JWKS = json.dumps(
    {
        "keys": [
            public(RSA_KEY, "r1", alg="RS256", use="sig"),
            public(EC_KEY, "e1"),
            public(ec.generate_private_key(ec.SECP256R1()), "e2"),
            public(RSA_KEY, "encryption", use="enc"),
            public(SHORT_KEY, "short"),
            {"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 32).decode(), "kid": "o1", "alg": "HS256"},
            {"kty": "RSA", "kid": "broken"},
            "not a key",
        ]
    }
).encode()


def token(
    changes: dict[str, Any] | None = None,
    key: Any = RSA_KEY,
    alg: str = "RS256",
    kid: str | None = "r1",
    **header: Any,
) -> str:
    claims = {name: value for name, value in (CLAIMS | (changes or {})).items() if value is not None}
    headers = header | ({} if kid is None else {"kid": kid})
    return jwt.encode(claims, key, algorithm=alg, headers=headers)


def raw(payload: str, key: rsa.RSAPrivateKey = RSA_KEY, kid: str = "r1") -> str:
    """An RS256 token with exactly this payload, whatever a library would think of it."""
    parts = [
        base64.urlsafe_b64encode(part.encode()).rstrip(b"=")
        for part in (json.dumps({"alg": "RS256", "kid": kid, "typ": "JWT"}), payload)
    ]
    signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(
        b".".join(parts), RSA_KEY
    )
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
OWN: dict[str, Any] = {"iss": "driftback", "aud": "config_rollback", "scope": "api", "jti": "7"}

INVALID = {
    "15 alg none": f"{signed(CLAIMS, {'alg': 'none', 'typ': 'JWT', 'kid': 'r1'}).rpartition('.')[0]}.",
    "16 HS256 with the public key": signed(CLAIMS, {"alg": "HS256", "typ": "JWT", "kid": "r1"}, PEM),
    "16 HS256 with the public key, as this service's own": signed(CLAIMS | OWN, key=PEM),
    "HS256 with a symmetric key of the set": signed(
        CLAIMS, {"alg": "HS256", "typ": "JWT", "kid": "o1"}, "k" * 32
    ),
    "HS256 with the service's secret but the other's issuer": signed(CLAIMS, key=SECRET),
    "17 no exp": token({"exp": None}),
    "18 exp in the year 9999": token({"exp": 253_370_764_800}),
    "19 wrong iss": token({"iss": "https://issuer.example"}),
    "this service's iss": token(OWN),
    "20 wrong aud": token({"aud": "another"}),
    "20 list of other aud": token({"aud": ["another", "web-client"]}),
    "20 aud in a list of lists": token({"aud": [[AUDIENCE]]}),
    "iat in the future by a fraction": token({"iat": NOW + 60.5}),
    "exp that is a text": token({"exp": str(NOW + 60)}),
    "exp that is true": token({"exp": True}),
    "times that are no number": raw(json.dumps(CLAIMS | {"exp": float("nan")})),
    "times beyond all numbers": raw(json.dumps(CLAIMS | {"iat": NOW + 0.5, "exp": 10**400})),
    "21 ID token": token({"aud": "web-client", "nonce": "n"}),
    "21 ID token for this audience": token({"nonce": "n"}),
    "21 ID token of a hybrid flow": token({"at_hash": "h"}),
    "22 duplicate role claim": raw(json.dumps(CLAIMS).replace('"role": "ops"', '"role":"user","role":"ops"')),
    "23 kid with a path": token(kid="../../r1"),
    "23 kid with a URL": token(kid="https://evil.example/r1"),
    "x5c": token(x5c=["MIIB"]),
    "23 kid with a line break": token(kid="r1\nr1"),
    "23 jku": token(jku="https://evil.example/keys"),
    "23 x5u": token(x5u="https://evil.example/cert"),
    "23 jwk": token(jwk=public(STRANGER, "r1"), key=STRANGER),
    "crit": token(crit=["exp"]),
    "no kid, and two keys of the algorithm": token(kid=None, key=EC_KEY, alg="ES256"),
    "unknown kid": token(kid="r2"),
    "kid of a key for encryption": token(kid="encryption"),
    "kid of a short key": raw(json.dumps(CLAIMS), SHORT_KEY, "short"),
    "another algorithm than the key's": token(alg="RS512"),
    "the RSA key's id with an EC signature": token(key=EC_KEY, alg="ES256"),
    "signed by a stranger": token(key=STRANGER),
    "no sub": token({"sub": None}),
    "sub with a line break": token({"sub": "ann\nroot"}),
    "typ of a logout token": token(typ="logout+jwt"),
    "not before an hour from now": token({"nbf": NOW + 3600}),
    "issued in an hour": token({"iat": NOW + 3600, "exp": NOW + 7200}),
}


@pytest.fixture
def issuer() -> Iterator[Documents]:
    with Documents(keys=JWKS) as documents:
        yield documents


@pytest.fixture
def trusting(start: Callable[..., Service], issuer: Documents) -> Service:
    """A service that takes tokens of the issuer."""
    return start(jwks_url=f"{issuer.url}/keys", jwt_issuer=ISSUER, jwt_audience=AUDIENCE)


def call(service: Service, given: str) -> tuple[int, str]:
    answer = service.request("GET", "/v1/ops/personas", token=given)
    return error(answer) if answer.status_code != 200 else (200, "")


@pytest.mark.parametrize(
    "good",
    [
        token(),
        token(typ="at+jwt"),
        token(key=EC_KEY, alg="ES256", kid="e1"),
        token(kid=None),
        token({"aud": ["account", AUDIENCE]}),
        token({"iat": NOW - 0.25, "exp": NOW + 3599.75, "nbf": NOW - 0.5}),
        token(cty="JWT", pi_atm="x"),
        token({"sub": "s" * 255, "groups": ["0123456789abcdef0123456789abcdef"] * 300}),
    ],
    ids=["RS", "at", "ES", "no kid", "aud in a list", "fractions", "unknown header fields", "long"],
)
def test_a_good_token_opens_the_api(trusting: Service, good: str) -> None:
    assert call(trusting, good) == (200, "")


def test_the_services_own_tokens_work_too(trusting: Service, issuer: Documents) -> None:
    assert call(trusting, trusting.token()) == (200, "")
    assert issuer.fetched == []


def test_the_same_name_of_two_issuers_is_two_people(trusting: Service) -> None:
    trusting.publish()
    trusting.publish(temperature=1)
    assert trusting.roll_back(key="k", expected_version=2, token=token()).status_code == 200
    again = trusting.roll_back(key="k", expected_version=2, token=trusting.token(subject="ann@example.org"))
    assert error(again) == (409, "config_changed_since_alert"), "it got the other one's answer"
    people = [(row["actor"], row["issuer"]) for row in trusting.audit()[2:]]
    assert people == [("ann@example.org", ISSUER), ("ann@example.org", "driftback")]


def test_15_to_23_an_invalid_token_is_refused(trusting: Service, issuer: Documents) -> None:
    assert call(trusting, token()) == (200, "")
    for name, given in INVALID.items():
        assert call(trusting, given) == (401, "token_invalid"), name
    assert issuer.fetched == ["/keys"], "23 a header made the service fetch something"
    assert trusting.audit() == []


def test_an_expired_token_says_so(trusting: Service) -> None:
    trusting.clock.move(hours=1)
    assert call(trusting, token()) == (401, "token_expired")


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("support", 403),
        ("OPS", 403),
        ("ops ", 403),
        ("ops,user", 403),
        (None, 403),
        (7, 403),
        (["user", "ops,user"], 403),
        ([], 403),
        (["user", "ops"], 200),
    ],
)
def test_25_only_ops_may_act(trusting: Service, role: Any, expected: int) -> None:
    assert call(trusting, token({"role": role}))[0] == expected
    assert len(trusting.audit()) == (1 if expected == 403 else 0)


@pytest.mark.parametrize(
    ("path", "ops", "claims", "expected"),
    [
        ("https://x.example/groups", ("ops",), {"https://x.example/groups": ["ops"]}, 200),
        ("https://x.example/groups", ("ops",), {"role": "ops"}, 403),
        ("realm_access.roles", ("ops",), {"realm_access": {"roles": ["user", "ops"]}}, 200),
        ("realm_access.roles", ("ops",), {"realm_access": {"roles": ["user"]}}, 403),
        ("realm_access.roles", ("ops",), {"realm_access": ["ops"]}, 403),
        (
            "resource_access.my.client.roles",
            ("ops",),
            {"resource_access": {"my.client": {"roles": ["ops"]}}},
            200,
        ),
        ("groups", ("sre-oncall", "/ops"), {"groups": ["staff", "sre-oncall"]}, 200),
        ("groups", ("sre-oncall", "/ops"), {"groups": ["/ops"]}, 200),
        ("groups", ("sre-oncall", "/ops"), {"groups": "sre-oncall"}, 200),
        ("groups", ("sre-oncall", "/ops"), {"groups": ["ops", "/ops/sub", "SRE-ONCALL"]}, 403),
        ("groups", ("sre-oncall",), {"groups": [7, {"a": "sre-oncall"}, None]}, 403),
    ],
)
def test_25_the_role_is_found_by_a_path_and_names(
    start: Callable[..., Service],
    tmp_path: Path,
    path: str,
    ops: tuple[str, ...],
    claims: dict[str, Any],
    expected: int,
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(JWKS)
    service = start(
        jwks_file=file, jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_role_claim=path, jwt_ops_roles=ops
    )
    assert call(service, token({"role": None} | claims))[0] == expected
    assert [row["role"] == "ops" for row in service.audit()] == ([] if expected == 200 else [False])


def test_18_how_long_a_token_may_live_is_a_setting(start: Callable[..., Service], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(JWKS)
    trusting = {"jwks_file": file, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    week, longer = (token({"exp": NOW + 7 * 86400 + more}) for more in (0, 1))
    assert call(start(**trusting), week) == (401, "token_invalid")
    service = start(**trusting, jwt_max_lifetime_seconds=7 * 86400)
    assert call(service, week) == (200, "")
    assert call(service, longer) == (401, "token_invalid")
    with pytest.raises(ValueError, match="a token lives"):
        service.token(lifetime_seconds=7 * 86400)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (token({"aud": ["account"]}), f"aud is \"['account']\" and does not hold '{AUDIENCE}'"),
        (token({"iss": "https://x.example"}), f"iss is 'https://x.example', not '{ISSUER}'"),
        (token({"exp": NOW + 90_000}), "it lives for 90000 s; more than 0 and up to 86400 are taken"),
        (token({"sub": None}), 'Token is missing the "sub" claim'),
        (token(kid="r2"), "no key of the set has its kid and alg ('r2', 'RS256')"),
        (token(key=STRANGER), "Signature verification failed"),
        (token({"nonce": "n"}), "it is an ID token, which opens no API: an access token is needed"),
        (signed(CLAIMS), 'as a token of this service: Token is missing the "jti" claim'),
        ("eyJub.dG9rZW4", "it is no signed JWT, which has three parts"),
    ],
)
def test_the_log_says_why_and_holds_no_token(
    trusting: Service, caplog: pytest.LogCaptureFixture, given: str, reason: str
) -> None:
    caplog.set_level("INFO")
    answer = trusting.request("GET", "/v1/ops/personas", token=given)
    assert error(answer) == (401, "token_invalid")
    assert answer.json()["error"]["message"] == "the token is not valid", "a forger learns nothing"
    wait_until(lambda: '"event": "request"' in caplog.text)  # after the answer
    (line,) = [json.loads(r.message) for r in caplog.records if '"event": "request"' in r.message]
    assert (line["error"], line["reason"]) == ("token_invalid", reason)
    assert not any(part in caplog.text for part in given.split("."))


def test_24_cached_keys_serve_on_while_their_source_is_down(trusting: Service, issuer: Documents) -> None:
    assert call(trusting, token()) == (200, "")
    issuer.down = True
    trusting.clock.move(minutes=30)
    assert call(trusting, token()) == (200, "")
    assert issuer.fetched == ["/keys"] * 2
    assert call(trusting, token(kid="new")) == (401, "token_invalid")
    assert call(trusting, token(key=EC_KEY, alg="ES256", kid="e1")) == (200, "")


def test_24_a_hundred_unknown_kids_are_at_most_one_fetch(trusting: Service, issuer: Documents) -> None:
    assert call(trusting, token()) == (200, "")
    trusting.clock.move(minutes=2)
    with ThreadPoolExecutor(100) as pool:
        refused = list(pool.map(lambda n: call(trusting, token(kid=f"k{n}")), range(100)))
    assert refused == [(401, "token_invalid")] * 100
    assert issuer.fetched == ["/keys"] * 2


def test_a_new_key_is_found(trusting: Service, issuer: Documents) -> None:
    assert call(trusting, token()) == (200, "")
    issuer.documents["/keys"] = json.dumps({"keys": [public(STRANGER, "r2")]}).encode()
    trusting.clock.move(minutes=1)
    assert call(trusting, token(key=STRANGER, kid="r2")) == (200, "")
    assert call(trusting, token()) == (401, "token_invalid"), "a key that was taken out still verifies"


@pytest.mark.parametrize("document", [b"{", b"[]", b'{"keys": 1}', b" " * 2_000_000])
def test_a_source_that_never_had_keys_is_unavailable(
    trusting: Service, issuer: Documents, document: bytes
) -> None:
    issuer.documents["/keys"] = document
    assert call(trusting, token()) == (503, "login_unavailable")
    assert call(trusting, trusting.token()) == (200, "")
