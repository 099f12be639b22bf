-- The PostgreSQL record engine's statements, by name. Column order is that of the dataclasses in record.py where a row
-- becomes one. Every statement runs in a transaction that has said whose rows it may see (`see`, `change`).

-- name: see
SELECT set_config('standpipe.tenant', %b, true), set_config('standpipe.worker', %b, true),
    set_config('statement_timeout', %b, true);

-- name: change
-- As `see`; and a commit is answered when it is on disk, whatever the server's default is (P1).
SELECT set_config('standpipe.tenant', %b, true), set_config('standpipe.worker', %b, true),
    set_config('statement_timeout', %b, true),
    set_config('synchronous_commit', coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true);

-- append ---------------------------------------------------------------------------------------------------------

-- name: append
SELECT outcome, at_version, new_hash, of_subject, last_position, last_weight_bytes, at_us, number, winner
FROM standpipe.append_event(%b::text, %b::text, %b::text, %b::text, %b::bytea, %b::bigint, %b::boolean, %b::integer,
    %b::bytea, %b::bigint, %b::text[], %b::text[], %b::text[], %b::bigint[], %b::integer[], %b::integer[], %b::integer[],
    %b::bytea[], %b::bigint[], %b::bytea[], %b::bytea[], %b::text[], %b::integer[], %b::bytea[], %b::bigint, %b::bigint,
    %b::bigint);

-- fetch ----------------------------------------------------------------------------------------------------------

-- name: snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- name: commit
COMMIT;

-- name: head
SELECT session, subject, version, event_hash, ended, weight_bytes, position_end, created_at_us, updated_at_us,
    CASE WHEN keep_us > 0 THEN updated_at_us + keep_us ELSE 0 END,
    CASE WHEN erased_at_us > 0 THEN 2 WHEN swept_at_us > 0 THEN 1 ELSE 0 END
FROM standpipe.sessions WHERE tenant = %b AND session = %b;

-- name: session_end
SELECT session, version, kind, request_id, committed_at_us, body, previous_hash, event_hash, weight_end_bytes,
    position_end, body_hash
FROM standpipe.session_tail(%b::text, %b::text, %b::text, %b::bigint, %b::bigint, %b::bigint);

-- name: events
-- The first row always, the others while their bodies add up to no more than the last value.
SELECT session, version, kind, request_id, committed_at_us, body, previous_hash, event_hash, weight_end_bytes,
    position_end, body_hash
FROM (
    SELECT *, sum(octet_length(body)) OVER (ORDER BY version) AS size_bytes, row_number() OVER (ORDER BY version) AS place
    FROM (
        SELECT * FROM standpipe.events WHERE tenant = %b AND session = %b AND version > %b ORDER BY version LIMIT %b
    ) AS page
) AS sized
WHERE place = 1 OR size_bytes <= %b ORDER BY version;

-- name: sessions_of_tenant
SELECT session, subject, version, event_hash, ended, weight_bytes, position_end, created_at_us, updated_at_us,
    CASE WHEN keep_us > 0 THEN updated_at_us + keep_us ELSE 0 END,
    CASE WHEN erased_at_us > 0 THEN 2 WHEN swept_at_us > 0 THEN 1 ELSE 0 END
FROM standpipe.sessions WHERE tenant = %b AND session > %b ORDER BY session LIMIT %b;

-- name: sessions_of_subject
SELECT session, subject, version, event_hash, ended, weight_bytes, position_end, created_at_us, updated_at_us,
    CASE WHEN keep_us > 0 THEN updated_at_us + keep_us ELSE 0 END,
    CASE WHEN erased_at_us > 0 THEN 2 WHEN swept_at_us > 0 THEN 1 ELSE 0 END
FROM standpipe.sessions WHERE tenant = %b AND subject = %b AND session > %b ORDER BY session LIMIT %b;

-- name: sessions_of_all
SELECT session, subject, version, event_hash, ended, weight_bytes, position_end, created_at_us, updated_at_us,
    CASE WHEN keep_us > 0 THEN updated_at_us + keep_us ELSE 0 END,
    CASE WHEN erased_at_us > 0 THEN 2 WHEN swept_at_us > 0 THEN 1 ELSE 0 END, tenant
FROM standpipe.sessions WHERE (tenant, session) > (%b, %b) ORDER BY tenant, session LIMIT %b;

-- name: scope
-- One row always, also of a subject that has none. The tenant stands in the inner statement too, as a value: so one
-- partition is planned, not all. Of a subject that is erased there is nothing to see but how far it had come.
SELECT coalesce(CASE WHEN s.erased_at_us = 0 THEN s.items_position ELSE s.position END, 0), coalesce(s.epoch, 0),
    CASE WHEN s.erased_at_us = 0 AND s.items_position > 0 THEN (
        SELECT max(position) FROM standpipe.vectors WHERE tenant = %b AND subject = %b AND model = %b
    ) END, coalesce(s.erased_at_us > 0, false), d.serving
FROM standpipe.deployment d LEFT JOIN standpipe.scopes s ON s.tenant = %b AND s.subject = %b WHERE d."only" = 1;

-- name: items
SELECT position, session, version, entry, chunk, role, speaker, spoken_at_us, text, terms, tokens, gone, kind, detail
FROM standpipe.items
WHERE tenant = %b AND subject = %b AND position > %b AND position <= (
    SELECT items_position FROM standpipe.scopes WHERE tenant = %b AND subject = %b AND erased_at_us = 0
) ORDER BY position LIMIT %b;

-- name: changes
-- Found before the items are joined, each of which is then looked up by its key.
WITH found AS MATERIALIZED (
    SELECT position FROM standpipe.changes WHERE tenant = %b AND subject = %b AND position > %b AND position <= (
        SELECT items_position FROM standpipe.scopes WHERE tenant = %b AND subject = %b AND erased_at_us = 0
    ) ORDER BY position LIMIT %b
)
SELECT i.position, i.session, i.version, i.entry, i.chunk, i.role, i.speaker, i.spoken_at_us, i.text, i.terms, i.tokens,
    i.gone, i.kind, i.detail
FROM found CROSS JOIN LATERAL (
    SELECT * FROM standpipe.items i WHERE i.tenant = %b AND i.subject = %b AND i.position = found.position OFFSET 0
) AS i ORDER BY i.position;

-- name: held_subjects
-- From one subject to the next, however many such items each has.
WITH RECURSIVE held (subject) AS (
    SELECT min(subject) FROM standpipe.changes WHERE tenant = %b AND subject > %b AND held
    UNION ALL
    SELECT (SELECT min(c.subject) FROM standpipe.changes c WHERE c.tenant = %b AND c.subject > h.subject AND c.held)
    FROM held h WHERE h.subject IS NOT NULL
)
SELECT subject FROM held WHERE subject IS NOT NULL LIMIT %b;

-- name: vectors
SELECT vector FROM standpipe.vectors WHERE tenant = %b AND subject = %b AND model = %b AND position > %b
ORDER BY position LIMIT %b;

-- name: policy
SELECT name, version, document, digest, published_at_us FROM standpipe.policies
WHERE tenant = %b AND name = %b AND version = %b;

-- name: latest_policy
SELECT name, version, document, digest, published_at_us FROM standpipe.policies WHERE tenant = %b AND name = %b
ORDER BY version DESC LIMIT 1;

-- name: policies
SELECT name, version, document, digest, published_at_us FROM standpipe.policies
WHERE tenant = %b AND (name, version) > (%b, %b) ORDER BY name, version LIMIT %b;

-- name: route
SELECT name, policy_name, policy_version FROM standpipe.routes WHERE tenant = %b AND name = %b;

-- name: routes
SELECT name, policy_name, policy_version FROM standpipe.routes WHERE tenant = %b ORDER BY name;

-- name: lag
-- A model that is not known lags behind all that is there.
WITH orders AS (
    SELECT w.since_us, w.parked_at_us > 0 AS parked, s.items_position - coalesce((SELECT max(v.position)
        FROM standpipe.vectors v WHERE v.tenant = s.tenant AND v.subject = s.subject AND v.model = w.model), 0) AS behind
    FROM standpipe.work w JOIN standpipe.scopes s ON s.tenant = w.tenant AND s.subject = w.subject WHERE w.model = %b
    UNION ALL
    SELECT standpipe.committed_at_us(s.tenant, s.subject, 1), false, s.items_position FROM standpipe.scopes s
    WHERE s.items_position > 0 AND NOT EXISTS (SELECT 1 FROM standpipe.models WHERE model = %b)
)
SELECT coalesce(sum(behind) FILTER (WHERE NOT parked), 0)::bigint,
    greatest(standpipe.now_us() - min(since_us) FILTER (WHERE behind > 0 AND NOT parked), 0), count(*) FILTER (WHERE parked)
FROM orders;

-- name: parked
SELECT w.tenant, w.subject, w.model, s.items_position - coalesce((SELECT max(v.position) FROM standpipe.vectors v
    WHERE v.tenant = s.tenant AND v.subject = s.subject AND v.model = w.model), 0), w.since_us, w.parked_at_us, w.reason
FROM standpipe.work w JOIN standpipe.scopes s ON s.tenant = w.tenant AND s.subject = w.subject
WHERE w.parked_at_us > 0 AND (w.tenant, w.subject, w.model) > (%b, %b, %b)
ORDER BY w.tenant, w.subject, w.model LIMIT %b;

-- name: grants
-- The time is that of the transaction's begin: no later than the snapshot, so that nobody is trusted too early.
SELECT slot_from, slot_to, grant_id, incarnation, usable_at_us, (extract(epoch FROM now()) * 1000000)::bigint
FROM (SELECT) AS always LEFT JOIN standpipe.grants ON true ORDER BY slot_from;

-- the embedding projection ---------------------------------------------------------------------------------------

-- name: known_models
SELECT model FROM standpipe.models;

-- name: know_model
SELECT standpipe.know_model(%b::text);

-- name: models
SELECT d.serving, m.model FROM standpipe.deployment d LEFT JOIN standpipe.models m ON true WHERE d."only" = 1
ORDER BY m.model;

-- name: serve
SELECT standpipe.serve(%b::text, %b::text);

-- name: drop_vectors
DELETE FROM standpipe.vectors WHERE model = %b
    AND NOT EXISTS (SELECT 1 FROM standpipe.deployment WHERE "only" = 1 AND serving = %b);

-- name: forget_model
SELECT standpipe.forget_model(%b::text);

-- name: put_vectors
SELECT standpipe.put_vectors(%b::text, %b::text, %b::text, %b::bigint, %b::bytea[], %b::text[]);

-- name: claim
SELECT tenant, subject, item_last, vector_last, until_us, attempt
FROM standpipe.claim(%b::text, %b::text, %b::bigint, %b::bigint, %b::bigint);

-- name: release
-- Without a reason it was no attempt.
WITH given_back AS (
    SELECT reason, CASE reason WHEN '' THEN 1 ELSE 0 END AS uncounted, standpipe.now_us() AS now_us
    FROM (SELECT %b::text AS reason) AS said
)
UPDATE standpipe.work w SET worker = '', due_at_us = g.now_us + %b::bigint, attempts = w.attempts - g.uncounted,
    reason = g.reason, parked_at_us = CASE WHEN w.attempts - g.uncounted >= %b::bigint THEN g.now_us ELSE 0 END
FROM given_back g
WHERE w.tenant = %b AND w.subject = %b AND w.model = %b AND w.worker = %b AND w.due_at_us = %b
RETURNING w.parked_at_us > 0;

-- name: unpark
UPDATE standpipe.work SET due_at_us = 0, attempts = 0, reason = '', parked_at_us = 0
WHERE tenant = %b AND subject = %b AND model = %b AND parked_at_us > 0 RETURNING true;

-- retention ------------------------------------------------------------------------------------------------------

-- name: expired
SELECT tenant, session FROM standpipe.sessions WHERE keep_us > 0 AND updated_at_us + keep_us <= standpipe.now_us()
ORDER BY updated_at_us + keep_us, tenant, session LIMIT %b;

-- name: erased_sessions
SELECT s.tenant, s.session FROM standpipe.erasures e JOIN standpipe.sessions s ON s.tenant = e.tenant
    AND s.subject = e.subject AND (e.session = '' OR s.session = e.session)
WHERE e.done_at_us = 0 AND s.erased_at_us > 0 AND s.keep_us > 0
ORDER BY s.tenant, s.session LIMIT %b;

-- name: sweep
SELECT standpipe.sweep(%b::text, %b::text);

-- name: forgotten
UPDATE standpipe.sessions SET keep_us = 0 WHERE tenant = %b AND session = %b AND swept_at_us > 0;

-- erasure --------------------------------------------------------------------------------------------------------

-- name: erase
SELECT tenant, subject, session, asked_at_us, done_at_us, logs, events, items, events_redacted, keys, records
FROM standpipe.erase(%b::text, %b::text, %b::text);

-- name: mark_late_sessions
-- Of a subject that is erased: those that began while it was being marked.
UPDATE standpipe.sessions SET erased_at_us = standpipe.now_us(), ended = true, keep_us = greatest(keep_us, 1)
WHERE tenant = %b AND subject = %b AND erased_at_us = 0 AND EXISTS (
    SELECT 1 FROM standpipe.scopes WHERE tenant = %b AND subject = %b AND erased_at_us > 0
);

-- name: finish_erasure
UPDATE standpipe.erasures SET done_at_us = CASE done_at_us WHEN 0 THEN greatest(standpipe.now_us(), asked_at_us)
    ELSE done_at_us END
WHERE tenant = %b AND subject = %b AND session = %b
RETURNING tenant, subject, session, asked_at_us, done_at_us, logs, events, items, events_redacted, keys, records;

-- name: erasure
SELECT tenant, subject, session, asked_at_us, done_at_us, logs, events, items, events_redacted, keys, records
FROM standpipe.erasures WHERE tenant = %b AND subject = %b AND session = %b;

-- name: erasures_at_work
SELECT tenant, subject, session, asked_at_us, done_at_us, logs, events, items, events_redacted, keys, records
FROM standpipe.erasures WHERE done_at_us = 0 ORDER BY asked_at_us, tenant, subject, session LIMIT %b;

-- name: reopen
SELECT standpipe.reopen(%b::text, %b::text);

-- name: redact
SELECT standpipe.redact(%b::text, %b::text, %b::bigint, %b::bytea, %b::integer[], %b::text, %b::text);

-- name: horizon
-- Who began after this sees nothing of what was removed before it.
SELECT pg_snapshot_xmax(pg_current_snapshot())::xid::text;

-- name: held_up
-- Whether anybody may still see what was removed before. Of other roles' transactions the role may know nothing.
SELECT EXISTS (
    SELECT 1 FROM pg_stat_activity WHERE coalesce(datname, current_database()) = current_database()
        AND pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'
        AND greatest(age(backend_xmin), age(backend_xid)) > age(%b::text::xid)
);

-- name: vacuum
-- The indexes too, for the ids of requests and calls in them. What the role does not own the server passes over.
VACUUM (INDEX_CLEANUP ON) standpipe.events, standpipe.items, standpipe.vectors, standpipe.tool_calls,
    standpipe.checkpoints, standpipe.keys, standpipe.state;

-- name: may_checkpoint
SELECT rolsuper OR pg_has_role(oid, 'pg_checkpoint', 'USAGE') FROM pg_roles WHERE rolname = current_user;

-- name: checkpoint
CHECKPOINT;

-- state ----------------------------------------------------------------------------------------------------------
-- What has expired is there for nobody: by the server's clock at the transaction's begin. The value of a record that a
-- page has no room for is NULL: the first always has, the others while all up to them are no larger than the page.

-- name: state_records
SELECT collection, key, CASE WHEN place = 1 OR size_bytes <= %b THEN value END, revision, updated_at_us, expires_at_us
FROM (
    SELECT s.*, w.number, row_number() OVER (ORDER BY w.number) AS place,
        sum(octet_length(s.key) + octet_length(s.value)) OVER (ORDER BY w.number) AS size_bytes
    FROM unnest(%b::text[]) WITH ORDINALITY AS w (key, number) JOIN standpipe.state s
        ON s.tenant = %b AND s.subject = %b AND s.collection = %b AND s.key = w.key
    WHERE s.expires_at_us = 0 OR s.expires_at_us > (extract(epoch FROM now()) * 1000000)::bigint
) AS sized
ORDER BY number;

-- name: state_up
SELECT collection, key, CASE WHEN place = 1 OR size_bytes <= %b THEN CASE WHEN bare THEN '' ELSE value END END, revision,
    updated_at_us, expires_at_us
FROM (
    SELECT page.*, row_number() OVER (ORDER BY key) AS place,
        sum(octet_length(key) + CASE WHEN bare THEN 0 ELSE octet_length(value) END) OVER (ORDER BY key) AS size_bytes
    FROM (
        SELECT *, %b::boolean AS bare FROM standpipe.state
        WHERE tenant = %b AND subject = %b AND collection = %b AND key >= %b AND key < %b
            AND (expires_at_us = 0 OR expires_at_us > (extract(epoch FROM now()) * 1000000)::bigint)
        ORDER BY key LIMIT %b
    ) AS page
) AS sized
ORDER BY key;

-- name: state_down
SELECT collection, key, CASE WHEN place = 1 OR size_bytes <= %b THEN CASE WHEN bare THEN '' ELSE value END END, revision,
    updated_at_us, expires_at_us
FROM (
    SELECT page.*, row_number() OVER (ORDER BY key DESC) AS place,
        sum(octet_length(key) + CASE WHEN bare THEN 0 ELSE octet_length(value) END) OVER (ORDER BY key DESC) AS size_bytes
    FROM (
        SELECT *, %b::boolean AS bare FROM standpipe.state
        WHERE tenant = %b AND subject = %b AND collection = %b AND key >= %b AND key < %b
            AND (expires_at_us = 0 OR expires_at_us > (extract(epoch FROM now()) * 1000000)::bigint)
        ORDER BY key DESC LIMIT %b
    ) AS page
) AS sized
ORDER BY key DESC;

-- name: state_all
SELECT collection, key, CASE WHEN place = 1 OR size_bytes <= %b THEN value END, revision, updated_at_us, expires_at_us
FROM (
    SELECT page.*, row_number() OVER (ORDER BY collection, key) AS place,
        sum(octet_length(key) + octet_length(value)) OVER (ORDER BY collection, key) AS size_bytes
    FROM (
        SELECT * FROM standpipe.state
        WHERE tenant = %b AND subject = %b AND (collection, key) > (%b, %b)
            AND (expires_at_us = 0 OR expires_at_us > (extract(epoch FROM now()) * 1000000)::bigint)
        ORDER BY collection, key LIMIT %b
    ) AS page
) AS sized
ORDER BY collection, key;

-- name: put_state
SELECT outcome, revision, number
FROM standpipe.put_state(%b::text, %b::text, %b::text, %b::text[], %b::bytea[], %b::bigint[], %b::bigint[],
    %b::bigint[], %b::bigint);

-- name: delete_state
SELECT deleted, more FROM standpipe.delete_state(%b::text, %b::text, %b::text, %b::text, %b::text, %b::bigint);

-- name: any_expired_state
SELECT EXISTS (SELECT 1 FROM standpipe.state WHERE expires_at_us > 0 AND expires_at_us <= standpipe.now_us());

-- name: expire_state
SELECT standpipe.expire_state(%b::bigint);

-- keys -----------------------------------------------------------------------------------------------------------

-- name: key_of_subject
SELECT subject, key_id, wrapped, wrapping FROM standpipe.keys WHERE tenant = %b AND subject = %b;

-- name: key
SELECT subject, key_id, wrapped, wrapping FROM standpipe.keys WHERE tenant = %b AND key_id = %b;

-- name: put_key
SELECT subject, key_id, wrapped, wrapping FROM standpipe.put_key(%b::text, %b::text, %b::bytea, %b::bytea, %b::text);

-- name: rewrap
UPDATE standpipe.keys SET wrapped = %b::bytea, wrapping = %b::text
WHERE tenant = %b AND subject = %b AND key_id = %b AND wrapped = %b AND wrapping = %b RETURNING true;

-- name: keys_of_all
SELECT subject, key_id, wrapped, wrapping, tenant FROM standpipe.keys WHERE (tenant, key_id) > (%b, %b)
ORDER BY tenant, key_id LIMIT %b;

-- figures --------------------------------------------------------------------------------------------------------

-- name: figures
-- What vacuum and analyze last counted, since counting itself would read everything; the longest overdue by its index.
SELECT sum(rows) FILTER (WHERE name = 'sessions'), sum(rows) FILTER (WHERE name = 'events'),
    sum(rows) FILTER (WHERE name = 'items'), sum(size_bytes) FILTER (WHERE name = 'events'), (
        SELECT greatest(standpipe.now_us() - (updated_at_us + keep_us), 0) FROM standpipe.sessions
        WHERE keep_us > 0 ORDER BY updated_at_us + keep_us LIMIT 1)
FROM (
    SELECT split_part(relname, '_', 1) AS name, greatest(reltuples, 0)::bigint AS rows,
        pg_table_size(oid) AS size_bytes
    FROM pg_class WHERE relnamespace = 'standpipe'::regnamespace AND relkind = 'r'
) AS tables;

-- writes of the control plane and of rebuild -----------------------------------------------------------------------

-- name: put_checkpoint
-- The lock waits for a sweep of the session, which would not see a row that is being written.
INSERT INTO standpipe.checkpoints (tenant, session, tokenizer, version, weight_bytes, body)
SELECT tenant, session, %b::text, %b::bigint, %b::bigint, %b::bytea FROM standpipe.sessions
WHERE tenant = %b AND session = %b AND swept_at_us = 0 AND erased_at_us = 0 FOR SHARE
ON CONFLICT DO NOTHING;

-- name: publish_policy
SELECT at_version, at_document, at_us, published FROM standpipe.publish_policy(%b::text, %b::text, %b::text, %b::bytea);

-- name: set_route
SELECT standpipe.set_route(%b::text, %b::text, %b::text, %b::bigint);

-- name: restore_items
SELECT standpipe.restore_event_items(%b::text, %b::text, %b::text, %b::bigint, %b::bigint, %b::bigint, %b::integer[],
    %b::integer[], %b::integer[], %b::bytea[], %b::bigint[], %b::bytea[], %b::bytea[], %b::text[], %b::integer[],
    %b::bytea[]);

-- name: drop_derived
SELECT standpipe.drop_derived();

-- name: lock_grants
-- The row is the lock that every change of grants takes before it looks.
UPDATE standpipe.deployment SET last_grant = last_grant + 1 RETURNING last_grant, standpipe.now_us();

-- name: drop_grants
DELETE FROM standpipe.grants;

-- name: put_grant
INSERT INTO standpipe.grants (slot_from, slot_to, grant_id, incarnation, usable_at_us) VALUES (%b, %b, %b, %b, %b);

-- the schema -----------------------------------------------------------------------------------------------------

-- name: is_made
SELECT to_regclass('standpipe.migrations') IS NOT NULL;

-- name: lock_schema
-- One number for all releases: "standpip" in ASCII.
SELECT pg_advisory_xact_lock(8319381538419534192);

-- name: make
CREATE SCHEMA IF NOT EXISTS standpipe;
CREATE TABLE IF NOT EXISTS standpipe.migrations (
    number integer PRIMARY KEY,
    kind text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: migrations
SELECT number, kind FROM standpipe.migrations;

-- name: note_migration
INSERT INTO standpipe.migrations (number, kind) VALUES (%b, %b);

-- name: keep_signing_key
INSERT INTO standpipe.deployment ("only", signing_key) VALUES (1, %b) ON CONFLICT DO NOTHING;

-- name: signing_key
SELECT signing_key FROM standpipe.deployment;

-- name: grant
-- The tables that a statement names, and no partition; the migrations to read alone.
SELECT format('GRANT %%s ON standpipe.%%I TO %%I', CASE relname WHEN 'migrations' THEN 'SELECT'
    ELSE 'SELECT, INSERT, UPDATE, DELETE' END, relname, %b::text)
FROM pg_class WHERE relnamespace = 'standpipe'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
UNION ALL SELECT format('GRANT USAGE ON SCHEMA standpipe TO %%I', %b::text);

-- name: rights_of_owner
-- Whether the owner of the schema has a role's rights, so that what binds the role binds it; of a superuser nothing does.
SELECT o.rolname = %b OR (NOT o.rolsuper AND pg_has_role(o.oid, r.oid, 'USAGE'))
FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner, pg_roles r WHERE n.nspname = 'standpipe' AND r.rolname = %b;

-- name: bind_wait
SELECT set_config('lock_timeout', %b, false);

-- name: bind
-- A role is bound to tenants by a restrictive policy on each of their tables, which has the role's name: other roles pay
-- nothing for it, and it holds for whoever has the role's rights. One row a table, so that each is locked by itself.
-- Without tenants the role is bound no more.
SELECT concat_ws('; ',
    (SELECT format('DROP POLICY %%I ON standpipe.%%I', p.polname, c.relname) FROM pg_policy p
        WHERE p.polrelid = c.oid AND p.polname = w.role AND NOT p.polpermissive),
    CASE WHEN w.tenants <> '{}' THEN format('CREATE POLICY %%I ON standpipe.%%I AS RESTRICTIVE TO %%I
        USING (tenant = ANY (%%L::text[]))', w.role, c.relname, w.role, w.tenants) END)
FROM pg_class c, (SELECT %b::text AS role, %b::text[] AS tenants) AS w
WHERE c.relnamespace = 'standpipe'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND c.relrowsecurity ORDER BY c.relname;

-- name: may_be
-- Whether every policy that binds this role lets it be a tenant.
SELECT NOT row_security_active('standpipe.sessions') OR NOT EXISTS (
    SELECT 1 FROM pg_policy p
    WHERE p.polrelid = 'standpipe.sessions'::regclass AND NOT p.polpermissive
        AND EXISTS (SELECT 1 FROM unnest(p.polroles) AS r WHERE r <> 0 AND pg_has_role(r, 'USAGE'))
        AND %b <> ALL (substring(pg_get_expr(p.polqual, p.polrelid) FROM '\{.*\}')::text[]));

-- name: bind_new_tables
-- Who is bound to tenants is so in a table that has just been made.
SELECT format('CREATE POLICY %I ON standpipe.%I AS RESTRICTIVE TO %s USING (%s)', p.polname, c.relname,
    (SELECT string_agg(r::regrole::text, ', ') FROM unnest(p.polroles) AS r), pg_get_expr(p.polqual, p.polrelid))
FROM pg_policy p, pg_class c
WHERE p.polrelid = to_regclass('standpipe.sessions') AND NOT p.polpermissive
    AND c.relnamespace = to_regnamespace('standpipe') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND c.relrowsecurity
    AND NOT EXISTS (SELECT 1 FROM pg_policy q WHERE q.polrelid = c.oid AND q.polname = p.polname);
