-- time.lua: the clock of shared counters. It stands ahead of each script that
-- needs it; a script calls it once, so that one call sees one instant.
--
-- Redis TIME is the only clock: the callers' clocks disagree. Times are whole
-- milliseconds since the epoch.

local floor = math.floor
local DAY = 86400000
local MAX_LENGTH = 3660 * DAY

local function time_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

-- When the calendar period that holds `now` ends: 1 is the day, 2 the week from
-- Monday, 3 the month, in UTC. nil for anything else.
local function period_end(period, now)
  local days = floor(now / DAY)
  if period == 1 then
    return (days + 1) * DAY
  elseif period == 2 then
    return (days + 7 - (days + 3) % 7) * DAY -- day 0 was a Thursday
  elseif period ~= 3 then
    return nil
  end
  -- Both ways between days and civil dates: Howard Hinnant, "chrono-Compatible
  -- Low-Level Date Algorithms". A year begins in March here, so that the leap
  -- day is its last; an era is 400 years.
  local z = days + 719468
  local era = floor(z / 146097)
  local day_of_era = z - era * 146097
  local year = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
  local day = day_of_era - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * day + 2) / 153) + 1
  if month == 12 then
    year, month = year + 1, 0
  end
  local first = floor((153 * month + 2) / 5)
  return (era * 146097 + 365 * year + floor(year / 4) - floor(year / 100) + floor(year / 400) + first - 719468) * DAY
end
