-- An account between its hash and the rules. A text that the rules would not write the same again is damaged: it is
-- never half understood.
--
-- A table has: key, used, held, limit (nil: unlimited), enforcement, nature, start, period_end (nil: never), window,
-- epoch, version, until_ms, entry, warned, levels, grants, newest_grant, newest_notice (the last
-- change of its terms that has an entry), caps, hold_count, first_expiry, holds (nil: not
-- looked at), hold_changes, denials, seal (places of the last two), sealed (words of the last), expired_ms, found (the
-- texts it was read from), counted_from (since when the running period counts, if it took the place of an earlier one),
-- rollover (how many units of the plan may go on into the next period; '' for none), corrected (whether a person may
-- have put units back, as 0 or 1: in the running period, and in the one that was sealed last; '' for neither).

local function parsed_grants(text)
  local grants = {}
  for id, priority, expires, left, taken, held in string.gmatch(text, '(%d+) (%-?%d+) (%S+) (%d+) (%d+) (%d+)') do
    grants[#grants + 1] = { id = id, priority = tonumber(priority), expires = tonumber(expires), left = tonumber(left),
      taken = tonumber(taken), held = tonumber(held) }
  end
  return grants
end

local function grants_text(grants)
  local texts = {}
  for place, grant in ipairs(grants) do
    texts[place] = table.concat({ grant.id, digits(grant.priority), digits(grant.expires), digits(grant.left),
      digits(grant.taken), digits(grant.held) }, ' ')
  end
  return table.concat(texts, ';')
end

local function parsed_caps(text)
  local caps = {}
  for kind, start, till, limit, spent in string.gmatch(text, '(%l+) (%-?%d+) (%-?%d+) (%d+) (%d+)') do
    caps[#caps + 1] = { kind = kind, start = start, till = tonumber(till), limit = tonumber(limit),
      spent = tonumber(spent) }
  end
  return caps
end

local function caps_text(caps)
  local texts = {}
  for place, cap in ipairs(caps) do
    texts[place] = table.concat({ cap.kind, cap.start, digits(cap.till), digits(cap.limit), digits(cap.spent) }, ' ')
  end
  return table.concat(texts, ';')
end

-- Parts say which buckets units came from: the plan's allowance, then `id:priority:expires:units` of each grant.
local function parsed_parts(text)
  local parts = {}
  for word in string.gmatch(text, '[^,]+') do
    local id, priority, expires, units = string.match(word, '^(%d+):(%-?%d+):([^:]+):(%d+)$')
    if id then
      parts[#parts + 1] = { units = tonumber(units), id = id, priority = tonumber(priority),
        expires = tonumber(expires) }
    else
      parts[#parts + 1] = { units = tonumber(word) }
    end
  end
  return parts
end

local function parts_text(parts)
  local texts = {}
  for place, part in ipairs(parts) do
    texts[place] = digits(part.units)
    if part.id then
      texts[place] = part.id .. ':' .. digits(part.priority) .. ':' .. digits(part.expires) .. ':' .. texts[place]
    end
  end
  return table.concat(texts, ',')
end

local WINDOW = '^(%-?%d+) (%-?%d*) %S+ %l+ %S+ (%S+)$'
local WITHOUT_PLAN = ' ~ ' -- in the words of a window

-- A hold is `amount expires parts caps`, and the words of its period once that has been closed. Raises when damaged.
local function hold_text(hold)
  local text = table.concat({ digits(hold.amount), digits(hold.expires), parts_text(hold.parts), hold.caps }, ' ')
  return hold.sealed and text .. ' ' .. hold.sealed or text
end

local function parsed_hold(place, text)
  local amount, expires, parts, caps, sealed = string.match(text, '^(%d+) (%d+) (%S+) (%S+) ?(.*)$')
  local hold = { place = place, amount = tonumber(amount), expires = tonumber(expires),
    parts = parsed_parts(parts or ''), caps = caps or '', sealed = sealed ~= '' and sealed or nil }
  if hold_text(hold) ~= text or (hold.sealed and not string.find(hold.sealed, WINDOW)) then
    error('the hold ' .. place .. ' is damaged', 0)
  end
  return hold
end

local function by_place(one, other)
  local one_epoch, one_n = string.match(one, '^(%d+)%-(%d+)$')
  local other_epoch, other_n = string.match(other, '^(%d+)%-(%d+)$')
  if one_epoch ~= other_epoch then return tonumber(one_epoch) < tonumber(other_epoch) end
  return tonumber(one_n) < tonumber(other_n)
end

-- The windows of an account's caps, or those of them that hold an instant, as a taking remembers them.
local function cap_windows(account, at_ms)
  local texts = {}
  for _, cap in ipairs(account.caps) do
    if not at_ms or (tonumber(cap.start) <= at_ms and at_ms < cap.till) then
      texts[#texts + 1] = cap.kind .. ':' .. cap.start
    end
  end
  return #texts > 0 and table.concat(texts, ',') or '-'
end

local OPTIONAL = { 'held', 'grants', 'caps', 'warned', 'denials', 'seal', 'sealed', 'newest_grant', 'newest_notice',
  'expired', 'counted_from', 'rollover', 'corrected' }

-- `window` is `<start_ms> <end_ms | -> <plan> <kind> <anchor> <levels>`. False when it is not.
local function set_window(account, words)
  local start, period_end, levels = string.match(words, WINDOW)
  account.window, account.start, account.period_end, account.levels = words, start, tonumber(period_end), levels
  return start and (period_end == '-' or account.period_end)
end

local function has_damaged_options(account)
  local found = account.found
  return grants_text(account.grants) ~= found.grants or caps_text(account.caps) ~= found.caps
    or (found.held ~= '' and not (account.held and account.held <= MAX_AMOUNT))
    or (found.warned ~= '' and not whole(found.warned))
    or (found.denials ~= '' and not string.find(found.denials, DENIALS))
    or (found.seal ~= '' and not string.find(found.seal, '^%d+%-%d+ %d+%-%d+$'))
    or (found.sealed ~= '' and not string.find(found.sealed, WINDOW))
    or (found.newest_grant ~= '' and not whole(found.newest_grant))
    or (found.newest_notice ~= '' and not whole(found.newest_notice))
    or (found.expired ~= '' and not whole(found.expired))
    or (found.counted_from ~= '' and not whole(found.counted_from))
    or (found.rollover ~= '' and not whole(found.rollover))
    or (found.corrected ~= '' and not string.find(found.corrected, '^[01] [01]$'))
end

-- The account, or nil and what is wrong with it; nil alone when there is none.
local function load_account(key)
  local fields = redis.pcall('HMGET', key, 'state', 'rule', 'window', unpack(OPTIONAL))
  if fields.err then return nil, tostring(fields.err) end
  local state, rule, window = fields[1], fields[2], fields[3]
  if not (state or rule or window) then return nil end
  local found = {}
  for place, name in ipairs(OPTIONAL) do found[name] = fields[3 + place] or '' end
  local used, entry = string.match(state or '', '^(%d+) ([%d-]+)$')
  local epoch, version, till, limit, enforcement, nature =
    string.match(rule or '', '^(%d+) (%-?%d+) %-?%d+ %-?%d+ (%-?%d*) (%-?%d*) (%l+) (%l+)$')
  local held, hold_count, first_expiry = '0', '0', NEVER
  if found.held ~= '' then held, hold_count, first_expiry = string.match(found.held, '^(%d+) (%d+) (%d+)$') end
  local account = { -- made with all of its fields, because a table that grows is laid out anew again and again
    key = key, found = found, used = whole(used or ''), entry = entry, epoch = epoch, version = tonumber(version),
    limit = whole(limit or ''), enforcement = enforcement, nature = nature, until_ms = tonumber(till) or NEVER,
    held = tonumber(held), hold_count = tonumber(hold_count), first_expiry = tonumber(first_expiry), hold_changes = {},
    grants = parsed_grants(found.grants), caps = parsed_caps(found.caps), warned = tonumber(found.warned) or 0,
    denials = found.denials, seal = found.seal, sealed = found.sealed, expired_ms = tonumber(found.expired) or 0,
    counted_from = tonumber(found.counted_from), rollover = found.rollover,
    corrected = found.corrected,
    newest_grant = found.newest_grant ~= '' and found.newest_grant or '0',
    newest_notice = found.newest_notice ~= '' and found.newest_notice or '0',
    window = false, start = false, period_end = false, levels = false,
  }
  if not account.used or not epoch or not set_window(account, window or '') or (limit ~= '-' and not account.limit)
    or has_damaged_options(account) then
    return nil, key .. ' is damaged'
  end
  return account
end

local function load_holds(account)
  if account.holds then return end
  account.holds = {}
  if account.hold_count == 0 then return end
  local fields, count = redis.call('HGETALL', account.key), 0
  for place = 1, #fields, 2 do
    local name = string.match(fields[place], '^h:(%d+%-%d+)$')
    if name then
      local hold = parsed_hold(name, fields[place + 1])
      if hold.expires < account.first_expiry then error(account.key .. ' would let no hold go in time', 0) end
      account.holds[name], count = hold, count + 1
    end
  end
  if count ~= account.hold_count then error(account.key .. ' has lost a hold', 0) end
end

local function find_hold(account, place)
  if account.holds then return account.holds[place] end
  local text = account.hold_count > 0 and redis.call('HGET', account.key, 'h:' .. place)
  return text and parsed_hold(place, text)
end

local function change_hold(account, place, hold)
  account.hold_changes[place] = hold and hold_text(hold) or ''
  if account.holds then account.holds[place] = hold end
end

-- Runs what decides. Nothing is written before it is done, so that a text over which it stumbles has changed nothing:
-- then nil, and why.
local function carefully(decide, ...)
  local is_fine, found = pcall(decide, ...)
  if is_fine then return found end
  return nil, type(found) == 'table' and tostring(found.err) or tostring(found)
end
