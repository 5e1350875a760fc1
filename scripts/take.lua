-- take.lua: charges subjects. For each, all its windows or none.
--
-- KEYS     the counters of one subject each; on a Cluster all in one slot
-- ARGV[1]  a frame, big-endian: again, then groups, each for the next keys: those
--          that have the same limits and are charged the same
--            again    1 byte: 1 if a key stands in KEYS more than once, else 0
--          a group:
--            keys     4 bytes: how many keys the group is for
--            m        2 bytes: runs, 1 or more
--            n        1 byte: limits, 1 to 16
--            head     2 bytes and so many: the limits' names as value.lua has them
--          n times, in the order of the names:
--            max      7 bytes: 0 to 1e15; anything above is unlimited
--            kind     1 byte: 0 for a window of a fixed length, 4 for a sliding one,
--                     1, 2 and 3 for a day, a week and a month
--            length   6 bytes: milliseconds; of a period, an instant at which one
--                     begins: milliseconds since the epoch, 0 for the calendar's
--          m times, one run after the other:
--            cost     7 bytes: 0 to 1e15; 0 reads and begins no window
--            count    7 bytes: how many charges of that cost, 1 or more
-- returns  one string, which costs less to write and to read than a list: now
--          (6 bytes, milliseconds since the epoch), then for each key one of
--            \0       no window was stored, and all begin now. Of the only run as many
--                     charges were made as fit
--            a value  as value.lua has it, with the group's head, as it was found: all
--                     windows run. Of the only run as many charges were made as fit
--            \1       then m times admitted, 7 bytes: how many charges of the run were
--                     made; then n times used, 7 bytes, and end, 6 bytes, before the
--                     first charge, as value.lua has them (end is 0 if the window had
--                     not begun), and previous, 7 bytes: used in a sliding limit's
--                     window before
--            \2       then a length, 4 bytes, and an error's text: the key was not
--                     charged, and the other keys are not concerned
--
-- Atomic for each key: it is written once, after everything was checked. A
-- malformed frame fails before any write.
--
-- This file charges what nearly every charge is: one run against windows which all run,
-- or of which none has begun. make_any, in any.lua, makes the function that charges
-- whatever there is; to make it costs a lone charge as much as to be charged, so that it
-- is made when the first key needs it.

local MAX_COUNT = 1e15
local SLIDING = 4
local WIDTH = 13 -- bytes of a limit's numbers in a value

local KEYS, frame = KEYS, ARGV[1]
local sub, min = string.sub, math.min
local pack, unpack_value, ask = struct.pack, struct.unpack, redis.pcall
local now = time_ms()

-- The frame, checked whole before anything is written. What is too short raises
-- an error by itself.
local groups, keys = {}, 0
local again, at = unpack_value('B', frame, 1)
while at <= #frame do
  local group, n, m = {}, nil, nil
  group.keys, m, n, group.head, at = unpack_value('>I4HBHc0', frame, at)
  local max, latest = {}, {}
  group.n, group.m, group.max, group.latest = n, m, max, latest
  for i = 1, n do
    local most, kind, length
    most, kind, length, at = unpack_value('>I7BI6', frame, at)
    max[i] = most > MAX_COUNT and math.huge or most
    if kind == 0 or kind == SLIDING then
      latest[i] = length >= 1 and length <= MAX_LENGTH and now + length
      if latest[i] and kind == SLIDING then
        latest[i] = latest[i] + length -- what was used until it turns counts for another length
        group.sliding = group.sliding or {}
        group.sliding[i] = length
      end
    else
      latest[i] = period_end(kind, length, now)
    end
    if not latest[i] then
      return redis.error_reply('TIERLIMIT limit ' .. i .. ' of "' .. group.head .. '" counts over no window')
    end
  end
  group.cost, group.count, at = unpack_value('>I7I7', frame, at)
  local highest = group.cost
  if m > 1 then
    group.costs, group.counts = { group.cost }, { group.count }
    for i = 2, m do
      group.costs[i], group.counts[i], at = unpack_value('>I7I7', frame, at)
      highest = math.max(highest, group.costs[i])
    end
  end
  if n < 1 or n > 16 or m < 1 or highest > MAX_COUNT then
    return redis.error_reply('TIERLIMIT group of ' .. n .. ' limits, ' .. m .. ' runs and a cost of ' .. highest)
  end
  keys = keys + group.keys
  groups[#groups + 1] = group
end
if keys ~= #KEYS then
  return redis.error_reply('TIERLIMIT ' .. #KEYS .. ' keys where the groups are for ' .. keys)
end

-- All keys in one look, unless one of them changes in between or may not be
-- read: that must not take the others along.
local values, one_by_one = {}, again ~= 0 or #KEYS == 1
if not one_by_one then
  values = ask('MGET', unpack(KEYS))
  one_by_one = values.err
end

-- How to read and write the numbers of n limits, 4 at most.
local COUNTS = { '>I7', '>I7I7', '>I7I7I7', '>I7I7I7I7' }
local NUMBERS = { '>I7I6', '>I7I7I6I6', '>I7I7I7I6I6I6', '>I7I7I7I7I6I6I6I6' }

-- The value that begins all windows of a group with as many charges as fit, and when it
-- expires. false if none fits.
local function opening(group, cost, count)
  local n, last, numbers = group.n, 0, {}
  for j = 1, n do
    count = min(count, floor(group.max[j] / cost))
    last = math.max(last, group.latest[j])
  end
  if count < 1 then
    return false
  end
  for j = 1, n do
    numbers[j], numbers[n + j] = cost * count, group.latest[j]
  end
  return group.head .. pack(NUMBERS[n], unpack(numbers)), string.format('%.0f', last)
end

local out = { pack('>I6', now) }
local used = {} -- to fill a table costs less than to make one for each key
local any
local k = 0
for g = 1, #groups do
  local group = groups[g]
  local n, max, latest, head, cost, count = group.n, group.max, group.latest, group.head, group.cost, group.count
  local amount, size = cost * count, #head
  local lean = group.m == 1 and n <= 4 and not group.sliding and amount > 0 and amount <= MAX_COUNT
  local length, offset, counts, numbers = size + WIDTH * n, tostring(size), COUNTS[n], NUMBERS[n]
  local fresh, last
  for i = k + 1, k + group.keys do
    local key, value = KEYS[i], values[i]
    if one_by_one then
      value = ask('GET', key)
    end
    local reply = false
    if lean and not value then
      if fresh == nil then
        fresh, last = opening(group, cost, count)
      end
      -- A look at many keys calls one of another type missing: NX does not.
      local done = fresh and ask('SET', key, fresh, 'PXAT', last, 'NX')
      reply = done and done.ok and '\0'
    elseif lean and type(value) == 'string' and #value == length and sub(value, 1, size) == head then
      used[1], used[2], used[3], used[4], used[5], used[6], used[7], used[8] = unpack_value(numbers, value, size + 1)
      local fits = count
      for j = 1, n do
        local stop = used[n + j]
        if stop <= now or stop > latest[j] or used[j] > MAX_COUNT then
          fits = 0
        elseif used[j] + cost * fits > max[j] then
          fits = floor((max[j] - used[j]) / cost)
        end
      end
      if fits > 0 then
        local charged = cost * fits
        local written
        if n == 1 then
          written = ask('SETRANGE', key, offset, pack(counts, used[1] + charged))
        else
          for j = 1, n do
            used[j] = used[j] + charged
          end
          written = ask('SETRANGE', key, offset, pack(counts, unpack(used, 1, n)))
        end
        reply = type(written) == 'number' and value -- else any meets the same error, and tells it
      end
    end
    if not reply then
      any = any or make_any(now)
      reply = any(group, key, value)
    end
    out[i + 1] = reply
  end
  k = k + group.keys
end
return table.concat(out)
