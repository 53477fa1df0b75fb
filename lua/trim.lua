#!lua flags=allow-oom
-- trim: forgets the entries of a journal that the ledger holds, if the last of them is what the ledger was given. Where
-- Redis went back in time since it was read, others may stand at those places, which no ledger has: nothing is trimmed,
-- and the drain finds them when it reads the journal from its beginning. Allowed while memory is full: nothing else gives
-- any back.
--
-- KEYS: journal
-- ARGV: last_id, last_line, last_about, min_id
-- Reply: the number of entries that were trimmed, or -1
local journal_key = KEYS[1]
local last_id, last_line, last_about, min_id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local last = redis.call('XRANGE', journal_key, last_id, last_id)[1]
if not last then return -1 end
local found = {line = '', about = ''}
for place = 1, #last[2], 2 do
  found[last[2][place]] = last[2][place + 1]
end
if found.line ~= last_line or found.about ~= last_about then return -1 end
return redis.call('XTRIM', journal_key, 'MINID', '=', min_id)
