-- Take a mark back: {server}. H9, H10.
-- ARGV: the ticket's server and life; the mark; the version that the session is known to have; the time to live without
-- a tail.
local entry = load_entry()
if not entry or entry.life ~= ARGV[2] or incarnation ~= ARGV[1] then
    redis.call('DEL', key)
    return { incarnation }
end
entry.marks = unmarked(entry.marks, ARGV[3], 0)
entry.version = math.max(entry.version, tonumber(ARGV[4]))
store_entry(entry)
stay(entry, tonumber(ARGV[5]), true)
return { incarnation }
