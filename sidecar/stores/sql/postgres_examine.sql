-- What `standpipe doctor` asks of PostgreSQL, in one transaction that is rolled back.

-- name: server
SELECT current_setting('server_version_num')::integer,
    current_setting('server_version'),
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean,
    current_setting('server_encoding'),
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false),
    inet_server_addr() IS NULL OR inet_server_addr() << '127.0.0.0/8' OR inet_server_addr() = '::1'

-- name: role
SELECT rolname, rolsuper, rolbypassrls, rolconnlimit FROM pg_roles WHERE rolname = current_user

-- synchronous_commit is not among them: the engine sets it for each commit.
-- name: durability
SELECT name, setting FROM pg_settings
WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name

-- name: extension
SELECT e.extversion, a.default_version FROM (VALUES ('vector')) AS wanted (name)
LEFT JOIN pg_extension e ON e.extname = wanted.name LEFT JOIN pg_available_extensions a ON a.name = wanted.name

-- name: schema
SELECT to_regclass('standpipe.migrations') IS NOT NULL

-- name: parts
SELECT kind, number FROM standpipe.migrations ORDER BY kind, number

-- What the role may not do that serving needs. What it has not heard of is there for an owner alone.
-- name: rights
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'standpipe' AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'migrations'
    AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
        AND has_table_privilege(c.oid, 'DELETE'))
ORDER BY c.relname

-- Tables of tenants without row-level security that binds their owner too.
-- name: unforced
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = to_regnamespace('standpipe') AND c.relkind IN ('r', 'p')
    AND c.relname <> ALL (ARRAY['deployment', 'grants', 'migrations', 'models'])
    AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
ORDER BY c.relname

-- The tenants that a restrictive policy binds the role to, in each table of tenants; NULL where none does.
-- name: bound
SELECT c.relname, substring(pg_get_expr(p.polqual, p.polrelid) FROM '\{.*\}')::text[]
FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid AND NOT p.polpermissive
    AND EXISTS (SELECT 1 FROM unnest(p.polroles) AS r WHERE r <> 0 AND pg_has_role(r, 'USAGE'))
WHERE c.relnamespace = to_regnamespace('standpipe') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND c.relrowsecurity
ORDER BY c.relname

-- name: become
SELECT set_config('standpipe.tenant', %s, true), set_config('standpipe.worker', '', true)

-- name: leave_row
INSERT INTO standpipe.routes (tenant, name, policy_name, policy_version) VALUES (%s, %s, 'default', 0)

-- name: see_row
SELECT count(*) FROM standpipe.routes WHERE tenant = %s AND name = %s

-- Unique keys of tenants' tables that do not lead with the tenant: they could not be distributed by it.
-- name: keys
SELECT i.indexrelid::regclass::text FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
WHERE c.relnamespace = to_regnamespace('standpipe') AND i.indisunique
    AND c.relname <> ALL (ARRAY['deployment', 'grants', 'migrations', 'models']) AND a.attname IS DISTINCT FROM 'tenant'
ORDER BY 1

-- How much of a partitioned table's hashes its partitions cover; 1 is all.
-- name: partitions
SELECT c.relname, count(child.oid), coalesce(sum(1.0 / substring(
    pg_get_expr(child.relpartbound, child.oid) FROM 'modulus (\d+)')::integer), 0) > 0.9999
FROM pg_class c
LEFT JOIN pg_inherits h ON h.inhparent = c.oid
LEFT JOIN pg_class child ON child.oid = h.inhrelid
WHERE c.relnamespace = to_regnamespace('standpipe') AND c.relkind = 'p'
GROUP BY c.relname ORDER BY c.relname

-- name: connections
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
        - coalesce(current_setting('reserved_connections', true)::integer, 0),
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')

-- name: clock
SELECT extract(epoch FROM clock_timestamp())::double precision

-- name: grants
SELECT coalesce(sum(slot_to - slot_from), 0)::integer, count(DISTINCT incarnation) FROM standpipe.grants

-- name: serving
SELECT serving FROM standpipe.deployment

-- name: see_all
SELECT set_config('standpipe.worker', 'on', true)

-- name: parked
SELECT count(*) FROM standpipe.work WHERE parked_at_us > 0
