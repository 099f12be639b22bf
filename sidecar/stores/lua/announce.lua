-- Mark the session: {server, now, life}. H9, H10.
-- ARGV: a life, if the entry must be made; the mark; how long it stands, in ms; the time to live of a new entry; that
-- of an entry without a tail; the most marks.
local entry = load_entry() or new_entry(ARGV[1], tonumber(ARGV[4]))
local marks = unmarked(entry.marks, ARGV[2], 0)
local expiry = now_ms + tonumber(ARGV[3])
local _, count = string.gsub(marks, ' ', '')
if count < tonumber(ARGV[6]) then
    entry.marks = marks .. whole(expiry) .. '=' .. ARGV[2] .. ' '
else -- one mark stands for all, until the last of them has expired
    for other in string.gmatch(marks, '(%d+)=') do
        expiry = math.max(expiry, tonumber(other))
    end
    entry.marks = whole(expiry) .. '=* '
end
store_entry(entry)
stay(entry, tonumber(ARGV[5]), false)
return { incarnation, now_ms, entry.life }
