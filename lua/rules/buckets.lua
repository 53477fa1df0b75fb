-- The rules of counting, as quota/model.py says them. Nothing here writes: accounts are tables, entries are queued.

local function find_grant(account, id)
  for place, grant in ipairs(account.grants) do
    if grant.id == id then return grant, place end
  end
end

local function comes_before(grant, other)
  if grant.priority ~= other.priority then return grant.priority < other.priority end
  local expires, other_expires = grant.expires or NEVER, other.expires or NEVER
  if expires ~= other_expires then return expires < other_expires end
  return tonumber(grant.id) < tonumber(other.id)
end

local function insert_grant(account, grant)
  local place = 1
  while account.grants[place] and comes_before(account.grants[place], grant) do place = place + 1 end
  table.insert(account.grants, place, grant)
  return grant
end

-- The grant that units go back to: one that was used up and put away comes back, one that has expired does not, even
-- when the clock steps back.
local function grant_of(account, part, at_ms)
  if not part.id or (part.expires and part.expires <= math.max(at_ms, account.expired_ms)) then return nil end
  local found = find_grant(account, part.id)
  if found then return found end
  return insert_grant(account,
    { id = part.id, priority = part.priority, expires = part.expires, left = 0, taken = 0, held = 0 })
end

-- What parts count for in `used`: units of a grant that has expired went when it did. `sealed` are the words of the
-- period, when it is over.
local function worth(account, parts, sealed)
  local sum = 0
  local till = sealed and (tonumber((string.match(sealed, '^%S+ (%S+)'))) or NEVER)
  for _, part in ipairs(parts) do
    local counts = not part.id
    if part.id and sealed then counts = not (part.expires and part.expires < till) end
    if part.id and not sealed then counts = find_grant(account, part.id) end
    if counts then sum = sum + part.units end
  end
  return sum
end

local function split(parts, units)
  local first, rest = {}, {}
  for _, part in ipairs(parts) do
    local taken = math.min(units, part.units)
    units = units - taken
    local function piece(size)
      return { units = size, id = part.id, priority = part.priority, expires = part.expires }
    end
    if taken > 0 then first[#first + 1] = piece(taken) end
    if part.units > taken then rest[#rest + 1] = piece(part.units - taken) end
  end
  return first, rest
end

local function sum_of(parts)
  local sum = 0
  for _, part in ipairs(parts) do sum = sum + part.units end
  return sum
end

-- Units that count in some capped windows; those that are over are left alone.
local function spend(account, windows, units)
  for _, cap in ipairs(account.caps) do
    if string.find(',' .. windows .. ',', ',' .. cap.kind .. ':' .. cap.start .. ',', 1, true) then
      cap.spent = math.max(0, cap.spent + units) -- a cap that was taken away and came back has forgotten some
    end
  end
end

local function unhold(account, hold, returned, at_ms)
  if not hold.sealed then
    account.held = account.held - worth(account, hold.parts)
    for _, part in ipairs(hold.parts) do
      local grant = part.id and find_grant(account, part.id)
      if grant then grant.held = grant.held - part.units end
    end
  end
  for _, part in ipairs(returned) do
    local grant = grant_of(account, part, at_ms)
    if grant then grant.left = grant.left + part.units end
  end
  spend(account, hold.caps, -sum_of(returned))
  account.hold_count = account.hold_count - 1
  change_hold(account, hold.place, nil)
end

-- Holds and grants that have expired count for nothing from that instant, with no job having run.
local function let_go(account, until_ms)
  if account.hold_count > 0 and account.first_expiry <= until_ms then
    load_holds(account)
    local over = {}
    account.first_expiry = NEVER
    for place, hold in pairs(account.holds) do
      if hold.expires <= until_ms then over[#over + 1] = place
      else account.first_expiry = math.min(account.first_expiry, hold.expires) end
    end
    table.sort(over, by_place)
    for _, place in ipairs(over) do
      local hold = account.holds[place]
      unhold(account, hold, hold.parts, until_ms)
      queue(account, 'expire', hold.amount, 0, { sealed = hold.sealed, detail = place, parts = hold.parts })
    end
  end
  local place = 1
  while account.grants[place] do
    local grant = account.grants[place]
    if grant.expires and grant.expires <= until_ms then
      table.remove(account.grants, place)
      account.expired_ms = math.max(account.expired_ms, grant.expires)
      account.held, account.used = account.held - grant.held, account.used - grant.taken
      queue(account, 'expire', grant.left, -grant.taken, { detail = 'grant:' .. grant.id })
    else
      place = place + 1
    end
  end
end

-- nil when it fits, else what it does not fit into: `limit`, or a cap's kind.
local function bound_by(account, amount)
  local total = account.used + account.held + amount
  if total > MAX_AMOUNT then return 'limit' end
  if account.enforcement == 'soft' then return nil end
  if total > (effective_limit(account) or MAX_AMOUNT) then return 'limit' end
  for _, cap in ipairs(account.caps) do
    if cap.spent + amount > cap.limit then return cap.kind end
  end
end

local function draw(account, amount)
  if not account.limit or account.nature == 'level' then return { { units = amount } } end
  local of_plan = account.used + account.held
  for _, grant in ipairs(account.grants) do of_plan = of_plan - grant.taken - grant.held end
  local from_plan = math.min(amount, math.max(0, account.limit - of_plan))
  local parts, missing = { { units = 0 } }, amount - from_plan
  for _, grant in ipairs(account.grants) do
    local units = math.min(missing, grant.left)
    if units > 0 then
      parts[#parts + 1] = { units = units, id = grant.id, priority = grant.priority, expires = grant.expires }
      grant.left, missing = grant.left - units, missing - units
    end
  end
  parts[1].units = from_plan + missing -- what a soft limit lets through above everything is the plan's
  return parts
end

-- Whether so much of each grant counts in `used`: a correction may have put some of it back already.
local function are_taken(account, parts)
  local units_of = {}
  for _, part in ipairs(parts) do
    local grant = part.id and find_grant(account, part.id)
    if grant then
      units_of[part.id] = (units_of[part.id] or 0) + part.units
      if units_of[part.id] > grant.taken then return false end
    end
  end
  return true
end

-- Into the buckets, what was drawn last first: the grants in the turned order of their use, then the plan's allowance.
local function put_back(account, amount)
  local parts, missing = { { units = 0 } }, amount
  for place = #account.grants, 1, -1 do
    local grant = account.grants[place]
    local units = math.min(missing, grant.taken)
    if units > 0 then
      parts[#parts + 1] = { units = units, id = grant.id, priority = grant.priority, expires = grant.expires }
      grant.left, grant.taken, missing = grant.left + units, grant.taken - units, missing - units
    end
  end
  parts[1].units = missing
  return parts
end

-- What grants have left, but for units that the account needs itself: it may have used more than its plan gives now.
local function spare_of_grants(account)
  local left, limit = 0, effective_limit(account)
  for _, grant in ipairs(account.grants) do left = left + grant.left end
  return limit and math.max(0, math.min(left, limit - account.used - account.held)) or left
end

-- In the order in which they would be used.
local function give_away(account, amount)
  local parts, missing = {}, amount
  for _, grant in ipairs(account.grants) do
    local units = math.min(missing, grant.left)
    if units > 0 then
      parts[#parts + 1] = { units = units, id = grant.id, priority = grant.priority, expires = grant.expires }
      grant.left, missing = grant.left - units, missing - units
    end
  end
  return parts
end

-- What a consume says of an account that it leaves above its limit.
local function over(account)
  local limit = effective_limit(account)
  if limit and account.used > limit then return 'over:' .. digits(account.used - limit) end
end

local function book(account, kind, amount, parts, caps, more)
  local change = worth(account, parts, more.sealed)
  if not more.sealed then
    account.used = account.used + change
    for _, part in ipairs(parts) do
      local grant = part.id and find_grant(account, part.id)
      if grant then grant.taken = grant.taken + part.units end
    end
    if kind == 'consume' then more.detail = over(account) end
  end
  more.parts, more.caps = parts, caps
  return queue(account, kind, amount, change, more)
end

-- Once a period a level; armed again when the limit rises.
local function warn(account)
  local reached = levels_of(account)
  if reached > account.warned then
    account.warned = reached
    queue(account, 'warned', reached, 0, {})
  end
end

local function tell_denials(account)
  local since, told, untold, units = string.match(account.denials, DENIALS)
  if untold and untold ~= '0' then
    queue(account, 'denied', tonumber(units), 0, { detail = 'sum:' .. untold })
    account.denials = since .. ' ' .. told .. ' 0 0'
  end
end

local function deny(account, amount, bound, about)
  local denials = counted_untold(account.denials, amount)
  if not denials then
    local since, told = string.match(account.denials, DENIALS)
    since, told = tonumber(since) or 0, tonumber(told) or 0
    if now_ms < since or now_ms >= since + MINUTE_MS then
      tell_denials(account)
      since, told = now_ms, 0
    end
    queue(account, 'denied', amount, 0, { detail = bound, about = about })
    denials = digits(since) .. ' ' .. told + 1 .. ' 0 0'
  end
  account.denials = denials
end

-- What may go on into the window that follows, as `rollover:<left>:<most>:<until_ms>`: what the plan has left, or with
-- `:unseen` all that it gives, when nobody was seen in the period between. The ledger, which may know better what was
-- used, gives it. Nothing goes where it would never end, or where there is no plan.
local function rolled_over(account, words)
  local start, period_end = string.match(words, '^(%-?%d+) (%-?%d+) ')
  if account.rollover == '' or not account.limit or not start or string.find(words, WITHOUT_PLAN, 1, true) then
    return nil
  end
  local of_plan = account.used + account.held
  for _, grant in ipairs(account.grants) do of_plan = of_plan - grant.taken - grant.held end
  local is_unseen = tonumber(start) > account.period_end
  local left = is_unseen and account.limit or account.limit - of_plan
  return table.concat({ 'rollover', digits(left), account.rollover, period_end, is_unseen and 'unseen' or nil }, ':')
end

-- Closes the period; the caller opens the next, of these words. Holds of this period will be settled in it, and drained
-- grants go. What expires at its very end was still there in it.
local function close(account, words)
  let_go(account, account.period_end - 1)
  tell_denials(account)
  local closed = queue(account, 'close', 0, 0, { detail = rolled_over(account, words) })
  closed.is_seal = true
  account.sealed = account.window
  account.corrected = string.find(account.corrected, '^1') and '0 1' or ''
  load_holds(account)
  for place, hold in pairs(account.holds) do
    if not hold.sealed then
      hold.sealed = account.window
      change_hold(account, place, hold)
    end
  end
  local kept = {}
  for _, grant in ipairs(account.grants) do
    if grant.left > 0 then
      grant.taken, grant.held = 0, 0
      kept[#kept + 1] = grant
    end
  end
  account.grants, account.used, account.held, account.warned, account.counted_from = kept, 0, 0, 0, nil
end

-- So that the ledger knows of a period in which nobody may be seen, and of which something is to go on.
local function open(account)
  if account.rollover ~= '' then queue(account, 'open', 0, 0, {}) end
end
