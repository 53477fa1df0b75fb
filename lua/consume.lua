#!lua
-- consume: decides many independent requests in one trip; each is checked, deducted and journalled alone.
--
-- KEYS, for each request: head, journal, record (only with a fingerprint), refunds (only to refund), then an account
--       for each charge
-- ARGV: request_count, record_ttl_ms, not_after_ms; for each request: mode, charge_count, catalog_field,
--       catalog_version, fingerprint ('' = no idempotency key), about; for each charge: amount, detail (not of consume
--       and check)
--   `mode` is consume, check, hold, commit, release, refund, give, set, charge, adjust or gift: rules/modes.lua says
--   what each does
--   `not_after_ms`: past it by Redis's clock nothing is charged any more, because nobody waits for the reply
-- Reply: one text a request. Its first line says what came of it:
--   allowed <now_ms> <epoch> <n of the first entry>    a check that would pass has n = -
--   denied <now_ms>
--   unready <now_ms> <epoch> <fence>                   some account must be provisioned or rolled first; the fence is -
--                                                      while entries of an older epoch wait that it may be in
--   uninitialised <now_ms>                             the shard has no head: Redis lost it
--   catalog_changed <now_ms>                           the request was put together with an older catalog
--   key_reused <now_ms>                                the idempotency key belongs to another body
--   late <now_ms>                                      the request came after `not_after_ms`
--   not_held <now_ms>, already_refunded <now_ms>, below_zero <now_ms>, crowded <now_ms>, undrained <now_ms>
--   failed <reason>                                    a key is damaged or the journal refuses; nothing was charged
--   replayed                                           then the first answer follows, unchanged
-- and one line an account follows allowed, denied and unready:
--   <fits | exceeds | unknown | stale | period_over> <account> <amount | -> <used> <held> <limit with grants | - | =>
--   <limit | -> <enforcement> <nature> <start_ms> <end_ms | -> <plan> <kind> <anchor> <levels>
--   (= is the limit that follows; of an unknown account, only the first three words)
--   then `cap <kind> <start_ms> <end_ms> <limit> <spent>` a cap, `grant <id> <expires_ms | -> <left>` a grant,
--   `refunded <in all>` of a refund
--
-- Everything is read and checked before the first write, because a script that fails half-way leaves what it wrote.

local KEYS, ARGV = KEYS, ARGV
local call, match, format, tonumber = redis.call, string.match, string.format, tonumber
-- @include rules/clock
-- @include rules/numbers
-- @include rules/denials

local request_count, record_ttl_ms, not_after_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local REFUNDS_TTL_MS = 604800000 -- a week: by then the ledger knows what was given back
local key_at, argument_at = 0, 3
local held_up = {} -- accounts that an earlier request of this call found unready

-- One read a shard and tenant, however many requests of the call share them. Nothing here writes a head.
local heads = {}
local function head_of(head_key, catalog_field)
  local name = head_key .. catalog_field
  if not heads[name] then
    local fields = redis.pcall('HMGET', head_key, 'epoch', 'fence', catalog_field)
    heads[name] = {
      damage = fields.err and tostring(fields.err),
      epoch = fields[1],
      fence = fields[2] or '0',
      catalog_version = whole(fields[3] or '0'), -- nil: it cannot be read, and is written anew by provision
      catalog_version_text = fields[3] or '0',
    }
  end
  return heads[name]
end

-- Everything but the plain case. Made only when the first request needs it: most calls have none that does.
local function make_rules()
  -- @include rules/account
  -- @include rules/limits
  -- @include rules/journal
  -- @include rules/buckets
  -- @include rules/modes

  local function verdict_of(account, request)
    if account.epoch ~= request.epoch or account.version < request.catalog_version then return 'stale' end
    if not request.head.catalog_version then return 'stale' end
    if account.until_ms <= now_ms then return 'stale' end
    if account.period_end and now_ms >= account.period_end then return 'period_over' end
    for _, cap in ipairs(account.caps) do
      if now_ms >= cap.till then return 'period_over' end
    end
    return 'fits'
  end

  local function describe(charge)
    local account = charge.account
    local line = '\n' .. charge.verdict .. ' ' .. charge.key .. ' ' .. digits(charge.amount)
    if not account then return line end
    line = table.concat({ line, digits(account.used), digits(account.held), digits(effective_limit(account)),
      digits(account.limit), account.enforcement, account.nature, account.window }, ' ')
    for _, cap in ipairs(account.caps) do line = line .. '\ncap ' .. caps_text({ cap }) end
    for _, grant in ipairs(account.grants) do
      line = line .. '\ngrant ' .. grant.id .. ' ' .. digits(grant.expires) .. ' ' .. digits(grant.left)
    end
    if charge.refunded then line = line .. '\nrefunded ' .. digits(charge.refunded) end
    return line
  end

  local function described(first_line, request)
    for _, charge in ipairs(request) do first_line = first_line .. describe(charge) end
    return first_line
  end

  -- The ledger's balance is the last word only if all of the epochs before was in it when it was asked.
  local function fence_of(request)
    for _, charge in ipairs(request) do
      if not charge.account or charge.account.epoch ~= request.epoch then
        local oldest = redis.call('XRANGE', request.journal_key, '-', '+', 'COUNT', 1)[1]
        return oldest and match(oldest[1], '^%d+') ~= request.epoch and '-' or request.head.fence
      end
    end
    return request.head.fence
  end

  local takes_all_held = { commit = true, release = true }

  local function load_all(request)
    local seen, is_ready = {}, true
    for _, charge in ipairs(request) do
      if seen[charge.key] then return nil, 'an account is charged twice in one request' end
      seen[charge.key] = true
      if not charge.amount and not (charge.amount_text == '-' and takes_all_held[request.mode]) then
        return nil, 'an amount is not an integer from 0 to 2^53 - 1'
      end
      local account, damage = load_account(charge.key)
      if damage then return nil, damage end
      charge.account, charge.verdict = account, account and verdict_of(account, request) or 'unknown'
      -- Whatever comes later in this call and needs one of these accounts waits for it too, to keep its place.
      if charge.verdict ~= 'fits' or held_up[charge.key] then is_ready = false end
    end
    if not is_ready then
      for _, charge in ipairs(request) do held_up[charge.key] = true end
    end
    return is_ready
  end

  local function remember(request, answer)
    if request.record_key then
      redis.call('SET', request.record_key, request.fingerprint .. '\n' .. answer, 'PX', record_ttl_ms)
    end
    for _, charge in ipairs(request) do
      if charge.refunded then
        redis.call('HSET', request.refunds_key, charge.place, request.epoch .. ' ' .. digits(charge.refunded))
        redis.call('PEXPIRE', request.refunds_key, REFUNDS_TTL_MS)
      end
    end
  end

  local function decide_by_mode(request)
    for _, charge in ipairs(request) do let_go(charge.account, now_ms) end
    return modes[request.mode](request)
  end

  local function first_of(request)
    for _, entry in ipairs(entries) do
      if entry.is_receipt then return match(entry.id, '%-(%d+)$') end
    end
    return '-'
  end

  return function(request)
    local is_ready, damage = load_all(request)
    if damage then return 'failed ' .. damage end
    if not is_ready then
      return described('unready ' .. now .. ' ' .. request.epoch .. ' ' .. fence_of(request), request)
    end
    entries = {}
    local word, stumble = carefully(decide_by_mode, request)
    if not word then return 'failed ' .. stumble end
    if request.mode == 'check' then
      local last = word == 'allowed' and ' ' .. request.epoch .. ' -' or ''
      return described(word .. ' ' .. now .. last, request)
    end
    local touched = {}
    for place, charge in ipairs(request) do touched[place] = charge.account end
    local written, refusal = write(request.journal_key, request.epoch, touched)
    if not written then return 'failed ' .. refusal end
    if word ~= 'allowed' then return described(word .. ' ' .. now, request) end
    local answer = described('allowed ' .. now .. ' ' .. request.epoch .. ' ' .. first_of(request), request)
    remember(request, answer)
    return answer
  end
end
local by_rules

local function taken_request(mode, charge_count)
  local request = { mode = mode, head_key = KEYS[key_at + 1], journal_key = KEYS[key_at + 2],
    catalog_field = ARGV[argument_at + 3], catalog_version = tonumber(ARGV[argument_at + 4]),
    fingerprint = ARGV[argument_at + 5], about = ARGV[argument_at + 6] }
  key_at, argument_at = key_at + 2, argument_at + 6
  if request.fingerprint ~= '' then key_at, request.record_key = key_at + 1, KEYS[key_at + 1] end
  if mode == 'refund' then key_at, request.refunds_key = key_at + 1, KEYS[key_at + 1] end
  local has_detail = mode ~= 'consume' and mode ~= 'check'
  for place = 1, charge_count do
    local amount = ARGV[argument_at + 1]
    local charge = { key = KEYS[key_at + place], amount = whole(amount), amount_text = amount }
    argument_at = argument_at + 1
    if has_detail then argument_at, charge.detail = argument_at + 1, ARGV[argument_at + 1] end
    request[place] = charge
  end
  key_at = key_at + charge_count
  return request
end

local function decide()
  local mode, charge_count = ARGV[argument_at + 1], tonumber(ARGV[argument_at + 2])
  local request = taken_request(mode, charge_count)
  local head = head_of(request.head_key, request.catalog_field)
  if head.damage then return 'failed ' .. head.damage end
  if not head.epoch then return 'uninitialised ' .. now end
  request.head, request.epoch = head, head.epoch
  if request.record_key then
    local record = redis.pcall('GET', request.record_key)
    if type(record) == 'table' then return 'failed ' .. tostring(record.err) end
    if record then
      local fingerprint, answer = match(record, '^(%S+)\n(.*)$')
      if fingerprint ~= request.fingerprint then return 'key_reused ' .. now end
      return 'replayed\n' .. answer
    end
  end
  if now_ms > not_after_ms then return 'late ' .. now end
  if (head.catalog_version or 0) > request.catalog_version then return 'catalog_changed ' .. now end
  by_rules = by_rules or make_rules()
  return by_rules(request)
end

-- What an account that has no ceiling of its own is told above its limit, once denials are counted and not told one by
-- one: a loop of them costs as little as what fits. nil when the rules must decide.
local function deny_plainly(mode, account_key, used, amount, ceiling, terms)
  local limit, enforcement = match(terms, '^(%d+) (%l+) ')
  if enforcement ~= 'hard' or ceiling == '-1' or used + amount <= tonumber(limit) then return nil end
  if mode == 'consume' then
    local denials = counted_untold(call('HGET', account_key, 'denials') or '', amount)
    if not denials then return nil end
    call('HSET', account_key, 'denials', denials)
  end
  return 'denied ' .. now .. '\nexceeds ' .. account_key .. ' ' .. digits(amount) .. ' ' .. digits(used) .. ' 0 = '
end

-- The plain case: one charge to a plain account that fits and reaches no warning, under a new idempotency key or none.
-- nil when it is not that plain; then nothing was written, and the rules decide.
local function decide_plainly(mode)
  local head = head_of(KEYS[key_at + 1], ARGV[argument_at + 3])
  local fingerprint, amount_text = ARGV[argument_at + 5], ARGV[argument_at + 7]
  local amount = whole(amount_text)
  if not head.epoch or not amount or ARGV[argument_at + 4] ~= head.catalog_version_text then return nil end
  local account_key, record_key = KEYS[key_at + 3], nil
  if fingerprint ~= '' then account_key, record_key = KEYS[key_at + 4], KEYS[key_at + 3] end
  if held_up[account_key] or (record_key and call('EXISTS', record_key) == 1) then return nil end
  local fields = redis.pcall('HMGET', account_key, 'state', 'rule', 'window')
  local state, rule, window = fields[1], fields[2], fields[3]
  if not state or not rule or not window then return nil end
  local epoch, version, ceiling, next_ms, tail = match(rule, '^(%d+) (%-?%d+) (%-?%d+) (%d+) [^ ]* (.*)$')
  local used = tonumber(match(state, '^(%d+) '))
  if epoch ~= head.epoch or version ~= head.catalog_version_text or not used then return nil end
  if now_ms >= tonumber(next_ms) then return nil end
  local fits = used + amount <= tonumber(ceiling)
  local denial = not fits and deny_plainly(mode, account_key, used, amount, ceiling, tail)
  if not fits and not denial then return nil end
  local journal_key, about, n = KEYS[key_at + 2], ARGV[argument_at + 6], '-'
  key_at, argument_at = key_at + (record_key and 4 or 3), argument_at + 7
  if denial then return denial .. tail .. ' ' .. window end
  if mode == 'consume' then
    used = format('%d', used + amount)
    local id = redis.pcall('XADD', journal_key, epoch .. '-*', 'line', 'consume ' .. now .. ' ' .. amount_text .. ' ' ..
      amount_text .. ' ' .. used .. ' 1 1 - - - ' .. account_key .. ' ' .. window, 'about', about)
    if type(id) == 'table' then return 'failed ' .. tostring(id.err) end
    call('HSET', account_key, 'state', used .. ' ' .. id)
    n = match(id, '%d+$')
  else
    used = format('%d', used)
  end
  local answer = 'allowed ' .. now .. ' ' .. epoch .. ' ' .. n .. '\nfits ' .. account_key .. ' ' .. amount_text ..
    ' ' .. used .. ' 0 = ' .. tail .. ' ' .. window
  if record_key then call('SET', record_key, fingerprint .. '\n' .. answer, 'PX', record_ttl_ms) end
  return answer
end

local replies = {}
for place = 1, request_count do
  local mode, reply = ARGV[argument_at + 1], nil
  if (mode == 'consume' or mode == 'check') and ARGV[argument_at + 2] == '1' and now_ms <= not_after_ms then
    reply = decide_plainly(mode)
  end
  replies[place] = reply or decide()
end
return replies
