-- Return what is behind the caller's view: {server, now, life, version, grant} and, if there is something that follows,
-- {after, head, checkpoint, event ...}. H1, H3, H6, H9, H10, H12.
-- ARGV: a life, if the entry must be made; the version of the caller's view, 0 without one; the tokenizer; the time to
-- live in ms, 0: as it was; that of a new entry; that of an entry without a tail.
local entry = load_entry()
local known, ttl, bare_ms = tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[6])
if not entry then
    entry = new_entry(ARGV[1], ttl > 0 and ttl or tonumber(ARGV[5]))
    store_entry(entry)
    stay(entry, bare_ms, true)
elseif ttl > 0 and ttl ~= entry.ttl then
    entry.ttl = ttl
    redis.call('HSET', key, 'ttl', whole(ttl))
    stay(entry, bare_ms, true)
else
    stay(entry, bare_ms, false)
end

local trusted = entry.marks == '' and entry.top == entry.version
local answer = { incarnation, now_ms, entry.life, entry.version, trusted and entry.grant or 0 }
if known >= entry.top then
    return answer
end

local from, checkpoint = known, false
if known == 0 or known < entry.after then
    checkpoint = redis.call('HGET', key, 'c ' .. ARGV[3])
    local at = checkpoint and tonumber(string.match(checkpoint, '^%d+'))
    if at and at >= entry.after and at <= entry.top then
        from = at
    elseif entry.after == 0 then
        from, checkpoint = 0, false
    else
        return answer
    end
end
answer[6], answer[7], answer[8] = from, redis.call('HGET', key, 'head'), checkpoint
local fields = {}
for version = from + 1, entry.top do
    fields[#fields + 1] = 'e' .. whole(version)
    if #fields == 1000 or version == entry.top then -- unpack has a bound
        for _, event in ipairs(redis.call('HMGET', key, unpack(fields))) do
            answer[#answer + 1] = event
        end
        fields = {}
    end
end
return answer
