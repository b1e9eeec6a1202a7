"""The objects that one application is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from anyio.to_thread import run_sync
from starlette.requests import HTTPConnection

from config_rollback.auth.issuers import AccessTokens
from config_rollback.auth.rate_limits import RateLimits
from config_rollback.auth.sessions import Sessions, cookie_name
from config_rollback.auth.shut_out import ShutOut
from config_rollback.auth.tokens import TokenVerifier
from config_rollback.clock import Clock, Monotonic
from config_rollback.delivery.convergence import Clients
from config_rollback.delivery.delivery import Delivery
from config_rollback.errors import SettingsError
from config_rollback.evidence.kpis import Kpis
from config_rollback.metrics import Metrics
from config_rollback.personas import persona_config
from config_rollback.personas.config_schema import ConfigSchema
from config_rollback.rollback.attempts import Attempts
from config_rollback.rollback.changes import Changes
from config_rollback.rollback.refusals import Refusals
from config_rollback.settings import Settings
from config_rollback.storage import database
from config_rollback.storage.store import Store, Transaction
from config_rollback.upkeep import Upkeep
from config_rollback.web.single_flight import SingleFlight

if TYPE_CHECKING:
    from config_rollback.auth.oidc import OidcLogins

Result = TypeVar("Result")


@dataclass(frozen=True)
class Dependencies:
    """Everything a request may need."""

    settings: Settings
    clock: Clock
    store: Store
    refusals: Refusals
    upkeep: Upkeep
    changes: Changes
    shut_out: ShutOut
    access_tokens: AccessTokens
    sessions: Sessions
    oidc: OidcLogins | None
    delivery: Delivery
    clients: Clients
    metrics: Metrics
    kpis: Kpis
    rate_limits: RateLimits
    cookie_name: str
    exposition: SingleFlight[bytes]
    readiness: SingleFlight[None]


def build(settings: Settings, clock: Clock, monotonic: Monotonic) -> Dependencies:
    """Wires the objects; opens no connection yet.

    Raises `SettingsError` for a file that is no schema, and for a folder that cannot be made.
    """
    try:
        store = Store(database.connect(settings.database_url.get_secret_value()))
    except OSError as error:
        raise SettingsError(
            "CONFIG_ROLLBACK_STATE_DIR or CONFIG_ROLLBACK_DATABASE_URL: cannot make the folder "
            f"{error.filename}: {error.strerror}"
        ) from None
    secret = settings.jwt_secret.get_secret_value()
    verifier = TokenVerifier(secret, clock)
    # The rest of the connections is for people: a fleet of any size leaves room for a rollback.
    delivery = Delivery(store, max_waiting=settings.max_connections * 3 // 4)
    clients = Clients(store, clock)
    rate_limits = RateLimits(settings)
    metrics = Metrics(store, delivery, clients, rate_limits, clock, settings.external_url)
    attempts = Attempts(store, clock, metrics)
    refusals = Refusals(attempts)
    schema = settings.config_schema_file
    validate_config = ConfigSchema(schema).validate if schema else persona_config.validate_config
    return Dependencies(
        settings=settings,
        clock=clock,
        store=store,
        refusals=refusals,
        upkeep=Upkeep(store, refusals, settings, clock, monotonic, metrics),
        changes=Changes(attempts, validate_config),
        shut_out=ShutOut(store, attempts),
        access_tokens=AccessTokens(verifier, settings, clock),
        sessions=Sessions(store, verifier, secret, clock),
        oidc=_oidc(settings, clock),
        delivery=delivery,
        clients=clients,
        metrics=metrics,
        kpis=Kpis(settings.prometheus_url, clock),
        rate_limits=rate_limits,
        cookie_name=cookie_name(settings.external_url),
        exposition=SingleFlight(metrics.render),
        readiness=SingleFlight(store.check_writable),
    )


def _oidc(settings: Settings, clock: Clock) -> OidcLogins | None:
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    from config_rollback.auth.oidc import OidcLogins  # with Authlib, which takes a tenth of a start

    return OidcLogins(settings.oidc_issuer, settings.oidc_client_id, settings, clock)


def dependencies(connection: HTTPConnection) -> Dependencies:
    """The objects of the application that this request came to."""
    found: Dependencies = connection.app.state.dependencies
    return found


async def read(connection: HTTPConnection, query: Callable[[Transaction], Result]) -> Result:
    """What the query finds in one consistent view of the database. Raises an `UnavailableError`."""

    def run() -> Result:
        with dependencies(connection).store.read() as transaction:
            return query(transaction)

    return await run_sync(run)
