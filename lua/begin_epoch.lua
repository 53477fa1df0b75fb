#!lua
-- begin_epoch: gives a shard its head. Fenced: only a greater epoch wins. A head that cannot be read is none, and so is
-- a journal that is something else: it would keep every shard's entries from the ledger.
--
-- KEYS: head, journal
-- ARGV: epoch, store
--   `store` names the ledger that these counters belong to
-- Reply: begun; kept: the shard is in this epoch or a later one
local head_key, journal_key = KEYS[1], KEYS[2]
local epoch, store = ARGV[1], ARGV[2]

local current = redis.pcall('HMGET', head_key, 'epoch', 'fence')
if current.err then
  redis.call('DEL', head_key)
  current = {}
end
if string.match(current[1] or '', '^%d+$') and tonumber(current[1]) >= tonumber(epoch) then return 'kept' end
if not string.match(current[2] or '0', '^%d+$') then redis.call('HDEL', head_key, 'fence') end
local kind = redis.call('TYPE', journal_key).ok
if kind ~= 'stream' and kind ~= 'none' then redis.call('DEL', journal_key) end
redis.call('HSET', head_key, 'epoch', epoch, 'store', store)
return 'begun'
