-- The SQLite record store's schema, as numbered parts. A part is never edited once released: add the next. Two versions
-- of the sidecar share one file during a rollout, so a change first comes as an expansion, which the release before does
-- not notice; the table `expansions` says which there are. What it cannot live with waits a release longer, and comes
-- as a migration: PRAGMA user_version is the number of the last one, and a release refuses a file beyond its own.
--
-- The log (sessions, events, tool_calls, the counters in scopes), policies and routes are the truth; items, vectors,
-- checkpoints and work are derived. Every key leads with the tenant; `work_by_age` alone does not: it is the queue
-- of the embedding worker, which serves all tenants and answers none.
--
-- Events, items and vectors keep rowids: they are large and come in commit order, so that an append fills the last
-- page of each. Clustered by their keys instead, an append took twice the time before its fsync.

-- migration: 1
CREATE TABLE deployment (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    signing_key BLOB NOT NULL CHECK (length(signing_key) = 32)
) STRICT;

CREATE TABLE sessions (
    tenant TEXT NOT NULL,
    session TEXT NOT NULL,
    subject TEXT NOT NULL,
    version INTEGER NOT NULL,
    event_hash BLOB NOT NULL,
    ended INTEGER NOT NULL,
    weight_bytes INTEGER NOT NULL,
    position_end INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    PRIMARY KEY (tenant, session)
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_by_subject ON sessions (tenant, subject, session);

-- An event carries its own receipt: the request id and digest, and all that the answer to its commit held.
CREATE TABLE events (
    tenant TEXT NOT NULL,
    session TEXT NOT NULL,
    version INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    committed_at_us INTEGER NOT NULL,
    items_count INTEGER NOT NULL,
    position_end INTEGER NOT NULL,
    weight_end_bytes INTEGER NOT NULL,
    previous_hash BLOB NOT NULL,
    event_hash BLOB NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, session, version),
    UNIQUE (tenant, session, request_id)
) STRICT;

CREATE TABLE tool_calls (
    tenant TEXT NOT NULL,
    session TEXT NOT NULL,
    call_id TEXT NOT NULL,
    call_version INTEGER NOT NULL,
    result_version INTEGER,
    PRIMARY KEY (tenant, session, call_id)
) STRICT, WITHOUT ROWID;

-- `position` is the last that was given out, and never falls. `items_position` is the last up to which all items are
-- there: it differs only between drop_derived and the end of a rebuild.
CREATE TABLE scopes (
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    position INTEGER NOT NULL,
    items_position INTEGER NOT NULL,
    PRIMARY KEY (tenant, subject)
) STRICT, WITHOUT ROWID;

CREATE TABLE items (
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    position INTEGER NOT NULL,
    session TEXT NOT NULL,
    version INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    chunk INTEGER NOT NULL,
    role INTEGER NOT NULL,
    speaker TEXT NOT NULL,
    spoken_at_us INTEGER NOT NULL,
    tokens TEXT NOT NULL,
    terms BLOB NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (tenant, subject, position)
) STRICT;

CREATE TABLE vectors (
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    model TEXT NOT NULL,
    position INTEGER NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (tenant, subject, model, position)
) STRICT;

-- The models that were ever asked for: an append leaves a work order for each.
CREATE TABLE models (
    model TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- One coalesced work order of the embedding projection: the subject has items without a vector of the model, the
-- oldest of them committed at `since_us`.
CREATE TABLE work (
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    model TEXT NOT NULL,
    since_us INTEGER NOT NULL,
    PRIMARY KEY (tenant, subject, model)
) STRICT, WITHOUT ROWID;

CREATE INDEX work_by_age ON work (model, since_us, tenant, subject);

CREATE TABLE checkpoints (
    tenant TEXT NOT NULL,
    session TEXT NOT NULL,
    tokenizer TEXT NOT NULL,
    version INTEGER NOT NULL,
    weight_bytes INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (tenant, session, tokenizer, version)
) STRICT;

CREATE TABLE policies (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    document TEXT NOT NULL,
    digest BLOB NOT NULL,
    published_at_us INTEGER NOT NULL,
    PRIMARY KEY (tenant, name, version)
) STRICT;

CREATE TABLE routes (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    policy_name TEXT NOT NULL,
    policy_version INTEGER NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;

-- expansion: 2
-- Who is trusted for which slots of a hot store that processes share (sidecar/stores/grants.py).
CREATE TABLE grants (
    slot_from INTEGER PRIMARY KEY,
    slot_to INTEGER NOT NULL,
    grant_id INTEGER NOT NULL,
    incarnation TEXT NOT NULL,
    usable_at_us INTEGER NOT NULL
) STRICT;

ALTER TABLE deployment ADD COLUMN last_grant INTEGER NOT NULL DEFAULT 0;

-- expansion: 3
-- Who holds an order; from when on it may be handed out: the end of a lease or of a pause; how many claims in a row came
-- to nothing, and why the last did; when it was parked, 0 for never.
ALTER TABLE work ADD COLUMN worker TEXT NOT NULL DEFAULT '';
ALTER TABLE work ADD COLUMN due_at_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE work ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE work ADD COLUMN reason TEXT NOT NULL DEFAULT '';
ALTER TABLE work ADD COLUMN parked_at_us INTEGER NOT NULL DEFAULT 0;

CREATE INDEX work_parked ON work (tenant, subject, model) WHERE parked_at_us > 0;

-- expansion: 4
-- How long a session's log is kept after its last event, 0 for ever; when it was removed, 0 for never. The time to remove
-- it follows from both, so that an append of the release before puts it off, too. Such a session is also `ended`, which
-- the release before knows. `sessions_by_expiry` is the queue of the sweepers, who serve all tenants.
ALTER TABLE sessions ADD COLUMN keep_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN swept_at_us INTEGER NOT NULL DEFAULT 0;

CREATE INDEX sessions_by_expiry ON sessions (updated_at_us + keep_us, tenant, session) WHERE keep_us > 0;

-- An item that is gone is a position of its subject, and part of the truth: the log knows it no more.
ALTER TABLE items ADD COLUMN gone INTEGER NOT NULL DEFAULT 0;

-- How often items of the subject have gone.
ALTER TABLE scopes ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- expansion: 5
-- What an item is, and a serialised ItemDetail (sidecar/stores/record.py, ItemKind and NewItem).
ALTER TABLE items ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;
ALTER TABLE items ADD COLUMN detail BLOB NOT NULL DEFAULT x'';

-- The changes of a subject's memory among its items, and the subjects some of whose changes wait, or waited, for review.
CREATE INDEX items_changes ON items (tenant, subject, position) WHERE kind IN (1, 3) AND NOT gone;
CREATE INDEX items_held ON items (tenant, subject) WHERE kind = 3 AND NOT gone;

-- The release before empties an item without knowing of its detail.
CREATE TRIGGER items_gone AFTER UPDATE OF gone ON items WHEN NEW.gone AND NEW.detail <> x'' BEGIN
    UPDATE items SET detail = x'' WHERE rowid = NEW.rowid;
END;

-- The subjects' data keys, each wrapped by the key that `wrapping` names.
CREATE TABLE keys (
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    key_id BLOB NOT NULL,
    wrapped BLOB NOT NULL,
    wrapping TEXT NOT NULL,
    PRIMARY KEY (tenant, subject)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX keys_by_id ON keys (tenant, key_id);

-- What was erased, and how much of it; kept for ever. `session` is empty for all of a subject, `done_at_us` 0 while the
-- erasure is at work. That nothing is taken any more stands where an append looks anyway: in `scopes` and `sessions`.
CREATE TABLE erasures (
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    session TEXT NOT NULL,
    asked_at_us INTEGER NOT NULL,
    done_at_us INTEGER NOT NULL DEFAULT 0,
    logs INTEGER NOT NULL DEFAULT 0,
    events INTEGER NOT NULL DEFAULT 0,
    items INTEGER NOT NULL DEFAULT 0,
    events_redacted INTEGER NOT NULL DEFAULT 0,
    keys INTEGER NOT NULL,
    PRIMARY KEY (tenant, subject, session)
) STRICT, WITHOUT ROWID;

CREATE INDEX erasures_at_work ON erasures (asked_at_us, tenant, subject, session) WHERE done_at_us = 0;

-- Whether the subject was erased.
ALTER TABLE scopes ADD COLUMN erased INTEGER NOT NULL DEFAULT 0;

-- Whether the session, or its subject, was erased: 0 no; 1 yes, and it is listed for the sweepers until it is 2. Such a
-- session is also `ended`, which the release before knows.
ALTER TABLE sessions ADD COLUMN erased INTEGER NOT NULL DEFAULT 0;

CREATE INDEX sessions_erased ON sessions (tenant, session) WHERE erased = 1;

-- Of an event whose body was replaced: the SHA-256 of the first one, and the entries that were taken out, as JSON.
ALTER TABLE events ADD COLUMN body_hash BLOB NOT NULL DEFAULT x'';
ALTER TABLE events ADD COLUMN redacted TEXT NOT NULL DEFAULT '[]';

-- expansion: 6
-- The model whose vectors rank, empty until one is named.
ALTER TABLE deployment ADD COLUMN serving TEXT NOT NULL DEFAULT '';

-- expansion: 7
-- Records that applications keep beside the conversation. They are the truth, as the log is. The revisions that a subject
-- has given out stand where its positions do, and stay; so does how many records it has.
CREATE TABLE state (
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    collection TEXT NOT NULL,
    key TEXT NOT NULL,
    revision INTEGER NOT NULL,
    updated_at_us INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (tenant, subject, collection, key)
) STRICT;

-- The queue of those who remove what has expired, for all tenants.
CREATE INDEX state_by_expiry ON state (expires_at_us, tenant, subject) WHERE expires_at_us > 0;

ALTER TABLE scopes ADD COLUMN state_revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE scopes ADD COLUMN state_records INTEGER NOT NULL DEFAULT 0;
ALTER TABLE erasures ADD COLUMN records INTEGER NOT NULL DEFAULT 0;

-- The release before erases a subject without knowing of its records.
CREATE TRIGGER scopes_erased AFTER UPDATE OF erased ON scopes WHEN NEW.erased AND NOT OLD.erased BEGIN
    DELETE FROM state WHERE tenant = NEW.tenant AND subject = NEW.subject;
    UPDATE scopes SET state_records = 0 WHERE tenant = NEW.tenant AND subject = NEW.subject;
END;
