-- Bring the tail up to a version: {server}. H2, H5, H8 to H10, H12.
-- ARGV: the ticket's server, life and time; the mark, or nothing; the grant; the version before the events, and that of
-- the last; the head; the tokenizer of the checkpoint, or nothing; the checkpoint; the most bytes of a tail; the time
-- to live without a tail; the events.
local EVENTS = 13
local entry = load_entry()
if not entry or entry.life ~= ARGV[2] or incarnation ~= ARGV[1] then
    redis.call('DEL', key)
    return { incarnation }
end
entry.marks = unmarked(entry.marks, ARGV[4], tonumber(ARGV[3]))
local after, top, bytes_max = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[11])
entry.version = math.max(entry.version, top)
if top == entry.version then
    entry.grant = tonumber(ARGV[5])
end

local size = #ARGV[10]
for index = EVENTS, #ARGV do
    size = size + #ARGV[index] + 64 -- about what a field takes besides
end
local fits, joins = entry.bytes + size <= bytes_max, after <= entry.top and top >= entry.after
if after > entry.top or (top >= entry.top and not fits) then
    -- The tail starts anew behind the gap, or with what is new. Beyond its bound it is a version and no events, which is
    -- all that a reader with a view of that version needs.
    redis.call('DEL', key)
    joins = size <= bytes_max
    entry.after, entry.top, entry.bytes = joins and after or top, top, 0
elseif not fits then
    joins = false
end
if joins then
    for index = EVENTS, #ARGV do
        local event = ARGV[index]
        if redis.call('HSETNX', key, 'e' .. whole(after + 1 + index - EVENTS), event) == 1 then
            entry.bytes = entry.bytes + #event + 64
        end
    end
    if ARGV[9] ~= '' then
        local field = 'c ' .. ARGV[9]
        entry.bytes = entry.bytes + #ARGV[10] - redis.call('HSTRLEN', key, field)
        redis.call('HSET', key, field, ARGV[10])
    end
    entry.after, entry.top = math.min(entry.after, after), math.max(entry.top, top)
end
if top == entry.top then
    redis.call('HSET', key, 'head', ARGV[8])
end
store_entry(entry)
stay(entry, tonumber(ARGV[12]), true)
return { incarnation }
