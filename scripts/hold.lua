-- hold.lua: makes one charge that take.lua does not support: with a cost for each limit, with
-- a hold, or under limits that count open holds or give back the charges of expired holds.
-- The charge applies to all limits or to none.
--
-- KEYS[1] the subject's counters
-- KEYS[2] its open holds, see holds.lua; of the same slot
-- KEYS[3] when its windows were reset, or had less than before, see reset.lua
-- ARGV[1] a frame, big-endian:
--           charge   1 byte: 1 for a charge, 0 for a look
--           hold     4 bytes: milliseconds that the charge can be corrected; 0: no hold
--           most     2 bytes: how many holds may be open
--           id       16 bytes: of the hold
--           n        1 byte: limits, 1 to 16
--           head     2 bytes and so many: the limits' names as value.lua has them
--           n times  max, kind and length as take.lua has them. 5 as kind is a concurrent
--                    limit; 64 more: given back when the hold expires
--           n times  own, 1 byte, 1 if the limit has a cost of its own; and the cost, 7
--                    bytes. A hold begins windows, also those that it costs nothing, so
--                    that there is something to correct
-- returns  one string: now (6 bytes, milliseconds since the epoch); 0 if the charge was
--          made, or what is used is within the limits, where nothing was to be; 1 if not; 2
--          if too many holds are open (1 byte); when the first open hold expires (6 bytes, 0: none); then for each limit
--          used (7), end (6) and previous (7) before the charge, as take.lua has them, and
--          what is held of it after the charge (7). Of a concurrent limit used is how many
--          holds are open after the charge. Or an error: nothing was charged
--
-- Atomic.

local CONCURRENT, GIVEN_BACK = 5, 64

local key, holds_key, frame, now = KEYS[1], KEYS[2], ARGV[1], time_ms()
local charge, hold_ms, most, id, n, head, at = unpack_value('>BI4I2c16BHc0', frame, 1)
local asked = layout_of(head)
if not asked or asked.n ~= n or n > 16 then
  return redis.error_reply('TIERLIMIT "' .. head .. '" is not ' .. n .. ' names')
end

-- limits has all limits; group has those with windows, in the form that any.lua charges.
local limits, group = {}, { n = 0, m = 1, count = 1, cost = 0, own = {}, max = {}, latest = {} }
local names = {}
for i = 1, n do
  local max, kind, length
  max, kind, length, at = unpack_value('>I7BI6', frame, at)
  local limit = { name = asked.names[i], max = max > 1e15 and math.huge or max, release = kind >= GIVEN_BACK }
  kind = kind % GIVEN_BACK
  limit.kind, limit.length = kind, (kind == 0 or kind == SLIDING) and length or 0
  if kind == CONCURRENT then
    limit.concurrent = true
  else
    local j, latest = group.n + 1, nil
    if kind == 0 or kind == SLIDING then
      latest = length >= 1 and length <= MAX_LENGTH and now + length
      if latest and kind == SLIDING then
        latest = latest + length
        group.sliding = group.sliding or {}
        group.sliding[j] = length
      end
    else
      latest = period_end(kind, length, now)
    end
    if not latest then
      return redis.error_reply('TIERLIMIT limit ' .. limit.name .. ' counts over no window')
    end
    group.n, group.max[j], group.latest[j], names[j], limit.at = j, limit.max, latest, limit.name, j
  end
  limits[i] = limit
end
for i = 1, n do
  local limit = limits[i]
  limit.own, limit.cost, at = unpack_value('>BI7', frame, at)
  if limit.cost > 1e15 then
    return redis.error_reply('TIERLIMIT a cost of ' .. limit.cost)
  end
  if limit.at then
    group.own[limit.at] = limit.cost
    group.cost = math.max(group.cost, limit.cost)
  end
end
if at ~= #frame + 1 then
  return redis.error_reply('TIERLIMIT a frame of ' .. #frame .. ' bytes')
end

local all, err = open_holds(key, holds_key, KEYS[3], now)
if not all then
  return err
end
local function total(limit)
  return all[LIMITS][limit.name] or { 0, 0, 0 }
end

local wanted = charge == 1
local holds = wanted and hold_ms > 0
local status = 0
if holds and all[COUNT] >= most then
  status = 2
end
for i = 1, n do
  local limit = limits[i]
  if status == 0 and limit.concurrent and (holds or not wanted) and total(limit)[1] + (holds and 1 or 0) > limit.max then
    status = 1
  end
end
group.wanted = wanted
if status == 0 and wanted then
  group.begins = holds
else
  group.cost, group.own = 0, nil
end

local found = ''
if group.n > 0 then
  group.head = table.concat(names, ',') .. ':'
  found = make_any(now)(group, key, ask('GET', key))
  if string.byte(found) == 2 then
    return redis.error_reply(sub(found, 6))
  end
  if status == 0 and unpack_value('>I7', found, 2) == 0 then
    status = 1
  end
end
local function window(limit) -- used, end and previous
  return sub(found, 9 + 20 * (limit.at - 1), 8 + 20 * limit.at)
end

local charged = status == 0 and wanted
local stops = {}
for i = 1, n do
  local limit = limits[i]
  if limit.at then
    local stop = unpack_value('>I6', window(limit), 8)
    if stop == 0 and charged and (holds or limit.cost > 0) then
      stop = group.latest[limit.at]
    end
    stops[i] = stop
  end
end
if charged and holds then
  local hold = { now + hold_ms }
  for i = 1, n do
    local limit = limits[i]
    local flags = (limit.own == 1 and OWN or 0) + (limit.release and RELEASE or 0) + (limit.concurrent and PLACE or 0) + KIND * limit.kind
    local cost = limit.concurrent and 1 or limit.cost
    for _, entry in ipairs({ limit.name, cost, stops[i] or 0, limit.length, flags }) do
      hold[#hold + 1] = entry
    end
  end
  find_next(holds_key, all)
  sum_up(all, hold, 1)
  expires_at(all, hold)
  write_sum(holds_key, all, id, hold)
elseif all[STALE] then
  find_next(holds_key, all)
  if not all[STALE] then
    write_sum(holds_key, all)
  end
end

local out = { pack('>I6BI6', now, status, all[COUNT] > 0 and all[NEXT] or 0) }
for i = 1, n do
  local limit = limits[i]
  local sum = total(limit)
  if limit.concurrent then
    out[i + 1] = pack('>I7I6I7I7', sum[1], 0, 0, 0)
  else
    out[i + 1] = window(limit) .. pack('>I7', stops[i] > 0 and sum[3] == stops[i] and sum[2] or 0)
  end
end
return table.concat(out)
