-- Numbers are doubles in a script, exact up to 2^53 - 1, and digits everywhere else.
local MAX_AMOUNT = 9007199254740991 -- 2^53 - 1: above it a double cannot tell two neighbours apart
local NEVER = MAX_AMOUNT -- later than any instant

local function whole(text)
  local number = tonumber(text)
  if number and #text <= 16 and string.find(text, '^%d+$') and number <= MAX_AMOUNT then return number end
end

local function digits(number)
  return number and string.format('%.0f', number + 0) or '-' -- + 0: there is no -0 here
end
