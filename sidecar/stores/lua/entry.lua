-- Stands before every other script: what they all know of a session's entry, and of the server.
--
-- The entry is one hash. `life` is a nonce of its making. Its events are those of the versions `after` + 1 to `top`,
-- each in a field `e<version>`; `head` is the log's head at `top`; `version` is `top`, or beyond it where a version
-- is known whose event is not here. `grant` is the stamp of the last publish that reached `version`. `bytes` is about
-- what the events take. `c <tokenizer>` is a checkpoint: its version, a space, and its bytes. `marks` is a list of
-- "<expiry in ms>=<mark> ". `ttl` is the time to live, in ms.
--
-- All times are this server's own: replicas get the effects of a script, never the script.

local key = KEYS[1]
local info = redis.call('INFO', 'replication')
local incarnation = string.find(info, 'role:master', 1, true) and string.match(info, 'master_replid:(%x+)') or ''
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function whole(number)
    return string.format('%.0f', number)
end

local function load_entry()
    local life, version, top, after, grant, marks, ttl, bytes = unpack(redis.call(
        'HMGET', key, 'life', 'version', 'top', 'after', 'grant', 'marks', 'ttl', 'bytes'))
    if not life then
        return nil
    end
    return {
        life = life, version = tonumber(version), top = tonumber(top), after = tonumber(after),
        grant = tonumber(grant), marks = marks, ttl = tonumber(ttl), bytes = tonumber(bytes),
    }
end

local function store_entry(entry)
    redis.call('HSET', key, 'life', entry.life, 'version', whole(entry.version), 'top', whole(entry.top),
        'after', whole(entry.after), 'grant', whole(entry.grant), 'marks', entry.marks, 'ttl', whole(entry.ttl),
        'bytes', whole(entry.bytes))
end

local function new_entry(life, ttl)
    return { life = life, version = 0, top = 0, after = 0, grant = 0, marks = '', ttl = ttl, bytes = 0 }
end

-- Prolong the entry: a write only if a sixteenth of its time has gone. It outlives its marks; what holds no tail is
-- there for its life alone, and stays for `bare_ms`.
local function stay(entry, bare_ms, always)
    local lasts = entry.top > 0 and entry.ttl or bare_ms
    for expiry in string.gmatch(entry.marks, '(%d+)=%S+ ') do
        lasts = math.max(lasts, expiry - now_ms + 1)
    end
    if always or redis.call('PTTL', key) < lasts - lasts / 16 then
        redis.call('PEXPIRE', key, whole(lasts))
    end
end

-- Return the marks without those that are named so, or had expired before a ticket was asked for.
local function unmarked(marks, name, asked_at_ms)
    return (string.gsub(marks, '(%d+)=(%S+) ', function(expiry, mark)
        if mark == name or tonumber(expiry) < asked_at_ms then
            return ''
        end
    end))
end
