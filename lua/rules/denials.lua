-- How the denials of an account are told: ten a minute one by one, the others as one sum, when the next one is told or
-- the period ends. The account remembers `<since_ms> <told> <untold> <units of the untold>`.

local DENIALS = '^(%d+) (%d+) (%d+) (%d+)$'
local DENIALS_A_MINUTE, MINUTE_MS = 10, 60000

-- What the account remembers once a denial more has been counted; nil when this one is to be told.
local function counted_untold(denials, amount)
  local since, told, untold, units = string.match(denials, DENIALS)
  local since_ms = tonumber(since)
  if not since_ms or now_ms < since_ms or now_ms >= since_ms + MINUTE_MS then return nil end
  if tonumber(told) < DENIALS_A_MINUTE then return nil end
  units = math.min(MAX_AMOUNT, tonumber(units) + amount)
  return since .. ' ' .. told .. ' ' .. tonumber(untold) + 1 .. ' ' .. digits(units)
end
