-- The SQLite record engine's statements, by name. Column order is that of the dataclasses in record.py where a row
-- becomes one.

-- name: signing_key
SELECT signing_key FROM deployment;

-- name: keep_signing_key
INSERT INTO deployment (only, signing_key) VALUES (1, ?) ON CONFLICT DO NOTHING;

-- append ---------------------------------------------------------------------------------------------------------

-- name: receipt
SELECT version, digest, event_hash, position_end, weight_end_bytes, committed_at_us FROM events
WHERE tenant = ? AND session = ? AND request_id = ?;

-- name: request_id_of_version
SELECT request_id FROM events WHERE tenant = ? AND session = ? AND version = ?;

-- name: insert_event
INSERT INTO events (tenant, session, version, kind, request_id, digest, committed_at_us, items_count, position_end,
    weight_end_bytes, previous_hash, event_hash, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: put_session
INSERT INTO sessions (tenant, session, subject, version, event_hash, ended, weight_bytes, position_end,
    created_at_us, updated_at_us, keep_us)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, session) DO UPDATE SET version = excluded.version, event_hash = excluded.event_hash,
    ended = excluded.ended, weight_bytes = excluded.weight_bytes, position_end = excluded.position_end,
    updated_at_us = excluded.updated_at_us, keep_us = excluded.keep_us;

-- name: open_tool_call
INSERT INTO tool_calls (tenant, session, call_id, call_version) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: answer_tool_call
UPDATE tool_calls SET result_version = ?
WHERE tenant = ? AND session = ? AND call_id = ? AND result_version IS NULL;

-- name: scope_counters
SELECT position, items_position, epoch, erased FROM scopes WHERE tenant = ? AND subject = ?;

-- name: scope
-- One row always, also of a subject that has none.
SELECT coalesce(s.position, 0), coalesce(s.items_position, 0), coalesce(s.epoch, 0), coalesce(s.erased, 0), d.serving
FROM deployment d LEFT JOIN scopes s ON s.tenant = ? AND s.subject = ? WHERE d.only = 1;

-- name: put_scope
INSERT INTO scopes (tenant, subject, position, items_position) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, subject) DO UPDATE SET position = excluded.position, items_position = excluded.items_position;

-- name: put_item
INSERT INTO items (tenant, subject, position, session, version, entry, chunk, role, speaker, spoken_at_us, text,
    terms, tokens, kind, detail)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: order_work
INSERT INTO work (tenant, subject, model, since_us) SELECT ?, ?, model, ? FROM models WHERE true
ON CONFLICT (tenant, subject, model) DO UPDATE SET since_us = excluded.since_us
WHERE excluded.since_us < work.since_us;

-- fetch ----------------------------------------------------------------------------------------------------------

-- name: head
SELECT session, subject, version, event_hash, ended, weight_bytes, position_end, created_at_us, updated_at_us,
    CASE WHEN keep_us > 0 THEN updated_at_us + keep_us ELSE 0 END, CASE WHEN erased > 0 THEN 2 ELSE swept_at_us > 0 END
FROM sessions WHERE tenant = ? AND session = ?;

-- name: citable
SELECT 1 FROM events e JOIN sessions s ON s.tenant = e.tenant AND s.session = e.session
WHERE e.tenant = ? AND e.session = ? AND e.version = ? AND s.erased = 0;

-- name: weight_at
SELECT weight_end_bytes FROM events WHERE tenant = ? AND session = ? AND version = ?;

-- name: last_checkpoint
SELECT session, tokenizer, version, weight_bytes, body FROM checkpoints
WHERE tenant = ? AND session = ? AND tokenizer = ? AND version <= ? AND weight_bytes <= ?
ORDER BY version DESC LIMIT 1;

-- name: events
SELECT session, version, kind, request_id, committed_at_us, body, previous_hash, event_hash, weight_end_bytes,
    position_end, body_hash
FROM events WHERE tenant = ? AND session = ? AND version > ? AND version <= ? ORDER BY version LIMIT ?;

-- name: sessions_of_tenant
SELECT session, subject, version, event_hash, ended, weight_bytes, position_end, created_at_us, updated_at_us,
    CASE WHEN keep_us > 0 THEN updated_at_us + keep_us ELSE 0 END, CASE WHEN erased > 0 THEN 2 ELSE swept_at_us > 0 END
FROM sessions WHERE tenant = ? AND session > ? ORDER BY session LIMIT ?;

-- name: sessions_of_subject
SELECT session, subject, version, event_hash, ended, weight_bytes, position_end, created_at_us, updated_at_us,
    CASE WHEN keep_us > 0 THEN updated_at_us + keep_us ELSE 0 END, CASE WHEN erased > 0 THEN 2 ELSE swept_at_us > 0 END
FROM sessions WHERE tenant = ? AND subject = ? AND session > ? ORDER BY session LIMIT ?;

-- name: sessions_of_all
SELECT session, subject, version, event_hash, ended, weight_bytes, position_end, created_at_us, updated_at_us,
    CASE WHEN keep_us > 0 THEN updated_at_us + keep_us ELSE 0 END, CASE WHEN erased > 0 THEN 2 ELSE swept_at_us > 0 END, tenant
FROM sessions WHERE (tenant, session) > (?, ?) ORDER BY tenant, session LIMIT ?;

-- name: vector_position
SELECT coalesce(max(position), 0) FROM vectors WHERE tenant = ? AND subject = ? AND model = ?;

-- name: items
SELECT position, session, version, entry, chunk, role, speaker, spoken_at_us, text, terms, tokens, gone, kind, detail
FROM items WHERE tenant = ? AND subject = ? AND position > ? AND position <= ? ORDER BY position LIMIT ?;

-- name: changes
SELECT position, session, version, entry, chunk, role, speaker, spoken_at_us, text, terms, tokens, gone, kind, detail
FROM items INDEXED BY items_changes WHERE tenant = ? AND subject = ? AND position > ? AND position <= ?
    AND kind IN (1, 3) AND NOT gone ORDER BY position LIMIT ?;

-- name: held_subjects
-- From one subject to the next, however many such items each has.
WITH RECURSIVE held (subject) AS (
    SELECT min(subject) FROM items INDEXED BY items_held WHERE tenant = ?1 AND subject > ?2 AND kind = 3 AND NOT gone
    UNION ALL
    SELECT (SELECT min(i.subject) FROM items i INDEXED BY items_held
        WHERE i.tenant = ?1 AND i.subject > held.subject AND i.kind = 3 AND NOT i.gone)
    FROM held WHERE held.subject IS NOT NULL
) SELECT subject FROM held WHERE subject IS NOT NULL LIMIT ?3;

-- name: vectors
SELECT vector FROM vectors WHERE tenant = ? AND subject = ? AND model = ? AND position > ? ORDER BY position LIMIT ?;

-- name: policy
SELECT name, version, document, digest, published_at_us FROM policies WHERE tenant = ? AND name = ? AND version = ?;

-- name: latest_policy
SELECT name, version, document, digest, published_at_us FROM policies WHERE tenant = ? AND name = ?
ORDER BY version DESC LIMIT 1;

-- name: policies
SELECT name, version, document, digest, published_at_us FROM policies WHERE tenant = ? AND (name, version) > (?, ?)
ORDER BY name, version LIMIT ?;

-- name: route
SELECT name, policy_name, policy_version FROM routes WHERE tenant = ? AND name = ?;

-- name: routes
SELECT name, policy_name, policy_version FROM routes WHERE tenant = ? ORDER BY name;

-- name: grants
SELECT slot_from, slot_to, grant_id, incarnation, usable_at_us FROM grants ORDER BY slot_from;

-- name: next_grant
UPDATE deployment SET last_grant = last_grant + 1 RETURNING last_grant;

-- name: drop_grants
DELETE FROM grants;

-- name: put_grant
INSERT INTO grants (slot_from, slot_to, grant_id, incarnation, usable_at_us) VALUES (?, ?, ?, ?, ?);

-- the embedding projection ---------------------------------------------------------------------------------------

-- name: model
SELECT 1 FROM models WHERE model = ?;

-- name: put_model
INSERT INTO models (model) VALUES (?) ON CONFLICT DO NOTHING;

-- name: order_all_work
-- The first item that the log knows: those before are gone, and nobody waits for their vectors.
INSERT INTO work (tenant, subject, model, since_us)
SELECT tenant, subject, ?1, since_us FROM (
    SELECT s.tenant, s.subject, (SELECT e.committed_at_us FROM items i CROSS JOIN events e
        ON e.tenant = i.tenant AND e.session = i.session AND e.version = i.version
        WHERE i.tenant = s.tenant AND i.subject = s.subject ORDER BY i.position LIMIT 1) AS since_us
    FROM scopes s WHERE s.items_position > 0 AND s.erased = 0
) WHERE since_us IS NOT NULL ON CONFLICT DO NOTHING;

-- name: put_vector
INSERT INTO vectors (tenant, subject, model, position, vector) VALUES (?, ?, ?, ?, ?);

-- name: models
SELECT model FROM models;

-- name: serving
SELECT serving FROM deployment WHERE only = 1;

-- name: serve
UPDATE deployment SET serving = ? WHERE only = 1 AND serving = ?;

-- name: scopes_after
SELECT tenant, subject FROM scopes WHERE (tenant, subject) > (?, ?) ORDER BY tenant, subject LIMIT 256;

-- name: drop_vectors_of_scope
DELETE FROM vectors WHERE tenant = ? AND subject = ? AND model = ?;

-- name: drop_vectors_of_model
-- Found by reading the whole index, which few steps of a drop do.
DELETE FROM vectors WHERE rowid IN (SELECT rowid FROM vectors WHERE model = ?);

-- name: drop_work_of_model
DELETE FROM work WHERE model = ?;

-- name: drop_model
DELETE FROM models WHERE model = ?;

-- name: empty_vectors
-- All zeros is "no vector".
UPDATE vectors SET vector = zeroblob(length(vector))
WHERE tenant = ? AND subject = ? AND model = ? AND position > ? AND position <= ? AND EXISTS (
    SELECT 1 FROM items i WHERE i.tenant = vectors.tenant AND i.subject = vectors.subject
    AND i.position = vectors.position AND i.gone);

-- name: finish_work
DELETE FROM work WHERE tenant = ? AND subject = ? AND model = ?;

-- name: shorten_work
UPDATE work SET worker = '', due_at_us = 0, attempts = 0, reason = '', parked_at_us = 0,
    since_us = coalesce((SELECT e.committed_at_us FROM items i
        CROSS JOIN events e ON e.tenant = i.tenant AND e.session = i.session AND e.version = i.version
        WHERE i.tenant = work.tenant AND i.subject = work.subject AND i.position >= ? ORDER BY i.position LIMIT 1),
        since_us)
WHERE tenant = ? AND subject = ? AND model = ?;

-- name: due
SELECT s.tenant, s.subject, s.items_position, coalesce((SELECT max(v.position) FROM vectors v
    WHERE v.tenant = s.tenant AND v.subject = s.subject AND v.model = w.model), 0) AS vector_position, w.attempts
FROM work w INDEXED BY work_by_age JOIN scopes s ON s.tenant = w.tenant AND s.subject = w.subject
WHERE w.model = ? AND w.due_at_us <= ? AND w.parked_at_us = 0 AND s.items_position > vector_position
ORDER BY w.since_us, w.tenant, w.subject LIMIT ?;

-- name: hold
UPDATE work SET worker = ?, due_at_us = ?, attempts = attempts + 1, reason = ''
WHERE tenant = ? AND subject = ? AND model = ?;

-- name: held
SELECT attempts FROM work WHERE tenant = ? AND subject = ? AND model = ? AND worker = ? AND due_at_us = ?;

-- name: give_back
UPDATE work SET worker = '', due_at_us = ?, attempts = ?, reason = ?, parked_at_us = ?
WHERE tenant = ? AND subject = ? AND model = ?;

-- name: unpark
UPDATE work SET due_at_us = 0, attempts = 0, reason = '', parked_at_us = 0
WHERE tenant = ? AND subject = ? AND model = ? AND parked_at_us > 0;

-- name: parked_count
SELECT count(*) FROM work INDEXED BY work_parked WHERE parked_at_us > 0;

-- name: parked
SELECT w.tenant, w.subject, w.model, s.items_position - coalesce((SELECT max(v.position) FROM vectors v
    WHERE v.tenant = s.tenant AND v.subject = s.subject AND v.model = w.model), 0), w.since_us, w.parked_at_us, w.reason
FROM work w INDEXED BY work_parked JOIN scopes s ON s.tenant = w.tenant AND s.subject = w.subject
WHERE w.parked_at_us > 0 AND (w.tenant, w.subject, w.model) > (?, ?, ?)
ORDER BY w.tenant, w.subject, w.model LIMIT ?;

-- name: lag
WITH orders AS (
    SELECT w.since_us, w.parked_at_us > 0 AS parked, s.items_position - coalesce((SELECT max(v.position) FROM vectors v
        WHERE v.tenant = s.tenant AND v.subject = s.subject AND v.model = w.model), 0) AS behind
    FROM work w INDEXED BY work_by_age JOIN scopes s ON s.tenant = w.tenant AND s.subject = w.subject
    WHERE w.model = ?
)
SELECT coalesce(sum(behind) FILTER (WHERE NOT parked), 0), min(since_us) FILTER (WHERE behind > 0 AND NOT parked),
    coalesce(sum(parked), 0)
FROM orders;

-- name: lag_of_unknown_model
SELECT coalesce(sum(s.items_position), 0), min((SELECT e.committed_at_us FROM items i
    CROSS JOIN events e ON e.tenant = i.tenant AND e.session = i.session AND e.version = i.version
    WHERE i.tenant = s.tenant AND i.subject = s.subject ORDER BY i.position LIMIT 1)), 0
FROM scopes s WHERE s.items_position > 0 AND s.erased = 0;

-- retention ------------------------------------------------------------------------------------------------------

-- name: expired
SELECT tenant, session FROM sessions INDEXED BY sessions_by_expiry
WHERE keep_us > 0 AND updated_at_us + keep_us <= ? AND erased = 0
ORDER BY updated_at_us + keep_us, tenant, session LIMIT ?;

-- name: erased_sessions
SELECT tenant, session FROM sessions INDEXED BY sessions_erased WHERE erased = 1 ORDER BY tenant, session LIMIT ?;

-- name: keep
SELECT keep_us FROM sessions WHERE tenant = ? AND session = ?;

-- name: due_subject
SELECT subject FROM sessions WHERE tenant = ? AND session = ? AND swept_at_us = 0
    AND (erased > 0 OR keep_us > 0 AND updated_at_us + keep_us <= ?);

-- name: events_with_items
SELECT version, position_end - items_count, position_end FROM events
WHERE tenant = ? AND session = ? AND items_count > 0 ORDER BY version;

-- name: empty_item
-- It may not be there, amid a rebuild. Token counts stay: they are no content, and every item has some.
INSERT INTO items (tenant, subject, position, session, version, entry, chunk, role, speaker, spoken_at_us, text, terms,
    tokens, gone)
VALUES (?, ?, ?, ?, ?, 0, 0, 0, '', 0, '', x'', '{}', 1)
ON CONFLICT DO UPDATE SET role = 0, speaker = '', spoken_at_us = 0, text = '', terms = x'', gone = 1 WHERE NOT gone;

-- name: raise_epoch
UPDATE scopes SET epoch = epoch + 1, items_position = ? WHERE tenant = ? AND subject = ?;

-- name: drop_events_of_session
DELETE FROM events WHERE tenant = ? AND session = ?;

-- name: drop_tool_calls_of_session
DELETE FROM tool_calls WHERE tenant = ? AND session = ?;

-- name: drop_checkpoints_of_session
DELETE FROM checkpoints WHERE tenant = ? AND session = ?;

-- name: mark_swept
UPDATE sessions SET swept_at_us = ?, ended = 1 WHERE tenant = ? AND session = ?;

-- name: mark_forgotten
UPDATE sessions SET keep_us = 0, erased = CASE erased WHEN 1 THEN 2 ELSE erased END
WHERE tenant = ? AND session = ? AND swept_at_us > 0;

-- erasure --------------------------------------------------------------------------------------------------------

-- name: erasure
SELECT tenant, subject, session, asked_at_us, done_at_us, logs, events, items, events_redacted, keys, records
FROM erasures WHERE tenant = ? AND subject = ? AND session = ?;

-- name: erasures_at_work
SELECT tenant, subject, session, asked_at_us, done_at_us, logs, events, items, events_redacted, keys, records
FROM erasures INDEXED BY erasures_at_work WHERE done_at_us = 0
ORDER BY asked_at_us, tenant, subject, session LIMIT ?;

-- name: put_erasure
-- What was erased before, and was begun anew since, is erased anew.
INSERT INTO erasures (tenant, subject, session, asked_at_us, keys, records) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET asked_at_us = excluded.asked_at_us, done_at_us = 0, logs = 0, events = 0, items = 0,
    events_redacted = 0, keys = excluded.keys, records = excluded.records;

-- name: count_removed
-- For the session's own erasure, and its subject's.
UPDATE erasures SET logs = logs + 1, events = events + ?, items = items + ?
WHERE tenant = ? AND subject = ? AND session IN ('', ?) AND done_at_us = 0;

-- name: count_redacted
UPDATE erasures SET events_redacted = events_redacted + 1, items = items + ?
WHERE tenant = ? AND subject = ? AND session = ? AND done_at_us = 0;

-- name: finish_erasure
UPDATE erasures SET done_at_us = ? WHERE tenant = ? AND subject = ? AND session = ? AND done_at_us = 0;

-- name: mark_erased_session
UPDATE sessions SET erased = 1, ended = 1 WHERE tenant = ? AND session = ? AND erased = 0;

-- name: keep_erased_session
-- An id that was never used: there is nothing to remove, and nobody will use it.
INSERT INTO sessions (tenant, session, subject, version, event_hash, ended, weight_bytes, position_end, created_at_us,
    updated_at_us, swept_at_us, erased)
VALUES (?, ?, ?, 0, zeroblob(32), 1, 0, 0, ?4, ?4, ?4, 2);

-- name: mark_erased_sessions
UPDATE sessions SET erased = 1, ended = 1 WHERE tenant = ? AND subject = ? AND erased = 0;

-- name: mark_erased_scope
-- Its new epoch tells those who hold its items.
INSERT INTO scopes (tenant, subject, position, items_position, erased) VALUES (?, ?, 0, 0, 1)
ON CONFLICT DO UPDATE SET erased = 1, epoch = epoch + 1;

-- name: drop_keys_of_subject
DELETE FROM keys WHERE tenant = ? AND subject = ?;

-- name: drop_work_of_subject
DELETE FROM work WHERE tenant = ? AND subject = ?;

-- name: reopen_scope
UPDATE scopes SET erased = 0 WHERE tenant = ? AND subject = ?;

-- name: drop_erased_heads
-- But those of sessions that were erased by themselves.
DELETE FROM sessions WHERE tenant = ? AND subject = ? AND erased = 2 AND NOT EXISTS (
    SELECT 1 FROM erasures e WHERE e.tenant = sessions.tenant AND e.subject = sessions.subject
    AND e.session = sessions.session);

-- name: listed
SELECT 1 FROM sessions WHERE tenant = ? AND session = ? AND (keep_us > 0 OR erased = 1);

-- name: drop_head
DELETE FROM sessions WHERE tenant = ? AND session = ?;

-- name: redactable
SELECT s.subject, e.body, e.body_hash, e.redacted, e.position_end - e.items_count, e.position_end
FROM events e JOIN sessions s ON s.tenant = e.tenant AND s.session = e.session
WHERE e.tenant = ? AND e.session = ? AND e.version = ?;

-- name: redact
UPDATE events SET body = ?, body_hash = ?, redacted = ? WHERE tenant = ? AND session = ? AND version = ?;

-- name: empty_items_of_entry
UPDATE items SET role = 0, speaker = '', spoken_at_us = 0, text = '', terms = x'', gone = 1
WHERE tenant = ? AND subject = ? AND position > ? AND position <= ? AND entry = ? AND NOT gone;

-- name: drop_checkpoints_from
DELETE FROM checkpoints WHERE tenant = ? AND session = ? AND version >= ?;

-- name: next_epoch
UPDATE scopes SET epoch = epoch + 1 WHERE tenant = ? AND subject = ?;

-- name: figures
-- Rows by what the heads say, exactly: there are far fewer heads than events.
SELECT s.sessions, s.events, i.items, s.log_bytes, s.expires_at_us FROM (
    SELECT count(*) AS sessions, coalesce(sum(version), 0) AS events, coalesce(sum(weight_bytes), 0) AS log_bytes,
        min(CASE WHEN keep_us > 0 THEN updated_at_us + keep_us END) AS expires_at_us
    FROM sessions WHERE swept_at_us = 0 AND erased = 0
) s, (SELECT coalesce(sum(items_position), 0) AS items FROM scopes) i;

-- state ----------------------------------------------------------------------------------------------------------
-- What has expired is there for nobody.

-- name: state_record
SELECT collection, key, value, revision, updated_at_us, expires_at_us FROM state
WHERE tenant = ? AND subject = ? AND collection = ? AND key = ? AND (expires_at_us = 0 OR expires_at_us > ?);

-- name: state_up
SELECT collection, key, CASE WHEN ? THEN x'' ELSE value END, revision, updated_at_us, expires_at_us FROM state
WHERE tenant = ? AND subject = ? AND collection = ? AND key >= ? AND key < ? AND (expires_at_us = 0 OR expires_at_us > ?)
ORDER BY key LIMIT ?;

-- name: state_down
SELECT collection, key, CASE WHEN ? THEN x'' ELSE value END, revision, updated_at_us, expires_at_us FROM state
WHERE tenant = ? AND subject = ? AND collection = ? AND key >= ? AND key < ? AND (expires_at_us = 0 OR expires_at_us > ?)
ORDER BY key DESC LIMIT ?;

-- name: state_all
SELECT collection, key, value, revision, updated_at_us, expires_at_us FROM state
WHERE tenant = ? AND subject = ? AND (collection, key) > (?, ?) AND (expires_at_us = 0 OR expires_at_us > ?)
ORDER BY collection, key LIMIT ?;

-- name: state_counters
SELECT erased, state_revision, state_records FROM scopes WHERE tenant = ? AND subject = ?;

-- name: state_stands
-- What stands under a key: its revision, and when it expires.
SELECT revision, expires_at_us FROM state WHERE tenant = ? AND subject = ? AND collection = ? AND key = ?;

-- name: put_state
INSERT INTO state (tenant, subject, collection, key, revision, updated_at_us, expires_at_us, value)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET revision = excluded.revision, updated_at_us = excluded.updated_at_us,
    expires_at_us = excluded.expires_at_us, value = excluded.value;

-- name: drop_state
DELETE FROM state WHERE tenant = ? AND subject = ? AND collection = ? AND key = ?;

-- name: count_state
INSERT INTO scopes (tenant, subject, position, items_position, state_revision, state_records) VALUES (?, ?, 0, 0, ?, ?)
ON CONFLICT DO UPDATE SET state_revision = excluded.state_revision, state_records = excluded.state_records;

-- name: state_keys
SELECT key, expires_at_us FROM state WHERE tenant = ? AND subject = ? AND collection = ? AND key >= ? AND key < ?
ORDER BY key LIMIT ?;

-- name: expired_state
SELECT tenant, subject, collection, key FROM state INDEXED BY state_by_expiry
WHERE expires_at_us > 0 AND expires_at_us <= ? ORDER BY expires_at_us LIMIT ?;

-- name: fewer_state
UPDATE scopes SET state_records = state_records - ? WHERE tenant = ? AND subject = ?;

-- keys -----------------------------------------------------------------------------------------------------------

-- name: key_of_subject
SELECT subject, key_id, wrapped, wrapping FROM keys WHERE tenant = ? AND subject = ?;

-- name: key
SELECT subject, key_id, wrapped, wrapping FROM keys WHERE tenant = ? AND key_id = ?;

-- name: put_key
INSERT INTO keys (tenant, subject, key_id, wrapped, wrapping) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, subject) DO NOTHING;

-- name: rewrap
UPDATE keys SET wrapped = ?, wrapping = ? WHERE tenant = ? AND subject = ? AND key_id = ? AND wrapped = ? AND wrapping = ?;

-- name: keys_of_all
SELECT subject, key_id, wrapped, wrapping, tenant FROM keys WHERE (tenant, key_id) > (?, ?)
ORDER BY tenant, key_id LIMIT ?;

-- writes of the control plane and of rebuild -----------------------------------------------------------------------

-- name: put_checkpoint
INSERT INTO checkpoints (tenant, session, tokenizer, version, weight_bytes, body)
SELECT tenant, session, ?, ?, ?, ? FROM sessions WHERE tenant = ? AND session = ? AND swept_at_us = 0 AND erased = 0
ON CONFLICT DO NOTHING;

-- name: put_policy
INSERT INTO policies (tenant, name, version, document, digest, published_at_us) VALUES (?, ?, ?, ?, ?, ?);

-- name: put_route
INSERT INTO routes (tenant, name, policy_name, policy_version) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, name) DO UPDATE SET policy_name = excluded.policy_name, policy_version = excluded.policy_version;

-- name: drop_items
DELETE FROM items WHERE NOT gone;

-- name: drop_vectors
DELETE FROM vectors;

-- name: drop_checkpoints
DELETE FROM checkpoints;

-- name: drop_work
DELETE FROM work;

-- name: forget_items_positions
UPDATE scopes SET items_position = 0;

-- name: scopes_that_begin_gone
SELECT s.tenant, s.subject FROM scopes s
JOIN items i ON i.tenant = s.tenant AND i.subject = s.subject AND i.position = 1 WHERE i.gone;

-- name: items_of_event
SELECT items_count, redacted FROM events WHERE tenant = ? AND session = ? AND version = ?;

-- name: end_of_run
WITH RECURSIVE run (position) AS (
    SELECT ?3 UNION ALL SELECT run.position + 1 FROM run
    WHERE EXISTS (SELECT 1 FROM items i WHERE i.tenant = ?1 AND i.subject = ?2 AND i.position = run.position + 1)
) SELECT max(position) FROM run;
