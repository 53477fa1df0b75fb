#!lua
-- begin_epoch: gives a shard its head. Fenced: only a greater epoch wins. A head that cannot be read is none, and so is
-- a journal that is something else: it would keep every shard's entries from the ledger. `began` in the head says which
-- epoch began, and where the journal stood then, 0-0 where all was gone: whoever hears of the epoch later tells by it
-- what had been lost.
--
-- KEYS: head, journal
-- ARGV: epoch, store
--   `store` names the ledger that these counters belong to
-- Reply: begun; kept: the shard is in this epoch or a later one
local head_key, journal_key = KEYS[1], KEYS[2]
local epoch, store = ARGV[1], ARGV[2]

-- @include rules/numbers

local current = redis.pcall('HMGET', head_key, 'epoch', 'fence')
if current.err then
  redis.call('DEL', head_key)
  current = {}
end
local has_head = whole(current[1] or '')
if has_head and has_head >= tonumber(epoch) then return 'kept' end
if not string.match(current[2] or '0', '^%d+$') then redis.call('HDEL', head_key, 'fence') end
local kind = redis.call('TYPE', journal_key).ok
if kind ~= 'stream' and kind ~= 'none' then redis.call('DEL', journal_key) end
local stood_at = '0-0'
if has_head and kind == 'stream' then
  local told = redis.call('XINFO', 'STREAM', journal_key)
  for place = 1, #told, 2 do
    if told[place] == 'last-generated-id' then stood_at = told[place + 1] end
  end
end
redis.call('HSET', head_key, 'epoch', epoch, 'store', store, 'began', epoch .. ' ' .. stood_at)
return 'begun'
