-- How much an account may use, and where its warnings stand.

local function effective_limit(account)
  if not account.limit then return nil end
  local limit = account.limit
  for _, grant in ipairs(account.grants) do limit = limit + grant.left + grant.taken + grant.held end
  return math.min(MAX_AMOUNT, limit)
end

-- The smallest `used` that has reached a percent of a limit; in steps that a double can hold.
local function threshold(limit, percent)
  local rest = limit % 100
  return math.max(1, (limit - rest) / 100 * percent + math.ceil(rest * percent / 100))
end

-- The highest level that is reached, and the `used` at which the next one will be.
local function levels_of(account)
  local limit = effective_limit(account)
  if not limit then return 0, NEVER end
  local reached, next_at = 0, NEVER
  for percent in string.gmatch(account.levels .. ',100', '%d+') do
    percent = tonumber(percent)
    local at = threshold(limit, percent)
    if account.used >= at then reached = math.max(reached, percent)
    elseif percent > account.warned then next_at = math.min(next_at, at) end
  end
  return reached, next_at
end
