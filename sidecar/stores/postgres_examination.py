"""What may be wrong with a PostgreSQL that serves as the record store, asked of its catalogue and by trying.

The engine hands in a function that runs one named statement of `sql/postgres_examine.sql`, so that this file needs no
driver.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Protocol

from sidecar.errors import StandpipeError
from sidecar.finding import Finding, Outcome, clock, failed, ok, parked, ranked_by, skipped, warning
from sidecar.stores.rows import sections

SQL: Final = sections("postgres_examine.sql", "name")
VERSION_MIN: Final = 160_000
"""PostgreSQL 16, as `server_version_num`: what the conformance suite runs on."""

MIGRATE: Final = "Run `standpipe migrate` as the owner of the schema."


class Ask(Protocol):
    """Run a statement of SQL by its name, under a savepoint; raise a StandpipeError if it fails."""

    def __call__(self, name: str, *values: object) -> Awaitable[Sequence[Sequence[Any]]]:
        """Return its rows."""


async def examine(ask: Ask, *, parts: Mapping[str, Sequence[int]], pool_max: int) -> list[Finding]:
    """Make every check. `parts` are the numbers of this release's parts of the schema, by their kind."""
    found = await _server(ask)
    found += [await _role(ask), await _durability(ask), await _connections(ask, pool_max), await _clock(ask)]
    found += [await _extension(ask), await _schema(ask, parts)]
    if found[-1].outcome == Outcome.FAILED:
        return [*found, skipped("isolation", "there is no schema of this release to try it on")]
    for check, look in (
        ("rights", _rights),
        ("row security", _row_security),
        ("tenants", _tenants),
        ("isolation", _isolation),
        ("keys", _keys),
        ("partitions", _partitions),
        ("grants", _grants),
        ("recall", _recall),
        ("work", _work),
    ):
        try:
            found.append(await look(ask))
        except StandpipeError as error:
            found.append(failed(check, f"{error.message} ({error.metadata.get('driver_error', '')})", MIGRATE))
    return found


async def _server(ask: Ask) -> list[Finding]:
    ((number, version, read_only, encoding, encrypted, near),) = await ask("server")
    found = [ok("server", f"PostgreSQL {version}")]
    if number < VERSION_MIN:
        found = [failed("server", f"PostgreSQL {version}", f"Upgrade it to {VERSION_MIN // 10_000} or later.")]
    if read_only:
        advice = "Name the primary in `record`, or add target_session_attrs=read-write to its URI."
        found.append(failed("writes", "the server takes none: it is a standby, or set read-only", advice))
    if encoding != "UTF8":
        found.append(failed("encoding", encoding, "Make a database with the encoding UTF8."))
    if not encrypted and not near:
        advice = "Add sslmode=verify-full and sslrootcert to the URI in `record`."
        found.append(
            warning("encryption", "the server is on another machine, and the connection in clear text", advice)
        )
    return found


async def _role(ask: Ask) -> Finding:
    ((name, superuser, bypasses, _),) = await ask("role")
    if superuser or bypasses:
        why = "a superuser" if superuser else "free of row-level security"
        advice = "Serve as a role with neither SUPERUSER nor BYPASSRLS: the database would not keep tenants apart."
        return failed("role", f"{name} is {why}", advice)
    return ok("role", f"{name}, bound by row-level security")


async def _durability(ask: Ask) -> Finding:
    off = [name for name, _ in await ask("durability")]
    if off:
        return failed("durability", f"off: {', '.join(off)}", "Switch them on: a crash loses acknowledged commits.")
    return ok("durability", "an acknowledged commit is on disk")


async def _connections(ask: Ask, pool_max: int) -> Finding:
    ((usable, used),) = await ask("connections")
    ((_, _, _, of_role),) = await ask("role")
    if 0 <= of_role < usable:
        usable = of_role
    found = f"{used} of {usable} in use; a sidecar takes up to {pool_max}"
    if usable - used < pool_max:
        return warning("connections", found, "Raise max_connections, or set PgBouncer before it in transaction mode.")
    return ok("connections", found)


async def _clock(ask: Ask) -> Finding:
    before_s = time.time()
    ((theirs_s,),) = await ask("clock")
    return clock(before_s, theirs_s, time.time())


async def _extension(ask: Ask) -> Finding:
    ((installed, available),) = await ask("extension")
    if installed:
        return ok("pgvector", installed)
    if available:
        return failed("pgvector", "not in this database", "CREATE EXTENSION vector; or run `standpipe migrate`.")
    return failed("pgvector", "not on this server", "Install PostgreSQL's package of pgvector on the server.")


async def _schema(ask: Ask, parts: Mapping[str, Sequence[int]]) -> Finding:
    ((there,),) = await ask("schema")
    if not there:
        return failed("schema", "none in this database", MIGRATE)
    made = [(kind, number) for kind, number in await ask("parts")]
    missing = [f"{kind} {number}" for kind in parts for number in parts[kind] if (kind, number) not in made]
    if missing:
        return failed("schema", f"without {', '.join(missing)}", MIGRATE)
    beyond = [number for kind, number in made if kind == "migration" and number > max(parts["migration"])]
    if beyond:
        return failed("schema", f"migration {max(beyond)} is of a newer release", "Run that release, or a newer one.")
    return ok("schema", f"migration {max(parts['migration'])}, of this release")


async def _rights(ask: Ask) -> Finding:
    lacking = [name for (name,) in await ask("rights")]
    if lacking:
        advice = "Run `standpipe migrate --grant-to` with the role that serves."
        return failed("rights", f"the role may not read and write {', '.join(lacking)}", advice)
    return ok("rights", "the role may read and write every table")


async def _row_security(ask: Ask) -> Finding:
    unforced = [name for (name,) in await ask("unforced")]
    if unforced:
        advice = "ALTER TABLE … ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, for each."
        return failed("row security", f"not forced on {', '.join(unforced)}", advice)
    return ok("row security", "forced on every table of tenants")


async def _bound(ask: Ask) -> tuple[set[str] | None, list[str]]:
    """Return the tenants that the role is bound to, None for any; and where it is not bound, if it is at all."""
    free: list[str] = []
    tenants: set[str] | None = None
    for table, bound in await ask("bound"):
        if bound is None:
            free.append(table)
        else:
            tenants = set(bound) if tenants is None else tenants & set(bound)
    return tenants, free if tenants is not None else []


async def _tenants(ask: Ask) -> Finding:
    tenants, free = await _bound(ask)
    if tenants is None:
        return ok("tenants", "the role may be any: whoever has its password reads all that this database holds")
    if free:
        advice = "Run `standpipe migrate --grant-to` it again, with each `--tenant`, as the owner of the schema."
        return failed("tenants", f"the role is bound, but not in {', '.join(free)}", advice)
    return ok("tenants", f"the role is bound to {', '.join(sorted(tenants)) or 'none'}")


async def _isolation(ask: Ask) -> Finding:
    """Leave a row as one tenant, and look for it as another; all is rolled back."""
    tenants, _ = await _bound(ask)
    row, theirs = (f"doctor-{secrets.token_hex(16)}" for _ in range(2))
    mine = min(tenants, default=row) if tenants is not None else row
    await ask("become", mine)
    await ask("leave_row", mine, row)
    ((own,),) = await ask("see_row", mine, row)
    await ask("become", theirs)
    ((others,),) = await ask("see_row", mine, row)
    advice = "Mend the role or the policies: see `role` and `row security` above, and `standpipe migrate`."
    if others:
        return failed("isolation", "a tenant read a row of another", advice)
    if not own:
        return failed("isolation", "a tenant does not see its own row", advice)
    # It writes as another tenant; a role that is bound writes as a tenant that it may not be.
    for tenant in (mine,) if tenants is None else (mine, theirs):
        try:
            await ask("leave_row", tenant, theirs)
        except StandpipeError:
            continue
        return failed("isolation", "a tenant wrote a row of another", advice)
    return ok("isolation", "a tenant could neither read nor write a row of another")


async def _keys(ask: Ask) -> Finding:
    others = [name for (name,) in await ask("keys")]
    if others:
        advice = "Drop them: a key that does not lead with the tenant cannot be distributed by it."
        return warning("keys", f"without the tenant in front: {', '.join(others)}", advice)
    return ok("keys", "the tenant leads every one")


async def _partitions(ask: Ask) -> Finding:
    rows = await ask("partitions")
    short = [name for name, _, whole in rows if not whole]
    if short:
        return failed("partitions", f"some are missing of {', '.join(short)}", "Attach them, or restore a backup.")
    return ok("partitions", ", ".join(f"{count} of {name}" for name, count, _ in rows))


async def _grants(ask: Ask) -> Finding:
    ((slots, servers),) = await ask("grants")
    if not slots:
        return ok("grants", "no hot server is trusted yet: the first sidecar that uses one sees to it")
    return ok("grants", f"{slots:,} slots are trusted to {servers} hot {'server' if servers == 1 else 'servers'}")


async def _recall(ask: Ask) -> Finding:
    ((serving,),) = await ask("serving")
    return ranked_by(serving)


async def _work(ask: Ask) -> Finding:
    await ask("see_all")
    ((count,),) = await ask("parked")
    return parked(count)
