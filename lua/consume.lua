#!lua
-- consume: decides many independent requests in one trip; each is checked, deducted and journalled alone.
--
-- KEYS, for each request: head, journal, record (only with a fingerprint), then an account for each charge
-- ARGV: request_count, record_ttl_ms; for each request: mode (consume | check), charge_count, catalog_field,
--       catalog_version, fingerprint ('' = no idempotency key); for each charge: metric, amount, about
-- Reply: one text a request. Its first line says what came of it:
--   allowed <now_ms> <epoch> <n of the first entry>    a check that would pass has n = -
--   denied <now_ms>
--   unready <now_ms> <epoch> <fence>                   some account must be provisioned or rolled first
--   uninitialised <now_ms>                             the shard has no head: Redis lost it
--   catalog_changed <now_ms>                           the request was put together with an older catalog
--   key_reused <now_ms>                                the idempotency key belongs to another body
--   failed <reason>                                    a key is damaged or the journal refuses; nothing was charged
--   replayed                                           then the first answer follows, unchanged
-- and one line an account follows allowed, denied and unready:
--   <fits | exceeds | unknown | stale | period_over> <metric> <amount> <used> <held> <limit | -> <start_ms> <end_ms | ->
--   <hard | soft> <terms>; of an unknown account, only its first three words
--
-- Everything is read and checked before the first write, because a script that fails half-way leaves what it wrote.

local MAX_AMOUNT = 9007199254740991 -- 2^53 - 1: above it a double cannot tell two neighbours apart

local function reader(list)
  local place = 0
  return function()
    place = place + 1
    return list[place]
  end
end
local next_key, next_argument = reader(KEYS), reader(ARGV)

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = string.format('%.0f', now_ms)

local function whole(digits)
  if not string.find(digits, '^%d+$') or #digits > 16 then return nil end
  local number = tonumber(digits)
  if number > MAX_AMOUNT then return nil end
  return number
end

local function take_request()
  local request = { head_key = next_key(), journal_key = next_key() }
  request.mode, request.charge_count = next_argument(), tonumber(next_argument())
  request.catalog_field, request.catalog_version = next_argument(), tonumber(next_argument())
  request.fingerprint = next_argument()
  if request.fingerprint ~= '' then request.record_key = next_key() end
  for place = 1, request.charge_count do
    request[place] = { account_key = next_key(), metric = next_argument(), amount = whole(next_argument()),
      about = next_argument() }
  end
  return request
end

-- One read a shard and tenant, however many requests of the call share them. Nothing here writes a head.
local heads = {}
local function head_of(request)
  local name = request.head_key .. ' ' .. request.catalog_field
  if not heads[name] then
    local fields = redis.pcall('HMGET', request.head_key, 'epoch', 'fence', request.catalog_field)
    heads[name] = {
      damage = fields.err and tostring(fields.err),
      epoch = fields[1],
      fence = fields[2] or '0',
      catalog_version = tonumber(fields[3] or '0'),
    }
  end
  return heads[name]
end

local function read_account(charge, epoch, catalog_version)
  local fields = redis.pcall('HMGET', charge.account_key,
    'used', 'limit', 'end', 'epoch', 'version', 'enforcement', 'held', 'start', 'terms')
  if fields.err then return tostring(fields.err) end
  if not fields[4] then
    charge.verdict = 'unknown'
    return
  end
  local version, period_end, limit = tonumber(fields[5]), tonumber(fields[3]), tonumber(fields[2])
  charge.used, charge.held = tonumber(fields[1]), tonumber(fields[7] or '0')
  charge.limit, charge.period_end, charge.enforcement = fields[2], fields[3], fields[6]
  charge.start, charge.terms = fields[8], fields[9]
  local is_whole = charge.used and charge.held and version and charge.enforcement and charge.start and charge.terms
  if not is_whole or not (limit or charge.limit == '-') or not (period_end or charge.period_end == '-') then
    return charge.account_key .. ' is damaged'
  end
  if fields[4] ~= epoch or version < catalog_version then
    charge.verdict = 'stale'
  elseif period_end and now_ms >= period_end then
    charge.verdict = 'period_over'
  else
    charge.used_after = charge.used + charge.amount
    local bound = (limit and charge.enforcement == 'hard') and limit or MAX_AMOUNT
    charge.verdict = (charge.used_after + charge.held <= bound) and 'fits' or 'exceeds'
  end
end

local function describe(charge, used)
  local line = string.format('\n%s %s %.0f', charge.verdict, charge.metric, charge.amount)
  if charge.verdict == 'unknown' then return line end
  return string.format('%s %.0f %.0f %s %s %s %s %s', line, used, charge.held, charge.limit, charge.start,
    charge.period_end, charge.enforcement, charge.terms)
end

local function describe_all(request)
  local lines = ''
  for place = 1, request.charge_count do
    lines = lines .. describe(request[place], request[place].used)
  end
  return lines
end

-- The first append comes before every other write: it is the only one that could be refused.
local function charge_all(request, epoch)
  local first_n, lines = nil, ''
  for place = 1, request.charge_count do
    local charge = request[place]
    local line = string.format('consume %s %.0f %.0f %.0f %d %d %s %s %s', now, charge.amount, charge.amount,
      charge.used_after, place, request.charge_count, charge.start, charge.period_end, charge.terms)
    local id = redis.pcall('XADD', request.journal_key, epoch .. '-*', 'line', line, 'about', charge.about)
    if type(id) == 'table' then return nil, tostring(id.err) end
    redis.call('HSET', charge.account_key, 'used', string.format('%.0f', charge.used_after), 'entry', id)
    first_n = first_n or string.match(id, '%-(%d+)$')
    lines = lines .. describe(charge, charge.used_after)
  end
  return string.format('allowed %s %s %s', now, epoch, first_n or '-') .. lines
end

local function decide(request, record_ttl_ms)
  local head = head_of(request)
  if head.damage then return 'failed ' .. head.damage end
  if not head.epoch then return 'uninitialised ' .. now end
  if request.record_key then
    local record = redis.pcall('GET', request.record_key)
    if type(record) == 'table' then return 'failed ' .. tostring(record.err) end
    if record then
      local fingerprint, answer = string.match(record, '^(%S+)\n(.*)$')
      if fingerprint ~= request.fingerprint then return 'key_reused ' .. now end
      return 'replayed\n' .. answer
    end
  end
  if head.catalog_version > request.catalog_version then return 'catalog_changed ' .. now end

  local ready, fits = true, true
  for place = 1, request.charge_count do
    local charge = request[place]
    if not charge.amount then return 'failed an amount is not an integer from 0 to 2^53 - 1' end
    local damage = read_account(charge, head.epoch, request.catalog_version)
    if damage then return 'failed ' .. damage end
    if charge.verdict == 'exceeds' then fits = false
    elseif charge.verdict ~= 'fits' then ready = false end
  end
  if not ready then return string.format('unready %s %s %s', now, head.epoch, head.fence) .. describe_all(request) end
  if not fits then return 'denied ' .. now .. describe_all(request) end
  if request.mode == 'check' then return 'allowed ' .. now .. ' ' .. head.epoch .. ' -' .. describe_all(request) end

  local answer, refusal = charge_all(request, head.epoch)
  if not answer then return 'failed ' .. refusal end
  if request.record_key then
    redis.call('SET', request.record_key, request.fingerprint .. '\n' .. answer, 'PX', record_ttl_ms)
  end
  return answer
end

local request_count, record_ttl_ms = tonumber(next_argument()), next_argument()
local replies = {}
for place = 1, request_count do
  replies[place] = decide(take_request(), record_ttl_ms)
end
return replies
