#!lua
-- provision: brings accounts up to date with what Postgres says of them. A missing one, or one of an older epoch, is
-- written whole from the ledger; so is one that was found to differ from it, if it stands where it was compared; any
-- other that lives keeps what it has used and takes the new terms.
--
-- KEYS: head, journal, then the accounts, all of one shard
-- ARGV: epoch, fence, then of each account a JSON object of texts, and of lists of them; what has nothing to say is
--   left out:
--   catalog_field, catalog_version, limit, enforcement, nature, window, caps, grants, rollover, till, entry, used, seal,
--   journalled_grant, cut, holds, ttl_ms, on_window, notices, grant_entries, seen, about
--   `window`, `caps` and `grants` are as in the account's hash; a living account takes from them what it has not got
--   `rollover` is how many units may go on into the next period; `till` the instant at which these terms end by
--   themselves, or -
--   `journalled_grant` is the id of the newest grant that has an entry, and with `entry`, `used`, `seal`, `cut` and
--   `holds` the ledger's word, for an account that does not live: `entry` and `seal` are places; `cut` the window in
--   which `used` was counted, when a plan change cut that short; `holds` are lines of `<place> <hold as in the hash>`
--   `ttl_ms` is there for an account that goes if it has no units and its last entry is `entry`
--   `on_window` is keep when a living account keeps the window it has: a subject that has lost its plan, say
--   `notices` are changes of terms that the ledger has no entry of, each id, kind, amount, detail, about, oldest first;
--   `grant_entries` has of such grants, by their id, the kind and the about of their entry
--   `seen` is `<entry> <used>` of an account that differs from the ledger, which had that entry before it said all of
--   this; `about` is JSON for the ledger, with what differed
-- Reply: of each account provisioned; moved: what Postgres said may be out of date, read it again;
--   undrained: entries of an older epoch still wait in the journal, so the ledger's balance is not the last word;
--   failed <reason>: the journal refuses; nothing of this account was changed
local head_key, journal_key = KEYS[1], KEYS[2]
local epoch, fence = ARGV[1], ARGV[2]
local account_key, said

-- @include rules/clock
-- @include rules/numbers
-- @include rules/denials
-- @include rules/account
-- @include rules/limits
-- @include rules/journal
-- @include rules/buckets

-- What the ledger knows: units used, and holds that were neither settled nor found expired.
local function from_ledger()
  local account = { key = account_key, is_new = true, found = {}, used = tonumber(said.used), entry = said.entry,
    held = 0, hold_count = 0, first_expiry = NEVER, hold_changes = {}, holds = {},
    grants = parsed_grants(said.grants or ''), caps = parsed_caps(said.caps or ''), expired_ms = 0, warned = 0,
    denials = '', seal = said.seal or '', sealed = '', newest_grant = said.journalled_grant,
    newest_notice = '0', limit = tonumber(said.limit), enforcement = said.enforcement, nature = said.nature,
    rollover = said.rollover or '',
    -- It does not say how it came to its balance, so a person may have put units back.
    corrected = said.entry ~= '-' and '1 0' or '' }
  for _, name in ipairs(OPTIONAL) do account.found[name] = '' end
  set_window(account, said.cut or said.window)
  for place, text in string.gmatch(said.holds or '', '(%S+) ([^\n]+)') do
    local hold = parsed_hold(place, text)
    account.hold_count, account.first_expiry = account.hold_count + 1, math.min(account.first_expiry, hold.expires)
    change_hold(account, place, hold)
    spend(account, hold.caps, hold.amount)
    for _, part in ipairs(hold.parts) do
      local grant = part.id and find_grant(account, part.id)
      if grant then
        -- Where Redis went back, more may be taken of a grant than it had: nothing is left of it then, and never less.
        grant.left, grant.held = math.max(0, grant.left - part.units), grant.held + (hold.sealed and 0 or part.units)
      end
    end
    if not hold.sealed then account.held = account.held + worth(account, hold.parts) end
  end
  return account
end

-- What differed in an account that lives goes; what the ledger does not know stays. Nil when the account stands
-- elsewhere by now, or in a window that the ledger does not speak of.
local function put_right(account)
  if not account or account.epoch ~= epoch then return nil end
  if account.entry .. ' ' .. digits(account.used) ~= said.seen then return nil end
  local right = from_ledger()
  local is_same_window = right.start == account.start
  local is_later = account.used == 0 and tonumber(right.start) > tonumber(account.start)
  if right.used ~= account.used or not (is_same_window or is_later) then return nil end
  right.denials, right.seal, right.sealed, right.expired_ms = account.denials, account.seal, account.sealed,
    account.expired_ms
  right.newest_notice, right.corrected = account.newest_notice, account.corrected
  if is_same_window then right.counted_from = account.counted_from end
  queue(right, 'correct', 0, 0, { detail = 'was:' .. digits(account.used), about = said.about })
  return right
end

-- The units of a window that was cut short move on into the new one, with the buckets that they came from.
local function hand_on(account)
  local moved, parts = account.used, { { units = account.used } }
  for _, grant in ipairs(account.grants) do
    if grant.taken > 0 then
      parts[1].units = parts[1].units - grant.taken
      parts[#parts + 1] = { units = grant.taken, id = grant.id, priority = grant.priority, expires = grant.expires }
    end
  end
  account.used = 0
  queue(account, 'close', 0, -moved, { parts = parts })
  account.used = moved
  set_window(account, said.window)
  queue(account, 'open', 0, moved, { parts = parts })
end

local function same_window(account)
  local function name(words) return string.match(words, '^(%S+) %S+ %S+ (%S+)') end
  local start, kind = name(account.window)
  local new_start, new_kind = name(said.window)
  return start == new_start and kind == new_kind
end

-- True when it has closed a period that was over, and opened the one that holds now.
local function enter_window(account)
  local is_over = account.period_end and now_ms >= account.period_end
  local new_end = tonumber(string.match(said.window, '^%S+ (%S+)')) or NEVER
  -- Left as it is: a window that is over to the roll that follows, unless the next one is known; and when the clock
  -- stepped back, what was sealed is not opened again.
  local sealed_end = tonumber((string.match(account.sealed, '^%S+ (%S+)'))) or 0
  local is_left = said.on_window == 'keep' or new_end <= math.max(tonumber(account.start), sealed_end)
  if is_over and now_ms >= new_end then return end
  if is_left and not account.is_new then
    if not is_over then let_go(account, now_ms) end
    local bounds, kind_and_anchor = string.match(account.window, '^(%S+ %S+) %S+ (%S+ %S+)')
    local plan, levels = string.match(said.window, '^%S+ %S+ (%S+) %S+ %S+ (%S+)$')
    set_window(account, table.concat({ bounds, plan, kind_and_anchor, levels }, ' '))
    return
  end
  if is_over then close(account, said.window) else let_go(account, now_ms) end
  local counted_from = math.max(0, math.min(account.counted_from or NEVER, tonumber(account.start)))
  if not is_over and account.used > 0 and not same_window(account) then hand_on(account) end
  set_window(account, said.window)
  account.counted_from = not is_over and counted_from < tonumber(account.start) and counted_from or nil
  if is_over then let_go(account, now_ms) end
  return is_over
end

local function enter_caps(account)
  local known = {}
  for _, cap in ipairs(account.caps) do known[cap.kind] = cap end
  account.caps = parsed_caps(said.caps or '')
  for _, cap in ipairs(account.caps) do
    local old = known[cap.kind]
    if old and tonumber(old.start) >= tonumber(cap.start) then
      cap.start, cap.till, cap.spent = old.start, old.till, old.spent
    end
  end
end

local function enter_grants(account)
  local newest = tonumber(account.newest_grant)
  for _, grant in ipairs(parsed_grants(said.grants or '')) do
    if tonumber(grant.id) > newest then
      if not find_grant(account, grant.id) then insert_grant(account, grant) end
      account.newest_grant = digits(math.max(tonumber(account.newest_grant), tonumber(grant.id)))
      local kind, about = unpack((said.grant_entries or {})[grant.id] or { 'grant' })
      queue(account, kind, grant.left, 0, { detail = 'grant:' .. grant.id, about = about })
    end
  end
end

-- What changed the terms, each change once: after they were taken, so that its entry's window says what holds now.
local function enter_notices(account)
  for _, notice in ipairs(said.notices or {}) do
    local id, kind, amount, detail, about = unpack(notice)
    if tonumber(id) > tonumber(account.newest_notice) then
      account.newest_notice = id
      queue(account, kind, tonumber(amount), 0, { detail = detail, about = about })
    end
  end
end

-- A notice that opens the account tells the ledger of its period, too.
local function opens_by_notice(account)
  for _, notice in ipairs(said.notices or {}) do
    if notice[2] == 'open' and tonumber(notice[1]) > tonumber(account.newest_notice) then return true end
  end
end

local head = redis.call('HMGET', head_key, 'epoch', 'fence')
local is_moved = head[1] ~= epoch or (head[2] or '0') ~= fence

-- Both are asked for once: what is appended here is of this epoch, and a version changes by `note_version` alone.
local versions = {}
local function version_of(field)
  versions[field] = versions[field] or whole(redis.call('HGET', head_key, field) or '0') or 0
  return versions[field]
end

local function note_version(field, version)
  if version_of(field) < tonumber(version) then
    redis.call('HSET', head_key, field, version)
    versions[field] = tonumber(version)
  end
end

local oldest
local function is_drained()
  oldest = oldest or redis.call('XRANGE', journal_key, '-', '+', 'COUNT', 1)
  return not oldest[1] or tonumber(string.match(oldest[1][1], '^(%d+)%-')) >= tonumber(epoch)
end

local function provision()
  if is_moved or version_of(said.catalog_field) > tonumber(said.catalog_version) then return 'moved' end

  -- One that is damaged is written anew, like one that is missing.
  local account, damage = load_account(account_key)
  local is_there = account or damage
  if account and select(2, carefully(load_holds, account)) then account = nil end
  if said.seen then
    account = put_right(account)
    if not account then return 'moved' end
  elseif not account or account.epoch ~= epoch then
    if not is_drained() then return 'undrained' end
    account = from_ledger()
  end
  account.replaces = account.is_new and is_there

  local limit_before = NEVER
  local has_opened = enter_window(account)
  -- A period that nothing is known of is opened, too, when something of it will go on.
  local is_first = account.found.rollover == '' and (not account.is_new or account.entry == '-')
  account.rollover = said.rollover or ''
  if (has_opened or is_first) and not opens_by_notice(account) then open(account) end
  if not account.is_new then
    limit_before = effective_limit(account) or NEVER
    enter_caps(account)
  end
  account.limit, account.enforcement, account.nature = tonumber(said.limit), said.enforcement, said.nature
  account.epoch, account.version, account.until_ms = epoch, said.catalog_version, tonumber(said.till) or NEVER
  enter_grants(account)
  local noticed = account.newest_notice
  enter_notices(account)
  if account.is_new then
    account.warned = (levels_of(account))
  elseif (effective_limit(account) or NEVER) > limit_before then
    account.warned = math.min(account.warned, (levels_of(account)))
  end

  local written, refusal = write(journal_key, epoch, { account })
  if not written then return 'failed ' .. refusal end
  -- What has units stays. So does what had some until now: it goes when the ledger is known to have its last entry.
  -- A note whose notice the ledger may not have stays as well: made anew, it would journal that again.
  if not said.ttl_ms or account.newest_notice ~= noticed then
    if not account.is_new then redis.call('PERSIST', account_key) end
  elseif not has_units(account) and account.entry == said.entry then
    redis.call('PEXPIRE', account_key, said.ttl_ms)
  end
  note_version(said.catalog_field, said.catalog_version)
  return 'provisioned'
end

local FIRST = 3
local replies = {}
for place = FIRST, #KEYS do
  account_key, said, entries = KEYS[place], cjson.decode(ARGV[place]), {}
  replies[#replies + 1] = provision()
end
return replies
