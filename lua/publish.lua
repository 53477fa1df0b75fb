#!lua
-- publish: tells a shard that Postgres knows something newer, after the change was committed there. The fence turns
-- back whoever read Postgres before it; the accounts named here are read anew at their next touch.
--
-- KEYS: head, then any number of accounts
-- ARGV: catalog_field, catalog_version
-- Reply: the number of accounts that were marked
local head_key = KEYS[1]
local catalog_field, catalog_version = ARGV[1], ARGV[2]

-- @include rules/numbers

-- A shard that has no head has no account either; a head without an epoch would look like one that lost it.
local head = redis.call('HMGET', head_key, 'epoch', catalog_field)
if not head[1] then return 0 end

local is_newer = (whole(head[2] or '0') or 0) < tonumber(catalog_version)
redis.call('HINCRBY', head_key, 'fence', 1)
if is_newer then
  redis.call('HSET', head_key, catalog_field, catalog_version)
end
local marked = 0
for place = 2, #KEYS do
  local rule = redis.pcall('HGET', KEYS[place], 'rule')
  if type(rule) == 'string' then
    redis.call('HSET', KEYS[place], 'rule', (string.gsub(rule, '^(%d+) %-?%d+', '%1 -1')))
    marked = marked + 1
  end
end
return marked
