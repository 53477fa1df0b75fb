-- Entries wait in a queue until everything is decided; then they are appended, and the accounts written after them.

local entries = {}

-- `more` may say: sealed (the words of a period that is over, whose balance only the ledger knows), detail, parts,
-- caps, about (the caller's JSON), place and count (among the entries of one receipt).
local function queue(account, kind, amount, change, more)
  local has_parts = more.parts and #more.parts > 0 and not (#more.parts == 1 and not more.parts[1].id)
  local entry = { account = account, about = more.about or '' }
  entry.line = table.concat({ kind, now, digits(amount), digits(change), more.sealed and '-' or digits(account.used),
    more.place or 1, more.count or 1, more.detail or '-', has_parts and parts_text(more.parts) or '-', more.caps or '-',
    account.key, more.sealed or account.window }, ' ')
  entry.is_receipt = more.count ~= nil
  entries[#entries + 1] = entry
  return entry
end

local function set_or_drop(account, name, text)
  if text == account.found[name] then return end
  if text == '' then redis.call('HDEL', account.key, name) else redis.call('HSET', account.key, name, text) end
end

-- The note that a subject has no plan goes away by itself, but an account with units stays: what would make it again is
-- the ledger, and their entries may not be there yet.
local function has_units(account)
  return account.used > 0 or account.hold_count > 0 or #account.grants > 0
end

local function save(account)
  local reached, next_warning = levels_of(account)
  local ceiling = -1 -- only a plain account has its decision made without these rules, and not when a warning is due
  if account.hold_count == 0 and #account.grants == 0 and #account.caps == 0 and reached <= account.warned then
    ceiling = account.enforcement == 'hard' and account.limit or MAX_AMOUNT
    ceiling = math.min(ceiling, next_warning - 1)
    -- The first units of a note are seen here, whatever it may use.
    if account.used == 0 and string.find(account.window, WITHOUT_PLAN, 1, true) then ceiling = math.min(ceiling, 0) end
  end
  if account.is_new then redis.call('DEL', account.key) end
  local rule = table.concat({ account.epoch, account.version, digits(ceiling),
    digits(math.min(account.period_end or NEVER, account.until_ms)),
    account.until_ms == NEVER and '-' or digits(account.until_ms), digits(account.limit), account.enforcement,
    account.nature }, ' ')
  redis.call('HSET', account.key, 'state', digits(account.used) .. ' ' .. account.entry, 'window', account.window,
    'rule', rule)
  for place, text in pairs(account.hold_changes) do
    if text == '' then redis.call('HDEL', account.key, 'h:' .. place)
    else redis.call('HSET', account.key, 'h:' .. place, text) end
  end
  local held = ''
  if account.hold_count > 0 then
    held = table.concat({ digits(account.held), account.hold_count, digits(account.first_expiry) }, ' ')
  end
  if has_units(account) then redis.call('PERSIST', account.key) end
  set_or_drop(account, 'held', held)
  set_or_drop(account, 'grants', grants_text(account.grants))
  set_or_drop(account, 'caps', caps_text(account.caps))
  set_or_drop(account, 'warned', account.warned > 0 and digits(account.warned) or '')
  set_or_drop(account, 'denials', account.denials)
  set_or_drop(account, 'seal', account.seal)
  set_or_drop(account, 'sealed', account.sealed)
  set_or_drop(account, 'newest_grant', account.newest_grant ~= '0' and account.newest_grant or '')
  set_or_drop(account, 'expired', account.expired_ms > 0 and digits(account.expired_ms) or '')
  set_or_drop(account, 'counted_from', account.counted_from and digits(account.counted_from) or '')
end

-- The first append comes before every other write, because it is the only one that could be refused; then nil and why.
local function write(journal_key, epoch, touched)
  for place, entry in ipairs(entries) do
    local run = place == 1 and redis.pcall or redis.call
    local id = run('XADD', journal_key, epoch .. '-*', 'line', entry.line, 'about', entry.about)
    if type(id) == 'table' then return nil, tostring(id.err) end
    entry.id, entry.account.entry = id, id
    if entry.is_seal then
      entry.account.seal = id .. ' ' .. (string.match(entry.account.seal, '^%S+') or '0-0')
    end
    if entry.hold then
      entry.hold.place = id
      change_hold(entry.account, id, entry.hold)
    end
  end
  for _, account in ipairs(touched) do save(account) end
  return true
end
