#!lua
-- begin_epoch: gives a shard its head. Fenced: only a greater epoch wins.
--
-- KEYS: head
-- ARGV: epoch, store
--   `store` names the ledger that these counters belong to
-- Reply: begun; kept: the shard is in this epoch or a later one
local head_key = KEYS[1]
local epoch, store = ARGV[1], ARGV[2]

local current = redis.call('HGET', head_key, 'epoch')
if current and tonumber(current) >= tonumber(epoch) then return 'kept' end
redis.call('HSET', head_key, 'epoch', epoch, 'store', store)
return 'begun'
