#!lua
-- correct: moves a counter by what it differs from the ledger, and journals that: a difference, never a value.
--
-- KEYS: head, journal, account
-- ARGV: epoch, seen_entry, seen_used, delta, caps, about
--   `seen_entry` and `seen_used` are what the account said when it was compared: it must say so still
--   `delta` is what is missing in it, below zero when it has too many; `caps` are what is missing in capped windows,
--   as `<kind>:<start_ms>:<delta>` and commas; `about` is JSON for the ledger, with the reason
-- Reply: corrected; moved: the account or its shard stands elsewhere by now, so compare again;
--   failed <reason>: the account is damaged, would leave the range of amounts, or the journal refuses; nothing was
--   changed
local head_key, journal_key, account_key = KEYS[1], KEYS[2], KEYS[3]
local epoch, seen_entry, seen_used, delta, caps, about = unpack(ARGV)

-- @include rules/clock
-- @include rules/numbers
-- @include rules/denials
-- @include rules/account
-- @include rules/limits
-- @include rules/journal
-- @include rules/buckets

local head_epoch = redis.call('HGET', head_key, 'epoch')
local account, damage = load_account(account_key)
if damage then return 'failed ' .. damage end
if not account or head_epoch ~= epoch or account.epoch ~= epoch then return 'moved' end
if account.entry ~= seen_entry or digits(account.used) ~= seen_used then return 'moved' end

local function moved_by(number, text)
  local size = whole((string.gsub(text, '^%-', '')))
  local sum = size and number + (string.find(text, '^%-') and -size or size)
  if not sum or sum < 0 or sum > MAX_AMOUNT then error('a corrected balance is not an integer from 0 to 2^53 - 1', 0) end
  return sum, size
end

local function put_caps_right()
  local was = {}
  for kind, start, missing in string.gmatch(caps, '(%l+):(%-?%d+):(%-?%d+)') do
    for _, cap in ipairs(account.caps) do
      if cap.kind == kind and cap.start == start then
        was[#was + 1] = ',' .. kind .. ':' .. digits(cap.spent)
        cap.spent = moved_by(cap.spent, missing)
      end
    end
  end
  return table.concat(was)
end

-- The ledger is right already, so the entry changes nothing in it: it states the ledger's balance, and what was wrong.
local function put_right()
  local used, size = moved_by(account.used, delta)
  moved_by(used, digits(account.held)) -- both together are an amount, too
  account.used = used
  queue(account, 'correct', size, 0, { detail = 'was:' .. seen_used .. put_caps_right(), about = about })
  warn(account)
end

local _, stumble = carefully(put_right)
if stumble then return 'failed ' .. stumble end
local written, refusal = write(journal_key, epoch, { account })
return written and 'corrected' or 'failed ' .. refusal
