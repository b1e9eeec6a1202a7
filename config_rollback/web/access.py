"""Who may call what. Without the role: refused and audited; without an identity: refused and counted."""

from __future__ import annotations

from collections.abc import Sequence

from anyio.to_thread import run_sync
from pydantic import SecretStr
from starlette.requests import Request

from config_rollback.audit.chain import SHUT_OUT
from config_rollback.auth.bearer import bearer_token, check_static
from config_rollback.auth.claims import OPS
from config_rollback.errors import ForbiddenError, ShutOutError
from config_rollback.rollback.attempts import Actor, Call
from config_rollback.web.dependencies import dependencies
from config_rollback.web.http import request_id


async def require_ops(request: Request, action: str, persona: str | None = None) -> Actor:
    """The caller of the API, by access token; raises an `AuthenticationError` or `ForbiddenError`."""
    token = bearer_token(request.headers.get("authorization"))
    identity = await dependencies(request).access_tokens.verify(token)
    return await require_role(
        request, Actor(identity.subject, identity.role, identity.issuer), action, persona
    )


async def require_role(request: Request, actor: Actor, action: str, persona: str | None = None) -> Actor:
    """The actor, if the role is `ops` and they are not blocked; otherwise audits and raises `ForbiddenError`.

    Raises also `RateLimitedError`, and what `ShutOut.holds` and `Refusals.write` raise.
    """
    deps = dependencies(request)
    await deps.rate_limits.check_user(actor)
    call = Call(actor, request_id(request))
    refusal: ForbiddenError | None = ForbiddenError("this requires the role ops")
    if actor.role == OPS:
        is_shut_out = await run_sync(deps.shut_out.holds, call, action, persona)
        refusal = ShutOutError() if is_shut_out else None
    # A blocked person takes nothing from those who have the role.
    await deps.rate_limits.check_role(SHUT_OUT if isinstance(refusal, ShutOutError) else actor.role)
    if refusal is None:
        return actor
    deps.metrics.forbidden.inc()
    first = deps.refusals.admit(call, action, persona, refusal.code)
    if first is not None:
        await run_sync(deps.refusals.write, first)
    raise refusal


def require_machine(request: Request, accepted: Sequence[SecretStr]) -> None:
    """The caller sends one of the accepted static tokens; raises an `AuthenticationError`."""
    check_static(bearer_token(request.headers.get("authorization")), accepted)
