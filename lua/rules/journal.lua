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

-- The note that a subject has no plan goes away by itself, but an account with units stays: what would make it again is
-- the ledger, and their entries may not be there yet.
local function has_units(account)
  return account.used > 0 or account.hold_count > 0 or #account.grants > 0
end

local function save(account)
  local is_note = string.find(account.window, WITHOUT_PLAN, 1, true)
  local reached, next_warning = levels_of(account)
  -- Only a plain account has its decision made without these rules, and not when a warning is due, nor above the limit,
  -- where a soft one goes on: such an entry says by how much.
  local ceiling = -1
  if account.hold_count == 0 and #account.grants == 0 and #account.caps == 0 and reached <= account.warned then
    ceiling = math.min(account.limit or MAX_AMOUNT, next_warning - 1)
    -- The first units of a note are seen here, whatever it may use.
    if is_note and account.used == 0 then ceiling = math.min(ceiling, 0) end
  end
  if account.replaces then redis.call('DEL', account.key) end
  local rule = table.concat({ account.epoch, account.version, digits(ceiling),
    digits(math.min(account.period_end or NEVER, account.until_ms)),
    account.until_ms == NEVER and '-' or digits(account.until_ms), digits(account.limit), account.enforcement,
    account.nature }, ' ')
  local held = ''
  if account.hold_count > 0 then
    held = table.concat({ digits(account.held), account.hold_count, digits(account.first_expiry) }, ' ')
  end
  local texts = { held = held, grants = grants_text(account.grants), caps = caps_text(account.caps),
    warned = account.warned > 0 and digits(account.warned) or '', denials = account.denials, seal = account.seal,
    sealed = account.sealed, newest_grant = account.newest_grant ~= '0' and account.newest_grant or '',
    newest_notice = account.newest_notice ~= '0' and account.newest_notice or '',
    expired = account.expired_ms > 0 and digits(account.expired_ms) or '',
    counted_from = account.counted_from and digits(account.counted_from) or '', rollover = account.rollover,
    corrected = account.corrected }
  local set = { 'state', digits(account.used) .. ' ' .. account.entry, 'window', account.window, 'rule', rule }
  local drop = {}
  local function set_or_drop(name, text)
    if text == '' then drop[#drop + 1] = name else set[#set + 1], set[#set + 2] = name, text end
  end
  for _, name in ipairs(OPTIONAL) do
    if texts[name] ~= account.found[name] then set_or_drop(name, texts[name]) end
  end
  for place, text in pairs(account.hold_changes) do set_or_drop('h:' .. place, text) end
  redis.call('HSET', account.key, unpack(set))
  if #drop > 0 then redis.call('HDEL', account.key, unpack(drop)) end
  if is_note and has_units(account) then redis.call('PERSIST', account.key) end
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
