-- What each mode does, to accounts that are loaded, ready and rid of what has expired. Each returns the first word of
-- its answer; whatever it did to the accounts and the queue is written afterwards.

local MAX_HOLDS = 1000 -- of one account: they are looked through when one has expired, and when a period ends
local modes = {}

local function bound_anywhere(request)
  local found = false
  for _, charge in ipairs(request) do
    charge.bound = bound_by(charge.account, charge.amount)
    charge.verdict = charge.bound and 'exceeds' or 'fits'
    found = found or charge.bound
  end
  return found
end

local function deny_all(request)
  for _, charge in ipairs(request) do
    if charge.bound then deny(charge.account, charge.amount, charge.bound, request.about) end
  end
  return 'denied'
end

local function neighbours(request, place, more)
  more.about, more.place, more.count = request.about, place, more.count or #request
  return more
end

local function warn_all(request)
  for _, charge in ipairs(request) do
    if not charge.sealed then warn(charge.account) end
  end
  return 'allowed'
end

function modes.check(request)
  return bound_anywhere(request) and 'denied' or 'allowed'
end

function modes.consume(request)
  if bound_anywhere(request) then return deny_all(request) end
  for place, charge in ipairs(request) do
    local account, windows = charge.account, cap_windows(charge.account)
    local parts = draw(account, charge.amount)
    spend(account, windows, charge.amount)
    book(account, 'consume', charge.amount, parts, windows, neighbours(request, place, {}))
  end
  return warn_all(request)
end

-- detail: `<ms to live>`. The entry names the hold.
function modes.hold(request)
  if bound_anywhere(request) then return deny_all(request) end
  for _, charge in ipairs(request) do
    if charge.account.hold_count >= MAX_HOLDS then return 'crowded' end
  end
  for place, charge in ipairs(request) do
    local account, windows = charge.account, cap_windows(charge.account)
    local hold = { amount = charge.amount, expires = now_ms + tonumber(charge.detail), caps = windows,
      parts = draw(account, charge.amount) }
    spend(account, windows, charge.amount)
    for _, part in ipairs(hold.parts) do
      local grant = part.id and find_grant(account, part.id)
      if grant then grant.held = grant.held + part.units end
    end
    account.held, account.hold_count = account.held + charge.amount, account.hold_count + 1
    account.first_expiry = math.min(account.first_expiry, hold.expires)
    local more = { detail = digits(hold.expires), parts = hold.parts, caps = windows }
    queue(account, 'hold', charge.amount, 0, neighbours(request, place, more)).hold = hold
  end
  return 'allowed'
end

-- More than was held counts in the windows of the hold, so a limited one must still be running.
local function may_grow(account, hold)
  if account.enforcement == 'soft' or not (account.limit or account.caps[1]) then return true end
  for _, cap in ipairs(account.caps) do
    if not string.find(',' .. hold.caps .. ',', ',' .. cap.kind .. ':' .. cap.start .. ',', 1, true) then
      return false
    end
  end
  return not hold.sealed
end

-- amount: '-' for all that was held; detail: the hold's place
function modes.commit(request)
  local charge = request[1]
  local account, hold = charge.account, find_hold(charge.account, charge.detail)
  if not hold then return 'not_held' end
  charge.amount = charge.amount or hold.amount
  local more = math.max(0, charge.amount - hold.amount)
  if more > 0 then
    charge.bound = bound_by(account, more) or (not may_grow(account, hold) and 'limit') or nil
    charge.verdict = charge.bound and 'exceeds' or 'fits'
    if charge.bound then return deny_all(request) end
  end
  local kept, rest = split(hold.parts, charge.amount)
  if more > 0 then -- drawn while the hold still counts, or the plan's allowance would be given out twice
    for _, part in ipairs(hold.sealed and { { units = more } } or draw(account, more)) do kept[#kept + 1] = part end
    spend(account, hold.caps, more)
  end
  unhold(account, hold, rest, now_ms)
  charge.sealed = hold.sealed
  local words = neighbours(request, 1, { sealed = hold.sealed, detail = hold.place })
  book(account, 'commit', charge.amount, kept, hold.caps, words)
  return warn_all(request)
end

-- detail: the hold's place
function modes.release(request)
  local charge = request[1]
  local hold = find_hold(charge.account, charge.detail)
  if not hold then return 'not_held' end
  charge.amount = hold.amount
  unhold(charge.account, hold, hold.parts, now_ms)
  local more = { sealed = hold.sealed, detail = hold.place, parts = hold.parts }
  queue(charge.account, 'release', hold.amount, 0, neighbours(request, 1, more))
  return 'allowed'
end

-- The words of the period in which an entry was sealed, '' when it is counted still, nil when nobody here knows.
local function sealed_in(account, place)
  local seal, seal_before = string.match(account.seal, '^(%S+) (%S+)$')
  if not seal or by_place(seal, place) then return '' end
  if by_place(seal_before, place) then return account.sealed end
end

-- What is known here of an entry: nil when this epoch has given nothing of it back, and the ledger knows best.
local function refunded_before(request, place)
  local text = redis.call('HGET', request.refunds_key, place)
  if not text then return nil end
  local epoch, refunded = string.match(text, '^(%d+) (%d+)$')
  if not epoch then error(request.refunds_key .. ' is damaged', 0) end
  if epoch == request.epoch then return whole(refunded) end
end

-- detail: `<place> <taken> <refunded before, as the ledger knows> <epoch that this was read in> <parts> <caps>
-- <words of the period that it is sealed in, as far as the ledger knows, or `corrected`>`
-- Of a sealed period nobody here knows the balance. It bears every refund, unless a person put units back in it.
function modes.refund(request)
  local total = 0
  for _, charge in ipairs(request) do
    local account = charge.account
    local place, taken, known, epoch, parts, caps, sealed =
      string.match(charge.detail, '^(%S+) (%d+) (%d+) (%d+) (%S+) (%S+) ?(.*)$')
    local before = refunded_before(request, place)
    if not before then
      local oldest = redis.call('XRANGE', request.journal_key, '-', '+', 'COUNT', 1)[1]
      if epoch ~= request.epoch or (oldest and string.match(oldest[1], '^%d+') ~= epoch) then return 'undrained' end
    end
    if sealed == '' then
      sealed = sealed_in(account, place)
      -- The ledger will know which it is, as soon as it has the seal.
      if not sealed or (sealed ~= '' and string.find(account.corrected, '1$')) then return 'undrained' end
    end
    taken, before = tonumber(taken), tonumber(before or known)
    local left = taken - before
    charge.amount = math.min(charge.amount, left)
    if sealed == 'corrected' and charge.amount > 0 then return 'below_zero' end
    charge.place, charge.refunded, charge.caps = place, before + charge.amount, caps
    charge.sealed = sealed ~= '' and sealed or nil
    local all = parts == '-' and { { units = taken } } or parsed_parts(parts)
    charge.parts = select(2, split(split(all, left), left - charge.amount))
    charge.change = worth(account, charge.parts, charge.sealed)
    if not charge.sealed and (charge.change > account.used or not are_taken(account, charge.parts)) then
      return 'below_zero'
    end
    total = total + charge.amount
  end
  if total == 0 then return 'already_refunded' end
  local given = {}
  for _, charge in ipairs(request) do
    if charge.amount > 0 then given[#given + 1] = charge end
  end
  for place, charge in ipairs(given) do
    local account = charge.account
    for _, part in ipairs(charge.parts) do
      local grant = grant_of(account, part, now_ms)
      if grant then
        grant.left = grant.left + part.units
        grant.taken = grant.taken - (charge.sealed and 0 or part.units)
      end
    end
    spend(account, charge.caps, -charge.amount)
    if not charge.sealed then account.used = account.used - charge.change end
    local more = { sealed = charge.sealed, detail = charge.place, parts = charge.parts, caps = charge.caps,
      count = #given }
    queue(account, 'refund', charge.amount, -charge.change, neighbours(request, place, more))
  end
  return 'allowed'
end

-- Of a level.
function modes.give(request)
  local charge = request[1]
  if charge.amount > charge.account.used then return 'below_zero' end
  charge.account.used = charge.account.used - charge.amount
  queue(charge.account, 'release', charge.amount, -charge.amount, neighbours(request, 1, {}))
  return 'allowed'
end

-- Of a level.
function modes.set(request)
  local charge = request[1]
  if charge.amount + charge.account.held > MAX_AMOUNT then return 'crowded' end
  local change = charge.amount - charge.account.used
  charge.account.used = charge.amount
  queue(charge.account, 'set', charge.amount, change, neighbours(request, 1, {}))
  return warn_all(request)
end

-- By a person, up or down; capped windows are left alone. detail: `up` or `down`, and the place of the correction that
-- is taken back by this one: only while its period runs, or the next would pay for it.
function modes.adjust(request)
  local charge = request[1]
  local account = charge.account
  local words = neighbours(request, 1, {})
  local way, place = string.match(charge.detail, '^(%l+) ?(%S*)$')
  if place ~= '' and sealed_in(account, place) ~= '' then return 'below_zero' end
  if way == 'up' then
    if account.used + account.held + charge.amount > MAX_AMOUNT then return 'crowded' end
    book(account, 'correct', charge.amount, draw(account, charge.amount), '-', words)
    return warn_all(request)
  end
  if charge.amount > account.used then return 'below_zero' end
  words.parts = put_back(account, charge.amount)
  account.used = account.used - charge.amount
  account.corrected = '1' .. (string.match(account.corrected, ' [01]') or ' 0')
  queue(account, 'correct', charge.amount, -charge.amount, words)
  return 'allowed'
end

-- Out of what grants have left, for another subject; the ledger gives it to them. detail: gift:<id>
function modes.gift(request)
  local charge = request[1]
  if charge.amount > spare_of_grants(charge.account) then return 'below_zero' end
  local parts = give_away(charge.account, charge.amount)
  queue(charge.account, 'gift', charge.amount, 0, neighbours(request, 1, { detail = charge.detail, parts = parts }))
  return warn_all(request)
end

-- The words of the window that is over in which an instant lies; nil: what was used then counts in the running one.
local function closed_at(account, at_ms, window)
  local start = tonumber(account.start)
  if at_ms >= start then return nil end
  local sealed_start, sealed_end = string.match(account.sealed, '^(%S+) (%S+)')
  sealed_start, sealed_end = tonumber(sealed_start) or 0, tonumber(sealed_end) or 0
  if at_ms >= sealed_start and at_ms < sealed_end then return account.sealed end
  if at_ms >= math.max(account.counted_from or start, sealed_end) then return nil end
  return window
end

-- Units that were let through while nobody could count: charged even above the limit, in the windows of their instant.
-- detail: `<instant_ms> <words of the window that it lies in by today's terms, if the account does not remember it>`
function modes.charge(request)
  for _, charge in ipairs(request) do
    if charge.account.used + charge.account.held + charge.amount > MAX_AMOUNT then return 'crowded' end
  end
  for place, charge in ipairs(request) do
    local account = charge.account
    local at_text, window = string.match(charge.detail, '^(%d+) (.+)$')
    local at_ms = tonumber(at_text)
    charge.sealed = closed_at(account, at_ms, window)
    if charge.sealed then
      local words = neighbours(request, place, { sealed = charge.sealed })
      book(account, 'consume', charge.amount, { { units = charge.amount } }, '-', words)
    else
      local parts, windows = draw(account, charge.amount), cap_windows(account, at_ms)
      spend(account, windows, charge.amount)
      book(account, 'consume', charge.amount, parts, windows, neighbours(request, place, {}))
    end
  end
  return warn_all(request)
end
