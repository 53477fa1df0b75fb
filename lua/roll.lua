#!lua
-- roll: closes each window that is over, of the period and of its caps, and opens the one that holds now, at zero.
--
-- KEYS: head, journal, account
-- ARGV: seen_end, window, caps
--   `seen_end` is the period's end that the caller saw; `window` as in the account's hash: the period that holds now
--   `caps` are those that hold now, as in the account's hash
-- Reply: rolled; moved: somebody else rolled or changed it first; not_over: Redis's clock has not reached an end;
--   failed <reason>: the journal refuses; nothing was changed
local head_key, journal_key, account_key = KEYS[1], KEYS[2], KEYS[3]
local seen_end, window, caps = unpack(ARGV)

-- @include rules/clock
-- @include rules/numbers
-- @include rules/denials
-- @include rules/account
-- @include rules/limits
-- @include rules/journal
-- @include rules/buckets

local epoch = redis.call('HGET', head_key, 'epoch')
local account = load_account(account_key)
if not epoch or not account or account.epoch ~= epoch or digits(account.period_end) ~= seen_end then return 'moved' end

local function open_windows()
  local is_over = account.period_end and now_ms >= account.period_end
  local was_over = is_over
  if is_over then
    close(account, window)
    set_window(account, window)
  end
  for _, next_cap in ipairs(parsed_caps(caps)) do
    for place, cap in ipairs(account.caps) do
      if cap.kind == next_cap.kind and now_ms >= cap.till then
        next_cap.limit = cap.limit
        account.caps[place], is_over = next_cap, true
      end
    end
  end
  if is_over then let_go(account, now_ms) end
  if was_over then open(account) end
  return is_over and 'rolled' or 'not_over'
end

local word, stumble = carefully(open_windows)
if not word then return 'failed ' .. stumble end
if word == 'not_over' then return word end
local written, refusal = write(journal_key, epoch, { account })
return written and word or 'failed ' .. refusal
