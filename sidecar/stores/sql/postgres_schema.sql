-- The PostgreSQL record store's schema, as numbered parts, with the meaning that they have in sqlite_schema.sql: a part is
-- never edited once released. An expansion is what the release before does not notice; a release refuses a database whose
-- last migration is beyond its own. Each part runs in a transaction under one advisory lock, and is noted in `migrations`.
--
-- Every key of a tenant's table leads with the tenant, so that the tables can be distributed by it (Citus). The large ones
-- are partitioned by its hash: sixteen partitions keep vacuum and indexes of each a sixteenth, and cost little to plan,
-- since a statement that names its tenant sees one. Row-level security is enabled and forced: a transaction sees the rows
-- of the tenant in `standpipe.tenant`, and one that says `standpipe.worker` those of all, in the tables that the embedding
-- worker and rebuild need. Both are set for the transaction alone, so that a pooler may share connections. Partitions
-- have no policies of their own: whoever goes past the parent sees nothing.
--
-- deployment, models, grants and migrations belong to the deployment and hold nothing of a tenant: they have no row-level
-- security, and are reference tables where tables are distributed.
--
-- Texts compare by code points, as in SQLite (P6). An item's text and speaker are the bytes of their UTF-8, because
-- PostgreSQL's text cannot hold U+0000. A vector's bytes are what was put, bit for bit; `components` are its int8 components
-- as a pgvector, for exact search in the database. All integers up to 2048 are exact in half precision, and cosine does not
-- see the scale that they lack.
--
-- The functions make one round trip of what needs several statements. They run with the caller's rights, all but one (see
-- expansion 6), and their plans stay in a connection without a named statement, which a pooler would lose. Those that read partitioned tables keep one
-- plan for all tenants: left to itself, PostgreSQL plans anew for each call, and an append takes three times as long.

-- migration: 1
DO $$
BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION USING ERRCODE = 'SP001', MESSAGE = 'the encoding is not UTF8';
    END IF;
    IF current_setting('server_version_num')::integer < 160000 THEN
        RAISE EXCEPTION USING ERRCODE = 'SP002', MESSAGE = 'the server is older than 16';
    END IF;
END $$;

CREATE EXTENSION IF NOT EXISTS vector;

-- The extension may stand in any schema: a domain gives its type a name that does not depend on the search path.
DO $$
BEGIN
    EXECUTE format('CREATE DOMAIN standpipe.components AS %s.halfvec',
        (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'vector'));
END $$;

CREATE TABLE standpipe.deployment (
    "only" integer PRIMARY KEY CHECK ("only" = 1),
    signing_key bytea NOT NULL CHECK (octet_length(signing_key) = 32),
    last_grant bigint NOT NULL DEFAULT 0
);

-- Who is trusted for which slots of a hot store that processes share (sidecar/stores/grants.py).
CREATE TABLE standpipe.grants (
    slot_from bigint PRIMARY KEY,
    slot_to bigint NOT NULL,
    grant_id bigint NOT NULL,
    incarnation text NOT NULL,
    usable_at_us bigint NOT NULL
);

-- The models that were ever asked for: an append leaves a work order for each.
CREATE TABLE standpipe.models (
    model text COLLATE "C" PRIMARY KEY
);

CREATE TABLE standpipe.sessions (
    tenant text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event_hash bytea NOT NULL,
    ended boolean NOT NULL,
    weight_bytes bigint NOT NULL,
    position_end bigint NOT NULL,
    created_at_us bigint NOT NULL,
    updated_at_us bigint NOT NULL,
    PRIMARY KEY (tenant, session)
);

CREATE INDEX sessions_by_subject ON standpipe.sessions (tenant, subject, session);

-- An event carries its own receipt: the request id and digest, and all that the answer to its commit held.
CREATE TABLE standpipe.events (
    tenant text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    committed_at_us bigint NOT NULL,
    items_count bigint NOT NULL,
    position_end bigint NOT NULL,
    weight_end_bytes bigint NOT NULL,
    kind integer NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    previous_hash bytea NOT NULL,
    event_hash bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant, session, version),
    UNIQUE (tenant, session, request_id)
) PARTITION BY HASH (tenant);

CREATE TABLE standpipe.tool_calls (
    tenant text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    call_id text COLLATE "C" NOT NULL,
    call_version bigint NOT NULL,
    result_version bigint,
    PRIMARY KEY (tenant, session, call_id)
);

-- `position` is the last that was given out, and never falls. `items_position` is the last up to which all items are
-- there: it differs only between drop_derived and the end of a rebuild.
CREATE TABLE standpipe.scopes (
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    items_position bigint NOT NULL,
    PRIMARY KEY (tenant, subject)
);

CREATE TABLE standpipe.items (
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    session text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    spoken_at_us bigint NOT NULL,
    entry integer NOT NULL,
    chunk integer NOT NULL,
    role integer NOT NULL,
    speaker bytea NOT NULL,
    tokens text NOT NULL,
    terms bytea NOT NULL,
    text bytea NOT NULL,
    PRIMARY KEY (tenant, subject, position)
) PARTITION BY HASH (tenant);

CREATE TABLE standpipe.vectors (
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    vector bytea NOT NULL,
    components standpipe.components,
    PRIMARY KEY (tenant, subject, model, position)
) PARTITION BY HASH (tenant);

-- One coalesced work order of the embedding projection: the subject has items without a vector of the model, the
-- oldest of them committed at `since_us`.
CREATE TABLE standpipe.work (
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    since_us bigint NOT NULL,
    PRIMARY KEY (tenant, subject, model)
);

CREATE INDEX work_by_age ON standpipe.work (model, since_us, tenant, subject);

CREATE TABLE standpipe.checkpoints (
    tenant text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    tokenizer text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    weight_bytes bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant, session, tokenizer, version)
);

CREATE TABLE standpipe.policies (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    published_at_us bigint NOT NULL,
    digest bytea NOT NULL,
    document text NOT NULL,
    PRIMARY KEY (tenant, name, version)
);

CREATE TABLE standpipe.routes (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    policy_name text COLLATE "C" NOT NULL,
    policy_version bigint NOT NULL,
    PRIMARY KEY (tenant, name)
);

DO $$
DECLARE
    name text;
    part text;
    owned CONSTANT text[] := ARRAY['sessions', 'events', 'tool_calls', 'scopes', 'items', 'vectors', 'work',
        'checkpoints', 'policies', 'routes'];
    of_workers CONSTANT text[] := ARRAY['sessions', 'events', 'scopes', 'items', 'vectors', 'work', 'checkpoints'];
BEGIN
    FOREACH name IN ARRAY ARRAY['events', 'items', 'vectors'] LOOP
        FOR number IN 0..15 LOOP
            part := format('standpipe.%I', name || '_' || to_char(number, 'FM00'));
            EXECUTE format('CREATE TABLE %s PARTITION OF standpipe.%I FOR VALUES WITH (MODULUS 16, REMAINDER %s)',
                part, name, number);
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
        END LOOP;
    END LOOP;
    FOREACH name IN ARRAY owned LOOP
        EXECUTE format('ALTER TABLE standpipe.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
        -- A sub-select is evaluated once for a statement, the bare call for each row.
        EXECUTE format('CREATE POLICY of_the_tenant ON standpipe.%I
            USING (tenant = (SELECT current_setting(''standpipe.tenant'', true)))', name);
    END LOOP;
    FOREACH name IN ARRAY of_workers LOOP
        EXECUTE format('CREATE POLICY of_workers ON standpipe.%I
            USING ((SELECT current_setting(''standpipe.worker'', true)) = ''on'')', name);
    END LOOP;
END $$;

-- The present time in microseconds since 1970.
CREATE FUNCTION standpipe.now_us() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- What sidecar/canonical.py calls event_hash: SHA-256 over fields, each its kind, its length and its bytes.
CREATE FUNCTION standpipe.event_hash(
    previous_hash bytea, tenant text, session text, version bigint, kind integer, request_id text,
    committed_at_us bigint, body bytea
) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT sha256(
        '\x0100000020'::bytea || previous_hash
        || '\x02'::bytea || int4send(octet_length(tenant)) || convert_to(tenant, 'UTF8')
        || '\x02'::bytea || int4send(octet_length(session)) || convert_to(session, 'UTF8')
        || '\x0300000008'::bytea || int8send(version)
        || '\x0300000008'::bytea || int8send(kind)
        || '\x02'::bytea || int4send(octet_length(request_id)) || convert_to(request_id, 'UTF8')
        || '\x0300000008'::bytea || int8send(committed_at_us)
        || '\x0100000020'::bytea || sha256(body))
$$;

-- Write items at the positions after `after_position`, those that are not there, and order their vectors.
CREATE FUNCTION standpipe.put_items(
    new_tenant text, new_subject text, after_position bigint, new_session text, new_version bigint,
    new_committed_at_us bigint, entries integer[], chunks integer[], roles integer[], speakers bytea[],
    spoken_at_us bigint[], texts bytea[], terms bytea[], tokens text[]
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO standpipe.items (tenant, subject, position, session, version, entry, chunk, role, speaker, spoken_at_us,
        text, terms, tokens)
    SELECT new_tenant, new_subject, after_position + i.number, new_session, new_version, i.entry, i.chunk, i.role,
        i.speaker, i.spoken_at_us, i.text, i.terms, i.tokens
    FROM unnest(put_items.entries, put_items.chunks, put_items.roles, put_items.speakers, put_items.spoken_at_us,
        put_items.texts, put_items.terms, put_items.tokens)
        WITH ORDINALITY AS i (entry, chunk, role, speaker, spoken_at_us, text, terms, tokens, number)
    ON CONFLICT DO NOTHING;
    INSERT INTO standpipe.work (tenant, subject, model, since_us)
    SELECT new_tenant, new_subject, m.model, new_committed_at_us FROM standpipe.models m
    ON CONFLICT (tenant, subject, model) DO UPDATE SET since_us = excluded.since_us
    WHERE excluded.since_us < work.since_us;
END $$;

-- Append one event (R1 to R10). Locks the session, then its subject's counters, and nothing else that another append
-- waits for, so appends cannot deadlock. All checks come before the first write: a refusal is an outcome, not an error,
-- and has written nothing. `number` says which call, result or citation was refused, from 1.
CREATE FUNCTION standpipe.append(
    new_tenant text, new_session text, new_subject text, new_request_id text, new_digest bytea,
    expected_version bigint, must_exist boolean, new_kind integer, new_body bytea, new_weight_bytes bigint,
    opened_calls text[], answered_calls text[], cited_sessions text[], cited_versions bigint[],
    entries integer[], chunks integer[], roles integer[], speakers bytea[], spoken_at_us bigint[],
    texts bytea[], terms bytea[], tokens text[],
    OUT outcome text, OUT at_version bigint, OUT new_hash bytea, OUT of_subject text, OUT last_position bigint,
    OUT last_weight_bytes bigint, OUT at_us bigint, OUT number bigint, OUT winner text
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    head standpipe.sessions;
    there boolean;
    receipt record;
    count CONSTANT bigint := cardinality(append.entries);
BEGIN
    LOOP
        SELECT * INTO head FROM standpipe.sessions WHERE tenant = new_tenant AND session = new_session FOR UPDATE;
        there := FOUND;
        IF there THEN
            SELECT version, digest, event_hash, position_end, weight_end_bytes, committed_at_us INTO receipt
            FROM standpipe.events WHERE tenant = new_tenant AND session = new_session AND request_id = new_request_id;
            IF FOUND THEN
                at_version := receipt.version;
                new_hash := receipt.event_hash;
                of_subject := head.subject;
                last_position := receipt.position_end;
                last_weight_bytes := receipt.weight_end_bytes;
                at_us := receipt.committed_at_us;
                outcome := CASE WHEN receipt.digest = new_digest THEN 'replayed' ELSE 'reused' END;
                RETURN;
            END IF;
        ELSIF must_exist THEN
            outcome := 'unknown';
            RETURN;
        END IF;
        at_version := coalesce(head.version, 0);
        IF expected_version > at_version THEN
            outcome := 'future';
            RETURN;
        ELSIF expected_version < at_version THEN
            SELECT request_id INTO winner FROM standpipe.events
            WHERE tenant = new_tenant AND session = new_session AND version = expected_version + 1;
            outcome := 'conflict';
            RETURN;
        ELSIF NOT there AND new_subject = '' THEN
            outcome := 'nameless';
            RETURN;
        ELSIF head.ended THEN
            outcome := 'ended';
            RETURN;
        ELSIF new_subject NOT IN ('', head.subject) THEN
            outcome := 'mismatch';
            RETURN;
        END IF;
        IF cardinality(opened_calls) > 0 THEN
            SELECT min(o.number) INTO number FROM unnest(opened_calls) WITH ORDINALITY AS o (call_id, number)
            WHERE o.number > array_position(opened_calls, o.call_id) OR EXISTS (
                SELECT 1 FROM standpipe.tool_calls t
                WHERE t.tenant = new_tenant AND t.session = new_session AND t.call_id = o.call_id);
            IF number IS NOT NULL THEN
                outcome := 'call';
                RETURN;
            END IF;
        END IF;
        IF cardinality(answered_calls) > 0 THEN
            SELECT min(a.number) INTO number FROM unnest(answered_calls) WITH ORDINALITY AS a (call_id, number)
            WHERE a.number > array_position(answered_calls, a.call_id) OR (a.call_id <> ALL (opened_calls)
                AND NOT EXISTS (
                    SELECT 1 FROM standpipe.tool_calls t WHERE t.tenant = new_tenant AND t.session = new_session
                    AND t.call_id = a.call_id AND t.result_version IS NULL));
            IF number IS NOT NULL THEN
                outcome := 'result';
                RETURN;
            END IF;
        END IF;
        IF cardinality(cited_sessions) > 0 THEN
            SELECT min(c.number) INTO number
            FROM unnest(cited_sessions, cited_versions) WITH ORDINALITY AS c (session, version, number)
            WHERE NOT EXISTS (
                SELECT 1 FROM standpipe.events e
                WHERE e.tenant = new_tenant AND e.session = c.session AND e.version = c.version);
            IF number IS NOT NULL THEN
                outcome := 'citation';
                RETURN;
            END IF;
        END IF;
        EXIT WHEN there;
        INSERT INTO standpipe.sessions (tenant, session, subject, version, event_hash, ended, weight_bytes, position_end,
            created_at_us, updated_at_us)
        VALUES (new_tenant, new_session, new_subject, 0, decode(repeat('00', 32), 'hex'), false, 0, 0, 0, 0)
        ON CONFLICT DO NOTHING RETURNING * INTO head;
        EXIT WHEN FOUND;  -- else another has just made it: look again
    END LOOP;

    IF count > 0 THEN
        -- While a rebuild has not yet caught up, readers see nothing behind the gap (R6).
        INSERT INTO standpipe.scopes AS s (tenant, subject, position, items_position)
        VALUES (new_tenant, head.subject, count, count)
        ON CONFLICT (tenant, subject) DO UPDATE SET position = s.position + count,
            items_position = s.items_position + CASE WHEN s.items_position = s.position THEN count ELSE 0 END
        RETURNING position INTO last_position;
    ELSE
        SELECT position INTO last_position FROM standpipe.scopes WHERE tenant = new_tenant AND subject = head.subject;
        last_position := coalesce(last_position, 0);
    END IF;
    at_version := head.version + 1;
    of_subject := head.subject;
    last_weight_bytes := head.weight_bytes + new_weight_bytes;
    -- A clock that is set back must not let a session's time run backwards.
    at_us := greatest(standpipe.now_us(), head.updated_at_us);
    new_hash := standpipe.event_hash(
        head.event_hash, new_tenant, new_session, at_version, new_kind, new_request_id, at_us, new_body);
    IF count > 0 THEN
        PERFORM standpipe.put_items(new_tenant, head.subject, last_position - count, new_session, at_version, at_us,
            append.entries, append.chunks, append.roles, append.speakers, append.spoken_at_us, append.texts, append.terms,
            append.tokens);
    END IF;
    INSERT INTO standpipe.events (tenant, session, version, kind, request_id, digest, committed_at_us, items_count,
        position_end, weight_end_bytes, previous_hash, event_hash, body)
    VALUES (new_tenant, new_session, at_version, new_kind, new_request_id, new_digest, at_us, count, last_position,
        last_weight_bytes, head.event_hash, new_hash, new_body);
    UPDATE standpipe.sessions SET version = at_version, event_hash = new_hash, ended = (new_kind = 2),
        weight_bytes = last_weight_bytes, position_end = last_position,
        created_at_us = CASE WHEN head.version = 0 THEN at_us ELSE head.created_at_us END, updated_at_us = at_us
    WHERE tenant = new_tenant AND session = new_session;
    IF cardinality(opened_calls) > 0 THEN
        INSERT INTO standpipe.tool_calls (tenant, session, call_id, call_version, result_version)
        SELECT new_tenant, new_session, call_id, at_version,
            CASE WHEN call_id = ANY (answered_calls) THEN at_version END
        FROM unnest(opened_calls) AS o (call_id);
    END IF;
    IF cardinality(answered_calls) > 0 THEN
        UPDATE standpipe.tool_calls SET result_version = at_version
        WHERE tenant = new_tenant AND session = new_session AND call_id = ANY (answered_calls)
            AND result_version IS NULL;
    END IF;
    outcome := 'appended';
END $$;

-- The end of a session's log (SessionRead): a first row of kind 0 with the version that the events follow, and the
-- checkpoint of that version if it is one's; then the events.
CREATE FUNCTION standpipe.session_end(
    of_tenant text, of_session text, of_tokenizer text, known_version bigint, asked_version bigint, window_bytes bigint
) RETURNS TABLE (
    session text, version bigint, kind integer, request_id text, committed_at_us bigint, body bytea, previous_hash bytea,
    event_hash bytea, weight_end_bytes bigint, position_end bigint
) LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    end_version bigint;
    end_bytes bigint;
    after bigint := known_version;
    fold record;
BEGIN
    SELECT s.version, s.weight_bytes INTO end_version, end_bytes FROM standpipe.sessions s
    WHERE s.tenant = of_tenant AND s.session = of_session;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF asked_version < end_version THEN
        end_version := greatest(asked_version, 0);
        SELECT e.weight_end_bytes INTO end_bytes FROM standpipe.events e
        WHERE e.tenant = of_tenant AND e.session = of_session AND e.version = end_version;
    END IF;
    IF known_version = end_version OR (0 < known_version AND known_version < end_version AND end_bytes - window_bytes <= (
        SELECT e.weight_end_bytes FROM standpipe.events e
        WHERE e.tenant = of_tenant AND e.session = of_session AND e.version = known_version
    )) THEN
        RETURN QUERY SELECT of_session, known_version, 0, NULL, NULL::bigint, NULL::bytea, NULL::bytea, NULL::bytea,
            NULL::bigint, end_version;
    ELSE
        SELECT c.version, c.weight_bytes, c.body INTO fold FROM standpipe.checkpoints c
        WHERE c.tenant = of_tenant AND c.session = of_session AND c.tokenizer = of_tokenizer
            AND c.version <= end_version AND c.weight_bytes <= end_bytes - window_bytes
        ORDER BY c.version DESC LIMIT 1;
        after := coalesce(fold.version, 0);
        RETURN QUERY SELECT of_session, after, 0, of_tokenizer, NULL::bigint, fold.body, NULL::bytea, NULL::bytea,
            fold.weight_bytes, end_version;
    END IF;
    IF after < end_version THEN
        RETURN QUERY SELECT e.session, e.version, e.kind, e.request_id, e.committed_at_us, e.body, e.previous_hash,
            e.event_hash, e.weight_end_bytes, e.position_end
        FROM standpipe.events e
        WHERE e.tenant = of_tenant AND e.session = of_session AND e.version > after AND e.version <= end_version
        ORDER BY e.version;
    END IF;
END $$;

-- Note that a model is in use (R14). The lock waits for every append that has not seen the model, and the order for all
-- items comes after: an append has either ordered its work itself, or is seen here. Needs `standpipe.worker`.
CREATE FUNCTION standpipe.know_model(new_model text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE standpipe.models IN ACCESS EXCLUSIVE MODE;
    INSERT INTO standpipe.models (model) VALUES (new_model) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        INSERT INTO standpipe.work (tenant, subject, model, since_us)
        SELECT s.tenant, s.subject, new_model, e.committed_at_us FROM standpipe.scopes s
        JOIN standpipe.items i ON i.tenant = s.tenant AND i.subject = s.subject AND i.position = 1
        JOIN standpipe.events e ON e.tenant = s.tenant AND e.session = i.session AND e.version = i.version
        WHERE s.items_position > 0 ON CONFLICT DO NOTHING;
    END IF;
END $$;

-- Put vectors right behind the last (R13); false if that is not where they would go. The scope's lock orders them with
-- each other and with appends.
CREATE FUNCTION standpipe.put_vectors(
    of_tenant text, of_subject text, of_model text, after_position bigint, new_vectors bytea[], new_components text[]
) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    item_last bigint;
    vector_last bigint;
    new_last CONSTANT bigint := after_position + cardinality(new_vectors);
BEGIN
    SELECT items_position INTO item_last FROM standpipe.scopes
    WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    SELECT coalesce(max(position), 0) INTO vector_last FROM standpipe.vectors
    WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    IF vector_last <> after_position OR new_last > coalesce(item_last, 0) THEN
        RETURN false;
    END IF;
    INSERT INTO standpipe.vectors (tenant, subject, model, position, vector, components)
    SELECT of_tenant, of_subject, of_model, after_position + v.number, v.vector, v.components::standpipe.components
    FROM unnest(new_vectors, new_components) WITH ORDINALITY AS v (vector, components, number);
    IF new_last = item_last THEN
        DELETE FROM standpipe.work WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    ELSE
        UPDATE standpipe.work SET since_us = (SELECT e.committed_at_us FROM standpipe.items i
            JOIN standpipe.events e ON e.tenant = of_tenant AND e.session = i.session AND e.version = i.version
            WHERE i.tenant = of_tenant AND i.subject = of_subject AND i.position = new_last + 1)
        WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    END IF;
    RETURN true;
END $$;

-- Publish a policy version (R16): the latest one's digest again gives the latest.
CREATE FUNCTION standpipe.publish_policy(
    of_tenant text, of_name text, new_document text, new_digest bytea,
    OUT at_version bigint, OUT at_document text, OUT at_us bigint, OUT published boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    latest standpipe.policies;
BEGIN
    LOOP
        SELECT * INTO latest FROM standpipe.policies WHERE tenant = of_tenant AND name = of_name
        ORDER BY version DESC LIMIT 1;
        published := latest.digest IS DISTINCT FROM new_digest;
        IF NOT published THEN
            at_version := latest.version;
            at_document := latest.document;
            at_us := latest.published_at_us;
            RETURN;
        END IF;
        at_version := coalesce(latest.version, 0) + 1;
        at_document := new_document;
        at_us := standpipe.now_us();
        INSERT INTO standpipe.policies (tenant, name, version, document, digest, published_at_us)
        VALUES (of_tenant, of_name, at_version, new_document, new_digest, at_us) ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;  -- else another was published meanwhile: look again
    END LOOP;
END $$;

-- Point a route at a policy version; false if there is no such version (R16).
CREATE FUNCTION standpipe.set_route(of_tenant text, of_name text, to_policy text, to_version bigint)
RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    IF NOT (to_policy = 'default' AND to_version = 0) AND NOT EXISTS (
        SELECT 1 FROM standpipe.policies WHERE tenant = of_tenant AND name = to_policy AND version = to_version
    ) THEN
        RETURN false;
    END IF;
    INSERT INTO standpipe.routes (tenant, name, policy_name, policy_version)
    VALUES (of_tenant, of_name, to_policy, to_version)
    ON CONFLICT (tenant, name) DO UPDATE SET policy_name = excluded.policy_name,
        policy_version = excluded.policy_version;
    RETURN true;
END $$;

-- Put the items of one event back (R15); false if the event had another number of them.
CREATE FUNCTION standpipe.restore_items(
    of_tenant text, of_subject text, of_session text, of_version bigint, event_position_end bigint,
    event_committed_at_us bigint, entries integer[], chunks integer[], roles integer[], speakers bytea[],
    spoken_at_us bigint[], texts bytea[], terms bytea[], tokens text[]
) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    item_last bigint;
    count CONSTANT bigint := cardinality(restore_items.entries);
BEGIN
    PERFORM 1 FROM standpipe.events
    WHERE tenant = of_tenant AND session = of_session AND version = of_version AND items_count = count;
    IF NOT FOUND THEN
        -- Another count would move every later position of the subject, and with it what citations point at.
        RETURN false;
    END IF;
    SELECT items_position INTO item_last FROM standpipe.scopes
    WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    IF event_position_end <= coalesce(item_last, 0) THEN
        RETURN true;
    END IF;
    PERFORM standpipe.put_items(of_tenant, of_subject, event_position_end - count, of_session, of_version,
        event_committed_at_us, restore_items.entries, restore_items.chunks, restore_items.roles, restore_items.speakers,
        restore_items.spoken_at_us, restore_items.texts, restore_items.terms, restore_items.tokens);
    IF event_position_end - count = item_last THEN
        WITH RECURSIVE run (position) AS (
            SELECT event_position_end UNION ALL SELECT run.position + 1 FROM run WHERE EXISTS (
                SELECT 1 FROM standpipe.items i
                WHERE i.tenant = of_tenant AND i.subject = of_subject AND i.position = run.position + 1)
        ) SELECT max(position) INTO item_last FROM run;
        UPDATE standpipe.scopes SET items_position = item_last WHERE tenant = of_tenant AND subject = of_subject;
    END IF;
    RETURN true;
END $$;

-- Remove what rebuild makes again (R15). Appends wait meanwhile, reads do not. Needs `standpipe.worker`.
CREATE FUNCTION standpipe.drop_derived() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE standpipe.scopes IN EXCLUSIVE MODE;
    DELETE FROM standpipe.items;
    DELETE FROM standpipe.vectors;
    DELETE FROM standpipe.checkpoints;
    DELETE FROM standpipe.work;
    UPDATE standpipe.scopes SET items_position = 0;
END $$;

-- expansion: 2
-- Who holds an order; from when on it may be handed out: the end of a lease or of a pause; how many claims in a row came
-- to nothing, and why the last did; when it was parked, 0 for never.
ALTER TABLE standpipe.work
    ADD COLUMN worker text NOT NULL DEFAULT '',
    ADD COLUMN due_at_us bigint NOT NULL DEFAULT 0,
    ADD COLUMN attempts bigint NOT NULL DEFAULT 0,
    ADD COLUMN reason text NOT NULL DEFAULT '',
    ADD COLUMN parked_at_us bigint NOT NULL DEFAULT 0;

CREATE INDEX work_parked ON standpipe.work (tenant, subject, model) WHERE parked_at_us > 0;

-- As in migration 1, and what is left of the order is due at once.
CREATE OR REPLACE FUNCTION standpipe.put_vectors(
    of_tenant text, of_subject text, of_model text, after_position bigint, new_vectors bytea[], new_components text[]
) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    item_last bigint;
    vector_last bigint;
    new_last CONSTANT bigint := after_position + cardinality(new_vectors);
BEGIN
    SELECT items_position INTO item_last FROM standpipe.scopes
    WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    SELECT coalesce(max(position), 0) INTO vector_last FROM standpipe.vectors
    WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    IF vector_last <> after_position OR new_last > coalesce(item_last, 0) THEN
        RETURN false;
    END IF;
    INSERT INTO standpipe.vectors (tenant, subject, model, position, vector, components)
    SELECT of_tenant, of_subject, of_model, after_position + v.number, v.vector, v.components::standpipe.components
    FROM unnest(new_vectors, new_components) WITH ORDINALITY AS v (vector, components, number);
    IF new_last = item_last THEN
        DELETE FROM standpipe.work WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    ELSE
        UPDATE standpipe.work SET worker = '', due_at_us = 0, attempts = 0, reason = '', parked_at_us = 0,
            since_us = (SELECT e.committed_at_us FROM standpipe.items i
                JOIN standpipe.events e ON e.tenant = of_tenant AND e.session = i.session AND e.version = i.version
                WHERE i.tenant = of_tenant AND i.subject = of_subject AND i.position = new_last + 1)
        WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    END IF;
    RETURN true;
END $$;

-- Claim the oldest work orders that are due (R14, R21). What another worker is claiming, or an append is just touching,
-- is passed over, so that nobody waits for a claim. Needs `standpipe.worker`.
CREATE FUNCTION standpipe.claim(
    of_model text, new_worker text, lease_us bigint, attempts_max bigint, count_max bigint
) RETURNS TABLE (
    tenant text, subject text, item_last bigint, vector_last bigint, until_us bigint, attempt bigint
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    now_us CONSTANT bigint := standpipe.now_us();
    due record;
    claimed boolean := false;
BEGIN
    until_us := now_us + lease_us;
    FOR due IN
        SELECT w.tenant, w.subject, w.attempts, s.items_position, coalesce((SELECT max(v.position)
            FROM standpipe.vectors v WHERE v.tenant = w.tenant AND v.subject = w.subject AND v.model = w.model), 0)
            AS vectors_position
        FROM standpipe.work w JOIN standpipe.scopes s ON s.tenant = w.tenant AND s.subject = w.subject
        WHERE w.model = of_model AND w.due_at_us <= now_us AND w.parked_at_us = 0
            AND s.items_position > coalesce((SELECT max(v.position) FROM standpipe.vectors v
                WHERE v.tenant = w.tenant AND v.subject = w.subject AND v.model = w.model), 0)
        ORDER BY w.since_us, w.tenant, w.subject LIMIT count_max FOR UPDATE OF w SKIP LOCKED
    LOOP
        IF due.attempts >= attempts_max THEN  -- its last worker is gone
            UPDATE standpipe.work w SET worker = '', due_at_us = 0, reason = '', parked_at_us = now_us
            WHERE w.tenant = due.tenant AND w.subject = due.subject AND w.model = of_model;
            CONTINUE;
        END IF;
        EXIT WHEN due.attempts > 0 AND claimed;
        UPDATE standpipe.work w SET worker = new_worker, due_at_us = now_us + lease_us, attempts = w.attempts + 1,
            reason = ''
        WHERE w.tenant = due.tenant AND w.subject = due.subject AND w.model = of_model;
        claimed := true;
        tenant := due.tenant;
        subject := due.subject;
        item_last := due.items_position;
        vector_last := due.vectors_position;
        attempt := due.attempts + 1;
        RETURN NEXT;
        EXIT WHEN due.attempts > 0;
    END LOOP;
END $$;

-- expansion: 3
-- How long a session's log is kept after its last event, 0 for ever; when it was removed, 0 for never. The time to remove
-- it follows from both, so that an append of the release before puts it off, too. Such a session is also `ended`, which
-- the release before knows. `sessions_by_expiry` is the queue of the sweepers, who serve all tenants.
ALTER TABLE standpipe.sessions
    ADD COLUMN keep_us bigint NOT NULL DEFAULT 0,
    ADD COLUMN swept_at_us bigint NOT NULL DEFAULT 0;

CREATE INDEX sessions_by_expiry ON standpipe.sessions ((updated_at_us + keep_us), tenant, session) WHERE keep_us > 0;

-- An item that is gone is a position of its subject, and part of the truth: the log knows it no more.
ALTER TABLE standpipe.items ADD COLUMN gone boolean NOT NULL DEFAULT false;

-- How often items of the subject have gone.
ALTER TABLE standpipe.scopes ADD COLUMN epoch bigint NOT NULL DEFAULT 0;

-- When the first item from a position on was committed that the log knows: others are gone, and nobody waits for them.
CREATE FUNCTION standpipe.committed_at_us(of_tenant text, of_subject text, from_position bigint)
RETURNS bigint LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (SELECT e.committed_at_us FROM standpipe.items i
        JOIN standpipe.events e ON e.tenant = of_tenant AND e.session = i.session AND e.version = i.version
        WHERE i.tenant = of_tenant AND i.subject = of_subject AND i.position >= from_position AND NOT i.gone
        ORDER BY i.position LIMIT 1);
END $$;

-- The last position up to which all items are there, from one on where that is so.
CREATE FUNCTION standpipe.end_of_run(of_tenant text, of_subject text, from_position bigint)
RETURNS bigint LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (WITH RECURSIVE run (position) AS (
        SELECT from_position UNION ALL SELECT run.position + 1 FROM run WHERE EXISTS (
            SELECT 1 FROM standpipe.items i
            WHERE i.tenant = of_tenant AND i.subject = of_subject AND i.position = run.position + 1)
    ) SELECT max(position) FROM run);
END $$;

-- Make the vectors of items that are gone zero, which is no vector.
CREATE FUNCTION standpipe.empty_vectors(of_tenant text, of_subject text, after_position bigint, last_position bigint)
RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    UPDATE standpipe.vectors v SET vector = decode(repeat('00', octet_length(v.vector)), 'hex'), components = NULL
    FROM standpipe.items i
    WHERE i.tenant = of_tenant AND i.subject = of_subject AND i.position > after_position AND i.position <= last_position
        AND i.gone AND v.tenant = of_tenant AND v.subject = of_subject AND v.position = i.position;
END $$;

-- Append one event as `append` does, and say how long the log is kept (R23, R25). The row is locked by then.
CREATE FUNCTION standpipe.append_kept(
    new_tenant text, new_session text, new_subject text, new_request_id text, new_digest bytea,
    expected_version bigint, must_exist boolean, new_kind integer, new_body bytea, new_weight_bytes bigint,
    opened_calls text[], answered_calls text[], cited_sessions text[], cited_versions bigint[],
    entries integer[], chunks integer[], roles integer[], speakers bytea[], spoken_at_us bigint[],
    texts bytea[], terms bytea[], tokens text[],
    new_keep_us bigint, events_max bigint,
    OUT outcome text, OUT at_version bigint, OUT new_hash bytea, OUT of_subject text, OUT last_position bigint,
    OUT last_weight_bytes bigint, OUT at_us bigint, OUT number bigint, OUT winner text
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    SELECT a.outcome, a.at_version, a.new_hash, a.of_subject, a.last_position, a.last_weight_bytes, a.at_us, a.number,
        a.winner
    INTO outcome, at_version, new_hash, of_subject, last_position, last_weight_bytes, at_us, number, winner
    FROM standpipe.append(new_tenant, new_session, new_subject, new_request_id, new_digest, expected_version, must_exist,
        new_kind, new_body, new_weight_bytes, opened_calls, answered_calls, cited_sessions, cited_versions, entries,
        chunks, roles, speakers, spoken_at_us, texts, terms, tokens) AS a;
    IF outcome = 'replayed' THEN
        RETURN;
    ELSIF outcome <> 'appended' THEN
        PERFORM 1 FROM standpipe.sessions WHERE tenant = new_tenant AND session = new_session AND swept_at_us > 0;
        IF FOUND THEN
            outcome := 'expired';
        END IF;
    ELSIF at_version > events_max AND new_kind = 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'SP003', MESSAGE = 'the session is full';  -- takes the append back
    ELSIF new_keep_us IS NOT NULL THEN
        UPDATE standpipe.sessions SET keep_us = new_keep_us
        WHERE tenant = new_tenant AND session = new_session AND keep_us <> new_keep_us;
    END IF;
END $$;

-- Remove the log of a session whose time has passed (R23, R24). Locks as `append` does: the session, then its subject's
-- counters. The items may not be there, amid a rebuild. Token counts stay: they are no content, and every item has some.
CREATE FUNCTION standpipe.sweep(of_tenant text, of_session text)
RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    of_subject text;
    item_last bigint;
    span record;
    took boolean := false;
BEGIN
    SELECT subject INTO of_subject FROM standpipe.sessions
    WHERE tenant = of_tenant AND session = of_session AND keep_us > 0 AND swept_at_us = 0
        AND updated_at_us + keep_us <= standpipe.now_us() FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT items_position INTO item_last FROM standpipe.scopes
    WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    FOR span IN
        SELECT version, position_end - items_count AS after_position, position_end FROM standpipe.events
        WHERE tenant = of_tenant AND session = of_session AND items_count > 0 ORDER BY version
    LOOP
        INSERT INTO standpipe.items (tenant, subject, position, session, version, entry, chunk, role, speaker,
            spoken_at_us, text, terms, tokens, gone)
        SELECT of_tenant, of_subject, p.position, of_session, span.version, 0, 0, 0, '', 0, '', '', '{}', true
        FROM generate_series(span.after_position + 1, span.position_end) AS p (position)
        ON CONFLICT (tenant, subject, position) DO UPDATE SET role = 0, speaker = '', spoken_at_us = 0, text = '',
            terms = '', gone = true;
        PERFORM standpipe.empty_vectors(of_tenant, of_subject, span.after_position, span.position_end);
        took := true;
    END LOOP;
    IF took THEN
        UPDATE standpipe.scopes SET epoch = epoch + 1,
            items_position = standpipe.end_of_run(of_tenant, of_subject, item_last)
        WHERE tenant = of_tenant AND subject = of_subject;
    END IF;
    DELETE FROM standpipe.events WHERE tenant = of_tenant AND session = of_session;
    DELETE FROM standpipe.tool_calls WHERE tenant = of_tenant AND session = of_session;
    DELETE FROM standpipe.checkpoints WHERE tenant = of_tenant AND session = of_session;
    UPDATE standpipe.sessions SET swept_at_us = standpipe.now_us(), ended = true
    WHERE tenant = of_tenant AND session = of_session;
    RETURN true;
END $$;

-- What follows is as before, but that it lives beside items that are gone.
CREATE OR REPLACE FUNCTION standpipe.know_model(new_model text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE standpipe.models IN ACCESS EXCLUSIVE MODE;
    INSERT INTO standpipe.models (model) VALUES (new_model) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        INSERT INTO standpipe.work (tenant, subject, model, since_us)
        SELECT f.tenant, f.subject, new_model, f.since_us FROM (
            SELECT s.tenant, s.subject, standpipe.committed_at_us(s.tenant, s.subject, 1) AS since_us
            FROM standpipe.scopes s WHERE s.items_position > 0
        ) AS f WHERE f.since_us IS NOT NULL ON CONFLICT DO NOTHING;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION standpipe.put_vectors(
    of_tenant text, of_subject text, of_model text, after_position bigint, new_vectors bytea[], new_components text[]
) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    item_last bigint;
    vector_last bigint;
    of_epoch bigint;
    new_last CONSTANT bigint := after_position + cardinality(new_vectors);
BEGIN
    SELECT items_position, epoch INTO item_last, of_epoch FROM standpipe.scopes
    WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    SELECT coalesce(max(position), 0) INTO vector_last FROM standpipe.vectors
    WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    IF vector_last <> after_position OR new_last > coalesce(item_last, 0) THEN
        RETURN false;
    END IF;
    INSERT INTO standpipe.vectors (tenant, subject, model, position, vector, components)
    SELECT of_tenant, of_subject, of_model, after_position + v.number, v.vector, v.components::standpipe.components
    FROM unnest(new_vectors, new_components) WITH ORDINALITY AS v (vector, components, number);
    IF of_epoch > 0 THEN
        PERFORM standpipe.empty_vectors(of_tenant, of_subject, after_position, new_last);
    END IF;
    IF new_last = item_last THEN
        DELETE FROM standpipe.work WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    ELSE
        UPDATE standpipe.work SET worker = '', due_at_us = 0, attempts = 0, reason = '', parked_at_us = 0,
            since_us = coalesce(standpipe.committed_at_us(of_tenant, of_subject, new_last + 1), since_us)
        WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    END IF;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION standpipe.drop_derived() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE standpipe.scopes IN EXCLUSIVE MODE;
    DELETE FROM standpipe.items WHERE NOT gone;
    DELETE FROM standpipe.vectors;
    DELETE FROM standpipe.checkpoints;
    DELETE FROM standpipe.work;
    UPDATE standpipe.scopes SET items_position = 0;
    UPDATE standpipe.scopes s SET items_position = standpipe.end_of_run(s.tenant, s.subject, 0)
    FROM standpipe.items i WHERE i.tenant = s.tenant AND i.subject = s.subject AND i.position = 1;
END $$;

CREATE OR REPLACE FUNCTION standpipe.restore_items(
    of_tenant text, of_subject text, of_session text, of_version bigint, event_position_end bigint,
    event_committed_at_us bigint, entries integer[], chunks integer[], roles integer[], speakers bytea[],
    spoken_at_us bigint[], texts bytea[], terms bytea[], tokens text[]
) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    item_last bigint;
    count CONSTANT bigint := cardinality(restore_items.entries);
BEGIN
    PERFORM 1 FROM standpipe.events
    WHERE tenant = of_tenant AND session = of_session AND version = of_version AND items_count = count;
    IF NOT FOUND THEN
        PERFORM 1 FROM standpipe.sessions WHERE tenant = of_tenant AND session = of_session AND swept_at_us > 0;
        IF FOUND THEN  -- meanwhile
            RETURN true;
        END IF;
        -- Another count would move every later position of the subject, and with it what citations point at.
        RETURN false;
    END IF;
    SELECT items_position INTO item_last FROM standpipe.scopes
    WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    IF event_position_end <= coalesce(item_last, 0) THEN
        RETURN true;
    END IF;
    PERFORM standpipe.put_items(of_tenant, of_subject, event_position_end - count, of_session, of_version,
        event_committed_at_us, restore_items.entries, restore_items.chunks, restore_items.roles, restore_items.speakers,
        restore_items.spoken_at_us, restore_items.texts, restore_items.terms, restore_items.tokens);
    IF event_position_end - count = item_last THEN
        UPDATE standpipe.scopes SET items_position = standpipe.end_of_run(of_tenant, of_subject, event_position_end)
        WHERE tenant = of_tenant AND subject = of_subject;
    END IF;
    RETURN true;
END $$;

-- expansion: 4
-- The tables are changed in the order in which an append takes them, so that it and this do not wait for each other.
-- Whether a session, or its subject, was erased: when, 0 for never. Such a session is also `ended`, which the releases
-- before know, and has some `keep_us` until it is forgotten.
ALTER TABLE standpipe.sessions ADD COLUMN erased_at_us bigint NOT NULL DEFAULT 0;

-- SHA-256 of the body that the event's hash covers, if another has taken its place; and the entries that were taken out.
ALTER TABLE standpipe.events
    ADD COLUMN body_hash bytea NOT NULL DEFAULT '',
    ADD COLUMN redacted integer[] NOT NULL DEFAULT '{}';

ALTER TABLE standpipe.scopes ADD COLUMN erased_at_us bigint NOT NULL DEFAULT 0;

-- What an item is, and a serialised ItemDetail (sidecar/stores/record.py, ItemKind and NewItem).
ALTER TABLE standpipe.items
    ADD COLUMN kind integer NOT NULL DEFAULT 0,
    ADD COLUMN detail bytea NOT NULL DEFAULT '';

-- Where the changes of a subject's memory stand among its items, and which of them are held back. It is what a partial
-- index of `items` would be: but to make one, commits would have to wait until all items that there are were read, and
-- every append would pay for it, though few change anything.
CREATE TABLE standpipe.changes (
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    held boolean NOT NULL,
    PRIMARY KEY (tenant, subject, position)
);

CREATE INDEX changes_held ON standpipe.changes (tenant, subject) WHERE held;

-- What was erased, in counts; `session` is empty for all of the subject.
CREATE TABLE standpipe.erasures (
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    asked_at_us bigint NOT NULL,
    done_at_us bigint NOT NULL DEFAULT 0,
    logs bigint NOT NULL DEFAULT 0,
    events bigint NOT NULL DEFAULT 0,
    items bigint NOT NULL DEFAULT 0,
    events_redacted bigint NOT NULL DEFAULT 0,
    keys bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, subject, session)
);

CREATE INDEX erasures_at_work ON standpipe.erasures (asked_at_us, tenant, subject, session) WHERE done_at_us = 0;

-- A subject's data key, wrapped.
CREATE TABLE standpipe.keys (
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    key_id bytea NOT NULL,
    wrapped bytea NOT NULL,
    wrapping text NOT NULL,
    PRIMARY KEY (tenant, subject),
    UNIQUE (tenant, key_id)
);

-- Whoever was let in serves on: to the new tables, too.
DO $$
DECLARE
    name text;
    whom record;
BEGIN
    FOREACH name IN ARRAY ARRAY['changes', 'erasures', 'keys'] LOOP
        EXECUTE format('ALTER TABLE standpipe.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_the_tenant ON standpipe.%I
            USING (tenant = (SELECT current_setting(''standpipe.tenant'', true)))', name);
        EXECUTE format('CREATE POLICY of_workers ON standpipe.%I
            USING ((SELECT current_setting(''standpipe.worker'', true)) = ''on'')', name);
        FOR whom IN
            SELECT a.grantee::regrole AS role, a.privilege_type FROM pg_class c, aclexplode(c.relacl) AS a
            WHERE c.oid = 'standpipe.sessions'::regclass AND a.grantee NOT IN (0, c.relowner)
        LOOP
            EXECUTE format('GRANT %s ON standpipe.%I TO %s', whom.privilege_type, name, whom.role);
        END LOOP;
    END LOOP;
END $$;

-- As put_items before, with kinds and details: of items that have none, both arrays are empty.
CREATE FUNCTION standpipe.write_items(
    new_tenant text, new_subject text, after_position bigint, new_session text, new_version bigint,
    new_committed_at_us bigint, entries integer[], chunks integer[], roles integer[], speakers bytea[],
    spoken_at_us bigint[], texts bytea[], terms bytea[], tokens text[], kinds integer[], details bytea[]
) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO standpipe.items (tenant, subject, position, session, version, entry, chunk, role, speaker, spoken_at_us,
        text, terms, tokens, kind, detail)
    SELECT new_tenant, new_subject, after_position + i.number, new_session, new_version, i.entry, i.chunk, i.role,
        i.speaker, i.spoken_at_us, i.text, i.terms, i.tokens, coalesce(i.kind, 0), coalesce(i.detail, '')
    FROM unnest(write_items.entries, write_items.chunks, write_items.roles, write_items.speakers,
        write_items.spoken_at_us, write_items.texts, write_items.terms, write_items.tokens, write_items.kinds,
        write_items.details)
        WITH ORDINALITY AS i (entry, chunk, role, speaker, spoken_at_us, text, terms, tokens, kind, detail, number)
    ON CONFLICT DO NOTHING;
    IF cardinality(kinds) > 0 THEN
        INSERT INTO standpipe.changes (tenant, subject, position, held)
        SELECT new_tenant, new_subject, i.position, i.kind = 3 FROM standpipe.items i
        WHERE i.tenant = new_tenant AND i.subject = new_subject AND i.position > after_position
            AND i.position <= after_position + cardinality(kinds) AND i.kind IN (1, 3) AND NOT i.gone
        ON CONFLICT DO NOTHING;
    END IF;
    INSERT INTO standpipe.work (tenant, subject, model, since_us)
    SELECT new_tenant, new_subject, m.model, new_committed_at_us FROM standpipe.models m
    ON CONFLICT (tenant, subject, model) DO UPDATE SET since_us = excluded.since_us
    WHERE excluded.since_us < work.since_us;
END $$;

-- Append one event (R1 to R10, R23, R25, R29), or put one back that was committed at `restored_at_us` (R30). Locks the
-- session, then its subject's counters, and nothing else that another append waits for, so appends cannot deadlock. All
-- checks but the last two come before the first write: a refusal is an outcome, not an error, and has written nothing.
-- `number` says which call, result or citation was refused, from 1.
CREATE FUNCTION standpipe.append_event(
    new_tenant text, new_session text, new_subject text, new_request_id text, new_digest bytea,
    expected_version bigint, must_exist boolean, new_kind integer, new_body bytea, new_weight_bytes bigint,
    opened_calls text[], answered_calls text[], cited_sessions text[], cited_versions bigint[],
    entries integer[], chunks integer[], roles integer[], speakers bytea[], spoken_at_us bigint[],
    texts bytea[], terms bytea[], tokens text[], kinds integer[], details bytea[],
    new_keep_us bigint, events_max bigint, restored_at_us bigint,
    OUT outcome text, OUT at_version bigint, OUT new_hash bytea, OUT of_subject text, OUT last_position bigint,
    OUT last_weight_bytes bigint, OUT at_us bigint, OUT number bigint, OUT winner text
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    head standpipe.sessions;
    there boolean;
    receipt record;
    subject_erased_at_us bigint;
    count CONSTANT bigint := cardinality(append_event.entries);
BEGIN
    <<checks>>
    LOOP
        SELECT * INTO head FROM standpipe.sessions WHERE tenant = new_tenant AND session = new_session FOR UPDATE;
        there := FOUND;
        IF restored_at_us IS NOT NULL AND head.swept_at_us > 0 AND NOT EXISTS (
            SELECT 1 FROM standpipe.scopes c
            WHERE c.tenant = new_tenant AND c.subject = head.subject AND c.erased_at_us > 0
        ) AND NOT EXISTS (
            SELECT 1 FROM standpipe.erasures e WHERE e.tenant = new_tenant AND e.subject = head.subject
                AND e.session = new_session AND e.done_at_us = 0
        ) THEN
            IF head.keep_us > 0 THEN
                outcome := 'listed';
                RETURN;
            END IF;
            head.subject := coalesce(nullif(new_subject, ''), head.subject);
            head.version := 0;
            head.event_hash := decode(repeat('00', 32), 'hex');
            head.ended := false;
            head.weight_bytes := 0;
            head.updated_at_us := 0;
            head.swept_at_us := 0;
            head.erased_at_us := 0;
        END IF;
        IF there THEN
            SELECT version, digest, event_hash, position_end, weight_end_bytes, committed_at_us INTO receipt
            FROM standpipe.events WHERE tenant = new_tenant AND session = new_session AND request_id = new_request_id;
            IF FOUND THEN
                at_version := receipt.version;
                new_hash := receipt.event_hash;
                of_subject := head.subject;
                last_position := receipt.position_end;
                last_weight_bytes := receipt.weight_end_bytes;
                at_us := receipt.committed_at_us;
                outcome := CASE WHEN receipt.digest = new_digest THEN 'replayed' ELSE 'reused' END;
                EXIT;
            END IF;
        ELSIF must_exist THEN
            outcome := 'unknown';
            EXIT;
        END IF;
        at_version := coalesce(head.version, 0);
        IF expected_version > at_version THEN
            outcome := 'future';
            EXIT;
        ELSIF expected_version < at_version THEN
            SELECT request_id INTO winner FROM standpipe.events
            WHERE tenant = new_tenant AND session = new_session AND version = expected_version + 1;
            outcome := 'conflict';
            EXIT;
        ELSIF NOT there AND new_subject = '' THEN
            outcome := 'nameless';
            EXIT;
        ELSIF head.ended THEN
            outcome := 'ended';
            EXIT;
        ELSIF new_subject NOT IN ('', head.subject) THEN
            outcome := 'mismatch';
            EXIT;
        END IF;
        IF cardinality(opened_calls) > 0 THEN
            SELECT min(o.number) INTO number FROM unnest(opened_calls) WITH ORDINALITY AS o (call_id, number)
            WHERE o.number > array_position(opened_calls, o.call_id) OR EXISTS (
                SELECT 1 FROM standpipe.tool_calls t
                WHERE t.tenant = new_tenant AND t.session = new_session AND t.call_id = o.call_id);
            IF number IS NOT NULL THEN
                outcome := 'call';
                EXIT;
            END IF;
        END IF;
        IF cardinality(answered_calls) > 0 THEN
            SELECT min(a.number) INTO number FROM unnest(answered_calls) WITH ORDINALITY AS a (call_id, number)
            WHERE a.number > array_position(answered_calls, a.call_id) OR (a.call_id <> ALL (opened_calls)
                AND NOT EXISTS (
                    SELECT 1 FROM standpipe.tool_calls t WHERE t.tenant = new_tenant AND t.session = new_session
                    AND t.call_id = a.call_id AND t.result_version IS NULL));
            IF number IS NOT NULL THEN
                outcome := 'result';
                EXIT;
            END IF;
        END IF;
        IF cardinality(cited_sessions) > 0 THEN
            SELECT min(c.number) INTO number
            FROM unnest(cited_sessions, cited_versions) WITH ORDINALITY AS c (session, version, number)
            WHERE NOT EXISTS (
                SELECT 1 FROM standpipe.events e
                WHERE e.tenant = new_tenant AND e.session = c.session AND e.version = c.version
            ) OR EXISTS (
                SELECT 1 FROM standpipe.sessions s JOIN standpipe.scopes o ON o.tenant = s.tenant AND o.subject = s.subject
                WHERE s.tenant = new_tenant AND s.session = c.session AND greatest(s.erased_at_us, o.erased_at_us) > 0);
            IF number IS NOT NULL THEN
                outcome := 'citation';
                EXIT;
            END IF;
        END IF;
        EXIT WHEN there;
        INSERT INTO standpipe.sessions (tenant, session, subject, version, event_hash, ended, weight_bytes, position_end,
            created_at_us, updated_at_us)
        VALUES (new_tenant, new_session, new_subject, 0, decode(repeat('00', 32), 'hex'), false, 0, 0, 0, 0)
        ON CONFLICT DO NOTHING RETURNING * INTO head;
        EXIT WHEN FOUND;  -- else another has just made it: look again
    END LOOP;

    IF outcome IS NOT NULL THEN
        -- What is erased or expired is `ended`, so that it came here, and is refused for that before all else.
        PERFORM 1 FROM standpipe.scopes
        WHERE tenant = new_tenant AND subject = coalesce(head.subject, new_subject) AND erased_at_us > 0;
        IF FOUND THEN
            outcome := 'subject erased';
        ELSIF head.erased_at_us > 0 THEN
            outcome := 'session erased';
        ELSIF head.swept_at_us > 0 THEN
            outcome := 'expired';
        END IF;
        RETURN;
    END IF;

    -- While a rebuild has not yet caught up, readers see nothing behind the gap (R6).
    INSERT INTO standpipe.scopes AS s (tenant, subject, position, items_position)
    VALUES (new_tenant, head.subject, count, count)
    ON CONFLICT (tenant, subject) DO UPDATE SET position = s.position + count,
        items_position = s.items_position + CASE WHEN s.items_position = s.position THEN count ELSE 0 END
    RETURNING s.position, s.erased_at_us INTO last_position, subject_erased_at_us;
    -- These take back what was written so far.
    IF subject_erased_at_us > 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'SP004', MESSAGE = 'the subject is erased';
    ELSIF head.version >= events_max AND new_kind <> 2 THEN
        RAISE EXCEPTION USING ERRCODE = 'SP003', MESSAGE = 'the session is full';
    END IF;
    at_version := head.version + 1;
    of_subject := head.subject;
    last_weight_bytes := head.weight_bytes + new_weight_bytes;
    -- A clock that is set back must not let a session's time run backwards.
    at_us := greatest(coalesce(restored_at_us, standpipe.now_us()), head.updated_at_us);
    new_hash := standpipe.event_hash(
        head.event_hash, new_tenant, new_session, at_version, new_kind, new_request_id, at_us, new_body);
    IF count > 0 THEN
        PERFORM standpipe.write_items(new_tenant, head.subject, last_position - count, new_session, at_version, at_us,
            append_event.entries, append_event.chunks, append_event.roles, append_event.speakers,
            append_event.spoken_at_us, append_event.texts, append_event.terms, append_event.tokens, append_event.kinds,
            append_event.details);
    END IF;
    INSERT INTO standpipe.events (tenant, session, version, kind, request_id, digest, committed_at_us, items_count,
        position_end, weight_end_bytes, previous_hash, event_hash, body)
    VALUES (new_tenant, new_session, at_version, new_kind, new_request_id, new_digest, at_us, count, last_position,
        last_weight_bytes, head.event_hash, new_hash, new_body);
    UPDATE standpipe.sessions SET subject = head.subject, version = at_version, event_hash = new_hash,
        ended = (new_kind = 2), weight_bytes = last_weight_bytes, position_end = last_position,
        created_at_us = CASE WHEN head.version = 0 THEN at_us ELSE head.created_at_us END, updated_at_us = at_us,
        keep_us = coalesce(new_keep_us, head.keep_us), swept_at_us = head.swept_at_us, erased_at_us = head.erased_at_us
    WHERE tenant = new_tenant AND session = new_session;
    IF cardinality(opened_calls) > 0 THEN
        INSERT INTO standpipe.tool_calls (tenant, session, call_id, call_version, result_version)
        SELECT new_tenant, new_session, call_id, at_version,
            CASE WHEN call_id = ANY (answered_calls) THEN at_version END
        FROM unnest(opened_calls) AS o (call_id);
    END IF;
    IF cardinality(answered_calls) > 0 THEN
        UPDATE standpipe.tool_calls SET result_version = at_version
        WHERE tenant = new_tenant AND session = new_session AND call_id = ANY (answered_calls)
            AND result_version IS NULL;
    END IF;
    outcome := 'appended';
END $$;

-- What the releases before call. They know nothing of erasure: to them what was erased has expired, or ended.
CREATE OR REPLACE FUNCTION standpipe.append_kept(
    new_tenant text, new_session text, new_subject text, new_request_id text, new_digest bytea,
    expected_version bigint, must_exist boolean, new_kind integer, new_body bytea, new_weight_bytes bigint,
    opened_calls text[], answered_calls text[], cited_sessions text[], cited_versions bigint[],
    entries integer[], chunks integer[], roles integer[], speakers bytea[], spoken_at_us bigint[],
    texts bytea[], terms bytea[], tokens text[],
    new_keep_us bigint, events_max bigint,
    OUT outcome text, OUT at_version bigint, OUT new_hash bytea, OUT of_subject text, OUT last_position bigint,
    OUT last_weight_bytes bigint, OUT at_us bigint, OUT number bigint, OUT winner text
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    SELECT CASE WHEN a.outcome IN ('subject erased', 'session erased') THEN 'expired' ELSE a.outcome END,
        a.at_version, a.new_hash, a.of_subject, a.last_position, a.last_weight_bytes, a.at_us, a.number, a.winner
    INTO outcome, at_version, new_hash, of_subject, last_position, last_weight_bytes, at_us, number, winner
    FROM standpipe.append_event(new_tenant, new_session, new_subject, new_request_id, new_digest, expected_version,
        must_exist, new_kind, new_body, new_weight_bytes, opened_calls, answered_calls, cited_sessions, cited_versions,
        entries, chunks, roles, speakers, spoken_at_us, texts, terms, tokens, '{}', '{}', new_keep_us, events_max, NULL) AS a;
EXCEPTION WHEN SQLSTATE 'SP004' THEN
    outcome := 'expired';
END $$;

CREATE OR REPLACE FUNCTION standpipe.append(
    new_tenant text, new_session text, new_subject text, new_request_id text, new_digest bytea,
    expected_version bigint, must_exist boolean, new_kind integer, new_body bytea, new_weight_bytes bigint,
    opened_calls text[], answered_calls text[], cited_sessions text[], cited_versions bigint[],
    entries integer[], chunks integer[], roles integer[], speakers bytea[], spoken_at_us bigint[],
    texts bytea[], terms bytea[], tokens text[],
    OUT outcome text, OUT at_version bigint, OUT new_hash bytea, OUT of_subject text, OUT last_position bigint,
    OUT last_weight_bytes bigint, OUT at_us bigint, OUT number bigint, OUT winner text
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    SELECT CASE WHEN a.outcome = 'expired' THEN 'ended' ELSE a.outcome END,
        a.at_version, a.new_hash, a.of_subject, a.last_position, a.last_weight_bytes, a.at_us, a.number, a.winner
    INTO outcome, at_version, new_hash, of_subject, last_position, last_weight_bytes, at_us, number, winner
    FROM standpipe.append_kept(new_tenant, new_session, new_subject, new_request_id, new_digest, expected_version,
        must_exist, new_kind, new_body, new_weight_bytes, opened_calls, answered_calls, cited_sessions, cited_versions,
        entries, chunks, roles, speakers, spoken_at_us, texts, terms, tokens, NULL, 9223372036854775807) AS a;
END $$;

-- Empty items, wherever they are there; and where they are not, keep their positions. Returns how many were not empty.
-- Token counts stay: they are no content, and every item has some.
CREATE FUNCTION standpipe.empty_items(
    of_tenant text, of_subject text, positions bigint[], of_session text, of_version bigint
) RETURNS bigint LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    count bigint;
BEGIN
    INSERT INTO standpipe.items AS i (tenant, subject, position, session, version, entry, chunk, role, speaker,
        spoken_at_us, text, terms, tokens, gone)
    SELECT of_tenant, of_subject, p.position, of_session, of_version, 0, 0, 0, '', 0, '', '', '{}', true
    FROM unnest(positions) AS p (position)
    ON CONFLICT (tenant, subject, position) DO UPDATE SET role = 0, speaker = '', spoken_at_us = 0, text = '',
        terms = '', detail = '', gone = true
    WHERE NOT i.gone;
    GET DIAGNOSTICS count = ROW_COUNT;
    DELETE FROM standpipe.changes
    WHERE tenant = of_tenant AND subject = of_subject AND position = ANY (positions);
    RETURN count;
END $$;

-- As restore_items, with kinds and details; whoever read the event before it was redacted brings back what is gone.
CREATE FUNCTION standpipe.restore_event_items(
    of_tenant text, of_subject text, of_session text, of_version bigint, event_position_end bigint,
    event_committed_at_us bigint, entries integer[], chunks integer[], roles integer[], speakers bytea[],
    spoken_at_us bigint[], texts bytea[], terms bytea[], tokens text[], kinds integer[], details bytea[]
) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    of_scope standpipe.scopes;
    taken_out integer[];
    after_position CONSTANT bigint := event_position_end - cardinality(restore_event_items.entries);
BEGIN
    SELECT * INTO of_scope FROM standpipe.scopes WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    SELECT redacted INTO taken_out FROM standpipe.events
    WHERE tenant = of_tenant AND session = of_session AND version = of_version
        AND items_count = event_position_end - after_position;
    IF NOT FOUND THEN
        -- It was swept meanwhile, or else another count would move every later position of the subject, and with it what
        -- citations point at.
        RETURN EXISTS (
            SELECT 1 FROM standpipe.sessions WHERE tenant = of_tenant AND session = of_session AND swept_at_us > 0);
    ELSIF event_position_end <= coalesce(of_scope.items_position, 0) OR of_scope.erased_at_us > 0 THEN
        RETURN true;
    END IF;
    PERFORM standpipe.write_items(of_tenant, of_subject, after_position, of_session, of_version, event_committed_at_us,
        restore_event_items.entries, restore_event_items.chunks, restore_event_items.roles, restore_event_items.speakers,
        restore_event_items.spoken_at_us, restore_event_items.texts, restore_event_items.terms,
        restore_event_items.tokens, restore_event_items.kinds, restore_event_items.details);
    IF cardinality(taken_out) > 0 THEN
        PERFORM standpipe.empty_items(of_tenant, of_subject, array_agg(after_position + e.number), of_session, of_version)
        FROM unnest(restore_event_items.entries) WITH ORDINALITY AS e (entry, number) WHERE e.entry = ANY (taken_out);
    END IF;
    IF after_position <= of_scope.items_position THEN  -- below it, if the first of its items were gone before
        UPDATE standpipe.scopes SET items_position = standpipe.end_of_run(of_tenant, of_subject, event_position_end)
        WHERE tenant = of_tenant AND subject = of_subject;
    END IF;
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION standpipe.restore_items(
    of_tenant text, of_subject text, of_session text, of_version bigint, event_position_end bigint,
    event_committed_at_us bigint, entries integer[], chunks integer[], roles integer[], speakers bytea[],
    spoken_at_us bigint[], texts bytea[], terms bytea[], tokens text[]
) RETURNS boolean LANGUAGE sql AS $$
    SELECT standpipe.restore_event_items(of_tenant, of_subject, of_session, of_version, event_position_end,
        event_committed_at_us, entries, chunks, roles, speakers, spoken_at_us, texts, terms, tokens, '{}', '{}')
$$;

CREATE OR REPLACE FUNCTION standpipe.drop_derived() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE standpipe.scopes IN EXCLUSIVE MODE;
    DELETE FROM standpipe.items WHERE NOT gone;
    DELETE FROM standpipe.changes;
    DELETE FROM standpipe.vectors;
    DELETE FROM standpipe.checkpoints;
    DELETE FROM standpipe.work;
    UPDATE standpipe.scopes SET items_position = 0;
    UPDATE standpipe.scopes s SET items_position = standpipe.end_of_run(s.tenant, s.subject, 0)
    FROM standpipe.items i WHERE i.tenant = s.tenant AND i.subject = s.subject AND i.position = 1;
END $$;

-- Remove a session's log as before, if its time has passed, or it was erased (R23, R24, R29). Locks as an append does.
CREATE OR REPLACE FUNCTION standpipe.sweep(of_tenant text, of_session text)
RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    head standpipe.sessions;
    of_scope standpipe.scopes;
    span record;
    erased_at bigint;
    took boolean := false;
    items_gone bigint := 0;
    events_gone bigint;
BEGIN
    SELECT * INTO head FROM standpipe.sessions
    WHERE tenant = of_tenant AND session = of_session AND swept_at_us = 0 FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT * INTO of_scope FROM standpipe.scopes WHERE tenant = of_tenant AND subject = head.subject FOR UPDATE;
    erased_at := greatest(head.erased_at_us, of_scope.erased_at_us);
    IF erased_at = 0 AND (head.keep_us = 0 OR head.updated_at_us + head.keep_us > standpipe.now_us()) THEN
        RETURN false;
    END IF;
    FOR span IN
        SELECT version, position_end - items_count AS after_position, position_end FROM standpipe.events
        WHERE tenant = of_tenant AND session = of_session AND items_count > 0 ORDER BY version
    LOOP
        items_gone := items_gone + standpipe.empty_items(of_tenant, head.subject,
            ARRAY(SELECT generate_series(span.after_position + 1, span.position_end)), of_session, span.version);
        PERFORM standpipe.empty_vectors(of_tenant, head.subject, span.after_position, span.position_end);
        took := true;
    END LOOP;
    IF took THEN
        UPDATE standpipe.scopes SET epoch = epoch + 1,
            items_position = standpipe.end_of_run(of_tenant, head.subject, of_scope.items_position)
        WHERE tenant = of_tenant AND subject = head.subject;
    END IF;
    DELETE FROM standpipe.events WHERE tenant = of_tenant AND session = of_session;
    GET DIAGNOSTICS events_gone = ROW_COUNT;
    DELETE FROM standpipe.tool_calls WHERE tenant = of_tenant AND session = of_session;
    DELETE FROM standpipe.checkpoints WHERE tenant = of_tenant AND session = of_session;
    UPDATE standpipe.sessions SET swept_at_us = standpipe.now_us(), ended = true, erased_at_us = erased_at,
        keep_us = CASE WHEN erased_at > 0 THEN 1 ELSE keep_us END  -- listed until it is forgotten
    WHERE tenant = of_tenant AND session = of_session;
    IF erased_at > 0 THEN
        UPDATE standpipe.erasures SET logs = logs + 1, events = events + events_gone, items = items + items_gone
        WHERE tenant = of_tenant AND subject = head.subject AND done_at_us = 0
            AND session IN ('', of_session);
    END IF;
    RETURN true;
END $$;

-- Keep a subject's first key, and give the one that is kept (R31); nothing for a subject that is erased. The lock on its
-- row, which may have to be made, orders this with an erasure.
CREATE FUNCTION standpipe.put_key(
    of_tenant text, of_subject text, new_key_id bytea, new_wrapped bytea, new_wrapping text
) RETURNS SETOF standpipe.keys LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO standpipe.scopes (tenant, subject, position, items_position)
    VALUES (of_tenant, of_subject, 0, 0) ON CONFLICT DO NOTHING;
    PERFORM 1 FROM standpipe.scopes
    WHERE tenant = of_tenant AND subject = of_subject AND erased_at_us = 0 FOR SHARE;
    IF FOUND THEN
        INSERT INTO standpipe.keys (tenant, subject, key_id, wrapped, wrapping)
        VALUES (of_tenant, of_subject, new_key_id, new_wrapped, new_wrapping) ON CONFLICT (tenant, subject) DO NOTHING;
        RETURN QUERY SELECT * FROM standpipe.keys WHERE tenant = of_tenant AND subject = of_subject;
    END IF;
END $$;

-- Mark a subject, or one session of it, as erased (R29); again, it changes nothing; without a row the session is another
-- subject's. Locks as an append does, sessions before the subject's counters: so it waits for appends at work, and those
-- that come after find the mark. A session that begins meanwhile is not seen: its appends are refused from then on, and
-- `mark_late_sessions` marks it.
CREATE FUNCTION standpipe.erase(of_tenant text, of_subject text, of_session text)
RETURNS SETOF standpipe.erasures LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    now_us CONSTANT bigint := standpipe.now_us();
    head standpipe.sessions;
    marked boolean;
    keys_gone bigint := 0;
BEGIN
    IF of_session = '' THEN
        PERFORM 1 FROM standpipe.scopes WHERE tenant = of_tenant AND subject = of_subject AND erased_at_us > 0;
        IF NOT FOUND THEN
            UPDATE standpipe.sessions SET erased_at_us = now_us, ended = true, keep_us = greatest(keep_us, 1)
            WHERE tenant = of_tenant AND subject = of_subject AND erased_at_us = 0;
        END IF;
        -- The new epoch tells those who hold the items.
        INSERT INTO standpipe.scopes AS s (tenant, subject, position, items_position, erased_at_us)
        VALUES (of_tenant, of_subject, 0, 0, now_us)
        ON CONFLICT (tenant, subject) DO UPDATE SET erased_at_us = now_us, epoch = s.epoch + 1 WHERE s.erased_at_us = 0;
        marked := FOUND;
        DELETE FROM standpipe.work WHERE tenant = of_tenant AND subject = of_subject;
        DELETE FROM standpipe.keys WHERE tenant = of_tenant AND subject = of_subject;
        GET DIAGNOSTICS keys_gone = ROW_COUNT;
    ELSE
        LOOP
            SELECT * INTO head FROM standpipe.sessions WHERE tenant = of_tenant AND session = of_session FOR UPDATE;
            IF FOUND THEN
                IF head.subject <> of_subject THEN
                    RETURN;
                END IF;
                marked := head.erased_at_us = 0;
                UPDATE standpipe.sessions SET erased_at_us = now_us, ended = true, keep_us = greatest(keep_us, 1)
                WHERE tenant = of_tenant AND session = of_session AND erased_at_us = 0;
                EXIT;
            END IF;
            -- An id that was never used: there is nothing to remove, and nobody will use it.
            INSERT INTO standpipe.sessions (tenant, session, subject, version, event_hash, ended, weight_bytes,
                position_end, created_at_us, updated_at_us, swept_at_us, erased_at_us)
            VALUES (of_tenant, of_session, of_subject, 0, decode(repeat('00', 32), 'hex'), true, 0, 0, now_us, now_us,
                now_us, now_us)
            ON CONFLICT DO NOTHING;
            marked := FOUND;
            EXIT WHEN FOUND;
        END LOOP;
    END IF;
    -- What was erased before, and was begun anew since, is erased anew.
    INSERT INTO standpipe.erasures (tenant, subject, session, asked_at_us, keys)
    VALUES (of_tenant, of_subject, of_session, now_us, keys_gone)
    ON CONFLICT (tenant, subject, session) DO UPDATE SET asked_at_us = excluded.asked_at_us, done_at_us = 0, logs = 0,
        events = 0, items = 0, events_redacted = 0, keys = excluded.keys WHERE marked;
    RETURN QUERY SELECT * FROM standpipe.erasures
    WHERE tenant = of_tenant AND subject = of_subject AND session = of_session;
END $$;

-- Let a subject that was erased begin anew, and its sessions, but those that were erased by themselves (R30); false
-- while the erasure is at work.
CREATE FUNCTION standpipe.reopen(of_tenant text, of_subject text)
RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM standpipe.erasures
    WHERE tenant = of_tenant AND subject = of_subject AND session = '' AND done_at_us = 0;
    IF FOUND THEN
        RETURN false;
    END IF;
    PERFORM 1 FROM standpipe.scopes WHERE tenant = of_tenant AND subject = of_subject AND erased_at_us > 0;
    IF FOUND THEN
        DELETE FROM standpipe.sessions s
        WHERE s.tenant = of_tenant AND s.subject = of_subject AND s.erased_at_us > 0 AND s.swept_at_us > 0
            AND s.keep_us = 0 AND NOT EXISTS (
                SELECT 1 FROM standpipe.erasures e
                WHERE e.tenant = of_tenant AND e.subject = of_subject AND e.session = s.session);
        UPDATE standpipe.scopes SET erased_at_us = 0 WHERE tenant = of_tenant AND subject = of_subject;
    END IF;
    RETURN true;
END $$;

-- Put another body in an event's place, and empty the items of some of its entries (R28). Locks as an append does. Items
-- that are not there, amid a rebuild, are emptied when they are put back.
CREATE FUNCTION standpipe.redact(
    of_tenant text, of_session text, of_version bigint, new_body bytea, of_entries integer[], for_subject text,
    for_session text
) RETURNS void LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    of_subject text;
    span record;
    items_gone bigint;
BEGIN
    SELECT subject INTO of_subject FROM standpipe.sessions
    WHERE tenant = of_tenant AND session = of_session AND swept_at_us = 0 FOR UPDATE;
    PERFORM 1 FROM standpipe.scopes WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    UPDATE standpipe.events SET body = new_body, redacted = redacted || of_entries,
        body_hash = CASE body_hash WHEN '' THEN sha256(body) ELSE body_hash END
    WHERE tenant = of_tenant AND session = of_session AND version = of_version
    RETURNING position_end - items_count AS after_position, position_end INTO span;
    IF NOT FOUND THEN  -- swept: nothing is left of it
        RETURN;
    END IF;
    items_gone := standpipe.empty_items(of_tenant, of_subject, ARRAY(
        SELECT position FROM standpipe.items WHERE tenant = of_tenant AND subject = of_subject
            AND position > span.after_position AND position <= span.position_end AND entry = ANY (of_entries)
            AND NOT gone), of_session, of_version);
    PERFORM standpipe.empty_vectors(of_tenant, of_subject, span.after_position, span.position_end);
    UPDATE standpipe.scopes SET epoch = epoch + 1 WHERE tenant = of_tenant AND subject = of_subject;
    DELETE FROM standpipe.checkpoints WHERE tenant = of_tenant AND session = of_session AND version >= of_version;
    UPDATE standpipe.erasures SET events_redacted = events_redacted + 1, items = items + items_gone
    WHERE tenant = of_tenant AND subject = for_subject AND session = for_session AND done_at_us = 0;
END $$;

-- What follows is as before, but that it knows of subjects that are erased, which take no vectors.
CREATE OR REPLACE FUNCTION standpipe.know_model(new_model text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE standpipe.models IN ACCESS EXCLUSIVE MODE;
    INSERT INTO standpipe.models (model) VALUES (new_model) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        INSERT INTO standpipe.work (tenant, subject, model, since_us)
        SELECT f.tenant, f.subject, new_model, f.since_us FROM (
            SELECT s.tenant, s.subject, standpipe.committed_at_us(s.tenant, s.subject, 1) AS since_us
            FROM standpipe.scopes s WHERE s.items_position > 0 AND s.erased_at_us = 0
        ) AS f WHERE f.since_us IS NOT NULL ON CONFLICT DO NOTHING;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION standpipe.put_vectors(
    of_tenant text, of_subject text, of_model text, after_position bigint, new_vectors bytea[], new_components text[]
) RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    item_last bigint;
    vector_last bigint;
    of_epoch bigint;
    new_last CONSTANT bigint := after_position + cardinality(new_vectors);
BEGIN
    SELECT items_position, epoch INTO item_last, of_epoch FROM standpipe.scopes
    WHERE tenant = of_tenant AND subject = of_subject AND erased_at_us = 0 FOR UPDATE;
    SELECT coalesce(max(position), 0) INTO vector_last FROM standpipe.vectors
    WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    IF vector_last <> after_position OR new_last > coalesce(item_last, 0) THEN
        RETURN false;
    END IF;
    INSERT INTO standpipe.vectors (tenant, subject, model, position, vector, components)
    SELECT of_tenant, of_subject, of_model, after_position + v.number, v.vector, v.components::standpipe.components
    FROM unnest(new_vectors, new_components) WITH ORDINALITY AS v (vector, components, number);
    IF of_epoch > 0 THEN
        PERFORM standpipe.empty_vectors(of_tenant, of_subject, after_position, new_last);
    END IF;
    IF new_last = item_last THEN
        DELETE FROM standpipe.work WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    ELSE
        UPDATE standpipe.work SET worker = '', due_at_us = 0, attempts = 0, reason = '', parked_at_us = 0,
            since_us = coalesce(standpipe.committed_at_us(of_tenant, of_subject, new_last + 1), since_us)
        WHERE tenant = of_tenant AND subject = of_subject AND model = of_model;
    END IF;
    RETURN true;
END $$;

-- As session_end, with the hash of each body that was replaced.
CREATE FUNCTION standpipe.session_tail(
    of_tenant text, of_session text, of_tokenizer text, known_version bigint, asked_version bigint, window_bytes bigint
) RETURNS TABLE (
    session text, version bigint, kind integer, request_id text, committed_at_us bigint, body bytea, previous_hash bytea,
    event_hash bytea, weight_end_bytes bigint, position_end bigint, body_hash bytea
) LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    end_version bigint;
    end_bytes bigint;
    after bigint := known_version;
    fold record;
BEGIN
    SELECT s.version, s.weight_bytes INTO end_version, end_bytes FROM standpipe.sessions s
    WHERE s.tenant = of_tenant AND s.session = of_session;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF asked_version < end_version THEN
        end_version := greatest(asked_version, 0);
        SELECT e.weight_end_bytes INTO end_bytes FROM standpipe.events e
        WHERE e.tenant = of_tenant AND e.session = of_session AND e.version = end_version;
    END IF;
    IF known_version = end_version OR (0 < known_version AND known_version < end_version AND end_bytes - window_bytes <= (
        SELECT e.weight_end_bytes FROM standpipe.events e
        WHERE e.tenant = of_tenant AND e.session = of_session AND e.version = known_version
    )) THEN
        RETURN QUERY SELECT of_session, known_version, 0, NULL, NULL::bigint, NULL::bytea, NULL::bytea, NULL::bytea,
            NULL::bigint, end_version, NULL::bytea;
    ELSE
        SELECT c.version, c.weight_bytes, c.body INTO fold FROM standpipe.checkpoints c
        WHERE c.tenant = of_tenant AND c.session = of_session AND c.tokenizer = of_tokenizer
            AND c.version <= end_version AND c.weight_bytes <= end_bytes - window_bytes
        ORDER BY c.version DESC LIMIT 1;
        after := coalesce(fold.version, 0);
        RETURN QUERY SELECT of_session, after, 0, of_tokenizer, NULL::bigint, fold.body, NULL::bytea, NULL::bytea,
            fold.weight_bytes, end_version, NULL::bytea;
    END IF;
    IF after < end_version THEN
        RETURN QUERY SELECT e.session, e.version, e.kind, e.request_id, e.committed_at_us, e.body, e.previous_hash,
            e.event_hash, e.weight_end_bytes, e.position_end, e.body_hash
        FROM standpipe.events e
        WHERE e.tenant = of_tenant AND e.session = of_session AND e.version > after AND e.version <= end_version
        ORDER BY e.version;
    END IF;
END $$;

-- expansion: 5
-- The model whose vectors rank, empty until one is named.
ALTER TABLE standpipe.deployment ADD COLUMN serving text COLLATE "C" NOT NULL DEFAULT '';

-- Name the model that serves in place of another, and put it in use; false if another is named than that (R33). The lock
-- is that of know_model and forget_model, and each takes it first.
CREATE FUNCTION standpipe.serve(new_model text, instead_of text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE standpipe.models IN ACCESS EXCLUSIVE MODE;
    UPDATE standpipe.deployment SET serving = new_model WHERE "only" = 1 AND serving = instead_of;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM standpipe.know_model(new_model);
    RETURN true;
END $$;

-- Remove a model's name and orders (R34); false if it serves. No append orders work for it while this goes on.
CREATE FUNCTION standpipe.forget_model(old_model text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE standpipe.models IN ACCESS EXCLUSIVE MODE;
    PERFORM 1 FROM standpipe.deployment WHERE "only" = 1 AND serving = old_model;
    IF FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM standpipe.models WHERE model = old_model;
    DELETE FROM standpipe.work WHERE model = old_model;
    RETURN true;
END $$;

-- expansion: 6
-- A role may be bound to tenants (postgres_queries.sql, `bind`), but a model that its sidecars are the first to know is to
-- be ordered for all: so this runs with the owner's rights. It takes a name and shows nothing.
ALTER FUNCTION standpipe.know_model(text) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;

-- expansion: 7
-- Records that applications keep beside the conversation. They are the truth, as the log is. The revisions that a subject
-- has given out stand where its positions do, and stay; so does how many records it has. Whoever changes records locks
-- that row first.
CREATE TABLE standpipe.state (
    tenant text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    collection text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    updated_at_us bigint NOT NULL,
    expires_at_us bigint NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (tenant, subject, collection, key)
);

-- The queue of those who remove what has expired, for all tenants.
CREATE INDEX state_by_expiry ON standpipe.state (expires_at_us, tenant, subject) WHERE expires_at_us > 0;

ALTER TABLE standpipe.scopes
    ADD COLUMN state_revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN state_records bigint NOT NULL DEFAULT 0;

ALTER TABLE standpipe.erasures ADD COLUMN records bigint NOT NULL DEFAULT 0;

-- Whoever was let in serves on: to the new table, too.
DO $$
DECLARE
    whom record;
BEGIN
    ALTER TABLE standpipe.state ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY of_the_tenant ON standpipe.state
        USING (tenant = (SELECT current_setting('standpipe.tenant', true)));
    CREATE POLICY of_workers ON standpipe.state
        USING ((SELECT current_setting('standpipe.worker', true)) = 'on');
    FOR whom IN
        SELECT a.grantee::regrole AS role, a.privilege_type FROM pg_class c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'standpipe.sessions'::regclass AND a.grantee NOT IN (0, c.relowner)
    LOOP
        EXECUTE format('GRANT %s ON standpipe.state TO %s', whom.privilege_type, whom.role);
    END LOOP;
END $$;

-- Change records of one collection (R36, R38, R39): `vals` are NULL where one is deleted, `expected` where any revision
-- will do; `expire_at_us` come before `keeps_us`, where they are not 0. All checks come before the first write but that of the counters' row: a refusal is an outcome. `number` says
-- which write was refused, from 1, and then `revision` is the record's.
CREATE FUNCTION standpipe.put_state(
    of_tenant text, of_subject text, of_collection text, keys text[], vals bytea[], expected bigint[], keeps_us bigint[],
    expire_at_us bigint[], records_max bigint, OUT outcome text, OUT revision bigint, OUT number bigint
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    counters standpipe.scopes;
    now_us bigint;
    fewer bigint;
    more bigint;
    refused record;
BEGIN
    INSERT INTO standpipe.scopes (tenant, subject, position, items_position)
    VALUES (of_tenant, of_subject, 0, 0) ON CONFLICT DO NOTHING;
    SELECT * INTO counters FROM standpipe.scopes WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    IF counters.erased_at_us > 0 THEN
        outcome := 'erased';
        RETURN;
    END IF;
    now_us := standpipe.now_us();
    SELECT w.number, coalesce(s.revision, 0) AS revision INTO refused
    FROM unnest(put_state.keys, put_state.expected) WITH ORDINALITY AS w (key, expected, number)
    LEFT JOIN standpipe.state s ON s.tenant = of_tenant AND s.subject = of_subject AND s.collection = of_collection
        AND s.key = w.key AND (s.expires_at_us = 0 OR s.expires_at_us > now_us)
    WHERE w.expected <> coalesce(s.revision, 0) ORDER BY w.number LIMIT 1;
    IF FOUND THEN
        outcome := 'conflict';
        revision := refused.revision;
        number := refused.number;
        RETURN;
    END IF;
    SELECT count(*) FILTER (WHERE w.val IS NULL AND s.key IS NOT NULL),
        count(*) FILTER (WHERE w.val IS NOT NULL AND s.key IS NULL) INTO fewer, more
    FROM unnest(put_state.keys, put_state.vals) AS w (key, val)
    LEFT JOIN standpipe.state s ON s.tenant = of_tenant AND s.subject = of_subject AND s.collection = of_collection
        AND s.key = w.key;
    number := counters.state_records - fewer + more;
    IF more > fewer AND number > records_max THEN
        outcome := 'full';
        RETURN;
    END IF;
    outcome := 'written';
    revision := counters.state_revision + 1;
    DELETE FROM standpipe.state s USING unnest(put_state.keys, put_state.vals) AS w (key, val)
    WHERE s.tenant = of_tenant AND s.subject = of_subject AND s.collection = of_collection AND s.key = w.key
        AND w.val IS NULL;
    INSERT INTO standpipe.state (tenant, subject, collection, key, revision, updated_at_us, expires_at_us, value)
    SELECT of_tenant, of_subject, of_collection, w.key, counters.state_revision + 1, now_us,
        CASE WHEN w.until_us > 0 THEN w.until_us WHEN w.keep_us > 0 THEN now_us + w.keep_us ELSE 0 END, w.val
    FROM unnest(put_state.keys, put_state.vals, put_state.keeps_us, put_state.expire_at_us)
        AS w (key, val, keep_us, until_us) WHERE w.val IS NOT NULL
    ON CONFLICT (tenant, subject, collection, key) DO UPDATE SET revision = excluded.revision,
        updated_at_us = excluded.updated_at_us, expires_at_us = excluded.expires_at_us, value = excluded.value;
    UPDATE standpipe.scopes SET state_revision = counters.state_revision + 1, state_records = put_state.number
    WHERE tenant = of_tenant AND subject = of_subject;
END $$;

-- Remove records whose keys lie in a range, so many of them (R37); `deleted` leaves out those that had expired.
CREATE FUNCTION standpipe.delete_state(
    of_tenant text, of_subject text, of_collection text, from_key text, to_key text, count_max bigint,
    OUT deleted bigint, OUT more boolean
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now_us bigint;
    gone bigint;
BEGIN
    PERFORM 1 FROM standpipe.scopes WHERE tenant = of_tenant AND subject = of_subject FOR UPDATE;
    now_us := standpipe.now_us();
    WITH dropped AS (
        DELETE FROM standpipe.state s USING (
            SELECT key FROM standpipe.state
            WHERE tenant = of_tenant AND subject = of_subject AND collection = of_collection
                AND key >= from_key AND key < to_key
            ORDER BY key LIMIT count_max
        ) AS first
        WHERE s.tenant = of_tenant AND s.subject = of_subject AND s.collection = of_collection AND s.key = first.key
        RETURNING s.expires_at_us
    )
    SELECT count(*), count(*) FILTER (WHERE expires_at_us = 0 OR expires_at_us > now_us) INTO gone, deleted
    FROM dropped;
    UPDATE standpipe.scopes SET state_records = state_records - gone
    WHERE tenant = of_tenant AND subject = of_subject AND gone > 0;
    more := EXISTS (
        SELECT 1 FROM standpipe.state
        WHERE tenant = of_tenant AND subject = of_subject AND collection = of_collection
            AND key >= from_key AND key < to_key);
END $$;

-- Remove records of all tenants whose time has passed, so many of them (R38). Their subjects are locked in order, so that
-- those who do the same do not wait for each other in a circle.
CREATE FUNCTION standpipe.expire_state(count_max bigint) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now_us CONSTANT bigint := standpipe.now_us();
    whose record;
    gone bigint;
    total bigint := 0;
BEGIN
    FOR whose IN
        SELECT tenant, subject, count(*) AS due FROM (
            SELECT tenant, subject FROM standpipe.state WHERE expires_at_us > 0 AND expires_at_us <= now_us
            ORDER BY expires_at_us LIMIT count_max
        ) AS first GROUP BY tenant, subject ORDER BY tenant, subject
    LOOP
        PERFORM 1 FROM standpipe.scopes WHERE tenant = whose.tenant AND subject = whose.subject FOR UPDATE;
        DELETE FROM standpipe.state s USING (
            SELECT tenant, subject, collection, key FROM standpipe.state
            WHERE expires_at_us > 0 AND expires_at_us <= now_us AND tenant = whose.tenant AND subject = whose.subject
            ORDER BY expires_at_us LIMIT whose.due
        ) AS d
        WHERE s.tenant = d.tenant AND s.subject = d.subject AND s.collection = d.collection AND s.key = d.key;
        GET DIAGNOSTICS gone = ROW_COUNT;
        UPDATE standpipe.scopes SET state_records = state_records - gone
        WHERE tenant = whose.tenant AND subject = whose.subject AND gone > 0;
        total := total + gone;
    END LOOP;
    RETURN total;
END $$;

-- As before, with the subject's records.
CREATE OR REPLACE FUNCTION standpipe.erase(of_tenant text, of_subject text, of_session text)
RETURNS SETOF standpipe.erasures LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    now_us CONSTANT bigint := standpipe.now_us();
    head standpipe.sessions;
    marked boolean;
    keys_gone bigint := 0;
    records_gone bigint := 0;
BEGIN
    IF of_session = '' THEN
        PERFORM 1 FROM standpipe.scopes WHERE tenant = of_tenant AND subject = of_subject AND erased_at_us > 0;
        IF NOT FOUND THEN
            UPDATE standpipe.sessions SET erased_at_us = now_us, ended = true, keep_us = greatest(keep_us, 1)
            WHERE tenant = of_tenant AND subject = of_subject AND erased_at_us = 0;
        END IF;
        -- The new epoch tells those who hold the items.
        INSERT INTO standpipe.scopes AS s (tenant, subject, position, items_position, erased_at_us)
        VALUES (of_tenant, of_subject, 0, 0, now_us)
        ON CONFLICT (tenant, subject) DO UPDATE SET erased_at_us = now_us, epoch = s.epoch + 1 WHERE s.erased_at_us = 0;
        marked := FOUND;
        DELETE FROM standpipe.work WHERE tenant = of_tenant AND subject = of_subject;
        DELETE FROM standpipe.keys WHERE tenant = of_tenant AND subject = of_subject;
        GET DIAGNOSTICS keys_gone = ROW_COUNT;
        DELETE FROM standpipe.state WHERE tenant = of_tenant AND subject = of_subject;
        GET DIAGNOSTICS records_gone = ROW_COUNT;
        UPDATE standpipe.scopes SET state_records = 0
        WHERE tenant = of_tenant AND subject = of_subject AND state_records <> 0;
    ELSE
        LOOP
            SELECT * INTO head FROM standpipe.sessions WHERE tenant = of_tenant AND session = of_session FOR UPDATE;
            IF FOUND THEN
                IF head.subject <> of_subject THEN
                    RETURN;
                END IF;
                marked := head.erased_at_us = 0;
                UPDATE standpipe.sessions SET erased_at_us = now_us, ended = true, keep_us = greatest(keep_us, 1)
                WHERE tenant = of_tenant AND session = of_session AND erased_at_us = 0;
                EXIT;
            END IF;
            -- An id that was never used: there is nothing to remove, and nobody will use it.
            INSERT INTO standpipe.sessions (tenant, session, subject, version, event_hash, ended, weight_bytes,
                position_end, created_at_us, updated_at_us, swept_at_us, erased_at_us)
            VALUES (of_tenant, of_session, of_subject, 0, decode(repeat('00', 32), 'hex'), true, 0, 0, now_us, now_us,
                now_us, now_us)
            ON CONFLICT DO NOTHING;
            marked := FOUND;
            EXIT WHEN FOUND;
        END LOOP;
    END IF;
    -- What was erased before, and was begun anew since, is erased anew.
    INSERT INTO standpipe.erasures (tenant, subject, session, asked_at_us, keys, records)
    VALUES (of_tenant, of_subject, of_session, now_us, keys_gone, records_gone)
    ON CONFLICT (tenant, subject, session) DO UPDATE SET asked_at_us = excluded.asked_at_us, done_at_us = 0, logs = 0,
        events = 0, items = 0, events_redacted = 0, keys = excluded.keys, records = excluded.records WHERE marked;
    RETURN QUERY SELECT * FROM standpipe.erasures
    WHERE tenant = of_tenant AND subject = of_subject AND session = of_session;
END $$;
