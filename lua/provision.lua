#!lua
-- provision: brings an account up to date with what Postgres says of it. A missing one, or one of an older epoch,
-- is written whole from the ledger; a living one keeps what it has used and takes the new terms.
--
-- KEYS: head, journal, account
-- ARGV: epoch, fence, catalog_field, catalog_version, used, entry, cut_start, cut_end, cut_terms, limit, enforcement,
--       window, start, end, terms, ttl_ms, about
--   `used` was counted in the window cut_*, when a plan change cut that one short; else these three are ''
--   `window` is keep when a living account keeps the window it has: a subject that has lost its plan, say
--   `ttl_ms` is 0 for an account that stays, even when it has used nothing
-- Reply: provisioned; moved: what Postgres said may be out of date, read it again;
--   undrained: entries of an older epoch still wait in the journal, so the ledger's balance is not the last word
local head_key, journal_key, account_key = KEYS[1], KEYS[2], KEYS[3]
local epoch, fence, catalog_field, catalog_version, used, entry, cut_start, cut_end, cut_terms, limit, enforcement,
  window, start, period_end, terms, ttl_ms, about = unpack(ARGV)

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local head = redis.call('HMGET', head_key, 'epoch', 'fence', catalog_field)
if head[1] ~= epoch or (head[2] or '0') ~= fence then return 'moved' end
if tonumber(head[3] or '0') > tonumber(catalog_version) then return 'moved' end

local account = redis.call('HMGET', account_key, 'epoch', 'used', 'start', 'end', 'terms', 'entry')
local lives = account[1] == epoch
if not lives then
  local oldest = redis.call('XRANGE', journal_key, '-', '+', 'COUNT', 1)[1]
  if oldest and tonumber(string.match(oldest[1], '^(%d+)%-')) < tonumber(epoch) then return 'undrained' end
end

local function kind_of(words) return string.match(words, '^%S+ (%S+)') end

local function journal(kind, change, used_after, from, till, words)
  local line = string.format('%s %.0f 0 %s %s 1 1 %s %s %s', kind, now_ms, change, used_after, from, till, words)
  entry = redis.call('XADD', journal_key, epoch .. '-*', 'line', line, 'about', about)
end

-- A window that was cut short hands its units on; one that is over keeps them, and the next begins at zero.
local function hand_on(from, till, words)
  journal('close', '-' .. used, '0', from, till, words)
  journal('open', used, used, start, period_end, terms)
end

if lives then
  used, entry = account[2], account[6]
  local is_over = account[4] ~= '-' and now_ms >= tonumber(account[4])
  if window == 'keep' then
    -- Also one that is over: the roll that follows closes it, once.
    start, period_end = account[3], account[4]
    terms = string.match(terms, '^%S+') .. string.match(account[5], '^%S+(.*)$')
  elseif is_over then
    journal('close', '0', used, account[3], account[4], account[5])
    used = '0'
  elseif used ~= '0' and (account[3] ~= start or kind_of(account[5]) ~= kind_of(terms)) then
    hand_on(account[3], account[4], account[5])
  end
elseif cut_start ~= '' and used ~= '0' then
  hand_on(cut_start, cut_end, cut_terms)
end

if not lives then redis.call('DEL', account_key) end
redis.call('HSET', account_key, 'used', used, 'limit', limit, 'end', period_end, 'epoch', epoch, 'version',
  catalog_version, 'enforcement', enforcement, 'start', start, 'terms', terms, 'entry', entry)
-- One that has used something stays: its entries may not be in the ledger when it would expire.
if ttl_ms == '0' or used ~= '0' then redis.call('PERSIST', account_key) else redis.call('PEXPIRE', account_key, ttl_ms) end
if tonumber(head[3] or '0') < tonumber(catalog_version) then
  redis.call('HSET', head_key, catalog_field, catalog_version)
end
return 'provisioned'
