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

-- Both ways between days since the epoch and civil dates: Howard Hinnant,
-- "chrono-Compatible Low-Level Date Algorithms". A year begins in March here, so
-- that the leap day is its last: month 0 is March. An era is 400 years. Days of
-- the month count from 0.
local function civil(days)
  local z = days + 719468
  local era = floor(z / 146097)
  local day_of_era = z - era * 146097
  local year = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
  local day = day_of_era - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * day + 2) / 153)
  return era * 400 + year, month, day - floor((153 * month + 2) / 5)
end

local function first_of(year, month)
  year, month = year + floor(month / 12), month % 12
  return 365 * year + floor(year / 4) - floor(year / 100) + floor(year / 400) + floor((153 * month + 2) / 5) - 719468
end

-- When the period that holds `now` ends: 1 is the day, 2 the week, 3 the month,
-- in UTC, each from an instant at which one begins; 0 is the calendar, where
-- weeks begin on Mondays. nil for anything else.
local function period_end(period, anchor, now)
  if period == 1 or period == 2 then
    local length = period == 1 and DAY or 7 * DAY
    if anchor == 0 and period == 2 then
      anchor = 4 * DAY -- day 0 was a Thursday
    end
    return now + length - (now - anchor) % length
  elseif period ~= 3 then
    return nil
  end
  local anchor_days = floor(anchor / DAY)
  local _, _, day = civil(anchor_days)
  local year, month = civil(floor(now / DAY))
  local last = -1
  repeat -- this month, or the next
    local first, after = first_of(year, month), first_of(year, month + 1)
    last = (first + math.min(day, after - first - 1) - anchor_days) * DAY + anchor
    month = month + 1
  until last > now
  return last
end
