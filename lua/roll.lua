#!lua
-- roll: closes the period that has ended and opens the one that holds now. Fenced by the end that the caller saw.
--
-- KEYS: head, journal, account
-- ARGV: seen_end, start, end, about
-- Reply: rolled; moved: somebody else rolled or changed it first; not_over: Redis's clock has not reached the end
local head_key, journal_key, account_key = KEYS[1], KEYS[2], KEYS[3]
local seen_end, start, period_end, about = unpack(ARGV)

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local epoch = redis.call('HGET', head_key, 'epoch')
local account = redis.call('HMGET', account_key, 'epoch', 'end', 'used', 'start', 'terms')
if not epoch or account[1] ~= epoch or account[2] ~= seen_end then return 'moved' end
if now_ms < tonumber(seen_end) then return 'not_over' end

local line = string.format('close %.0f 0 0 %s 1 1 %s %s %s', now_ms, account[3], account[4], seen_end, account[5])
local id = redis.call('XADD', journal_key, epoch .. '-*', 'line', line, 'about', about)
redis.call('HSET', account_key, 'used', '0', 'start', start, 'end', period_end, 'entry', id)
return 'rolled'
