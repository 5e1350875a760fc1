-- take.lua: charges subjects. For each, all its windows or none.
--
-- KEYS     the counters of one subject each; on a cluster all in one slot
-- ARGV[1]  a frame, big-endian: again, then groups, each for the next keys: those
--          that are on the same limits and charged the same
--            again    1 byte: 1 if a key stands in KEYS more than once, else 0
--          a group:
--            keys     4 bytes: how many keys it is for
--            n        1 byte: limits, 1 to 16
--            m        2 bytes: runs, 1 or more
--            head     2 bytes and so many: the limits' names as value.lua has them
--          n times, in the order of the names:
--            max      7 bytes: 0 to 1e15; anything above is unlimited
--            period   1 byte: 0 for a window of a fixed length, 4 for a sliding one,
--                     else see time.lua
--            length   6 bytes: milliseconds; of a period, when one begins: milliseconds
--                     since the epoch, 0 for the calendar's
--          m times, one run after the other:
--            cost     7 bytes: 0 to 1e15; 0 reads and begins no window
--            count    7 bytes: how many charges of it, 1 or more
--          then leased, 1 byte: 0, or 1 if these follow:
--            share    7 bytes: to be charged on top, for the caller to serve by
--                     itself: as much of it as a part of what is left allows
--            back     7 bytes: of an earlier share, taken off before the charges
--            n times end, 6 bytes: of the window that share is of. One that ends
--                     at another time gets nothing back
-- returns  whole numbers only, which clients read without an allocation for
--          each: first now, milliseconds since the epoch; then for each key m
--          times admitted, granted if it is leased, then n times used, reset
--            admitted how many charges of the run fit (and were made)
--            granted  how much of the share
--            used     before the first charge; -1 if the window had not begun
--            reset    milliseconds until the window ends; if it has not begun,
--                     until it would if it began now
--          and if any of the group's limits slides, for each of them also:
--            previous used in the window before; used has its weighted part
--          or for a key that failed and was not charged: minus the length of an
--          error's text, then its bytes. It leaves the other keys alone.
--
-- Atomic for each key: it is written once, after everything was checked. A
-- malformed frame fails before any write.

local MAX_COUNT = 1e15
local MAX_USED = 9007199254740991 -- 2^53 - 1, the last number that is exact
local SLIDING = 4 -- among the periods
local PART = 16 -- a share is at most one in so many of what is left

local KEYS, frame = KEYS, ARGV[1]
local now = time_ms()

-- The frame, checked whole before anything is written. What is too short raises
-- an error by itself.
local groups, keys = {}, 0
local again, at = unpack_value('B', frame, 1)
while at <= #frame do
  local group = { layouts = false }
  local n, m
  group.keys, n, m, group.head, at = unpack_value('>I4BHHc0', frame, at)
  local max, latest = {}, {}
  group.n, group.m, group.max, group.latest = n, m, max, latest
  for i = 1, n do
    local most, period, length
    most, period, length, at = unpack_value('>I7BI6', frame, at)
    max[i] = most > MAX_COUNT and math.huge or most
    if period == 0 or period == SLIDING then
      latest[i] = length >= 1 and length <= MAX_LENGTH and now + length
      if latest[i] and period == SLIDING then
        latest[i] = latest[i] + length -- the window after it looks at it still
        group.sliding = group.sliding or {}
        group.sliding[i] = length
      end
    else
      latest[i] = period_end(period, length, now)
    end
    if not latest[i] then
      return redis.error_reply('TIERLIMIT limit ' .. i .. ' of "' .. group.head .. '" counts over no window')
    end
  end
  group.cost, group.count, at = unpack_value('>I7I7', frame, at)
  for i = 2, m do -- the first is nearly always the only one
    group.costs = group.costs or { group.cost }
    group.counts = group.counts or { group.count }
    group.costs[i], group.counts[i], at = unpack_value('>I7I7', frame, at)
    group.cost = math.max(group.cost, group.costs[i])
  end
  group.leased, at = unpack_value('B', frame, at)
  group.share, group.back = 0, 0
  if group.leased ~= 0 then
    group.share, group.back, at = unpack_value('>I7I7', frame, at)
    group.ends = { unpack_value('>' .. rep('I6', n), frame, at) }
    at = at + 6 * n
  end
  if n < 1 or n > 16 or m < 1 or group.leased > 1 or math.max(group.cost, group.share) > MAX_COUNT then
    return redis.error_reply('TIERLIMIT group of ' .. n .. ' limits, ' .. m .. ' runs, a cost of ' .. group.cost .. ' and a share of ' .. group.share)
  end
  keys = keys + group.keys
  groups[#groups + 1] = group
end
if keys ~= #KEYS then
  return redis.error_reply('TIERLIMIT ' .. #KEYS .. ' keys where the groups are for ' .. keys)
end

local replies, r = { now }, 1

-- take charges any key, whatever it holds, and fail says why one was not. They
-- are made when the first key needs them: to make them costs a lone charge as
-- much as to be charged.
local take, fail

local function make_take()
  -- Of the group's limits, for the key at hand. What a sliding window used before
  -- its last turn is part of used by its weight.
  local used, stops = {}, {}
  local previous, turns, weights, turned = {}, {}, {}, {}

  -- The names of the group's limits, and where each stands in a layout.
  local function names_of(group)
    if not group.names then
      local layout = layout_of(group.head)
      group.names = layout and layout.n == group.n and layout.names
      for i = 2, group.names and group.n or 0 do
        if not comes_before(group.names[i - 1], group.names[i]) then
          group.names = false
          break
        end
      end
    end
    return group.names
  end
  local function places_of(group, layout)
    if layout.group ~= group then
      local place = {}
      for i = 1, layout.n do
        place[layout.names[i]] = i
      end
      layout.group, layout.place, layout.before = group, {}, {}
      for j = 1, group.n do
        layout.place[j] = place[group.names[j]] or 0
        layout.before[j] = place[group.names[j] .. BEFORE] or 0
      end
    end
    return layout.place
  end

  -- Writes what is running: the windows of the group and those of other limits.
  local function rewrite(group, key, layout, state, charged)
    local entries, asked = {}, {}
    for j = 1, group.n do
      local name = group.names[j]
      asked[name] = true
      if turned[j] and not charged then -- as it was: a look turns no window
        entries[#entries + 1] = { name = name, used = previous[j], stop = turns[j] }
      elseif stops[j] then
        entries[#entries + 1] = { name = name, used = used[j] - weights[j], stop = stops[j] }
      end
      if group.sliding and group.sliding[j] then
        name = name .. BEFORE
        asked[name] = true
        if stops[j] and previous[j] > 0 and (charged or not turned[j]) then
          entries[#entries + 1] = { name = name, used = previous[j], stop = turns[j] }
        end
      end
    end
    if layout then
      for i = 1, layout.n do
        local name, stop = layout.names[i], math.min(state[layout.n + i], now + MAX_LENGTH)
        if not asked[name] and stop > now then
          entries[#entries + 1] = { name = name, used = state[i], stop = stop }
        end
      end
    end
    if layout or group.sliding then
      table.sort(entries, function(a, b) return comes_before(a.name, b.name) end)
    end
    return write_value(key, entries, not layout)
  end

  -- How far a sliding window has come that ends at stop, with used since it last
  -- turned: if it has turned again since it was written, that is of the window
  -- before. Returns used and stop.
  local function slide(group, j, used_since, stop, layout, state)
    local length = group.sliding[j]
    turned[j] = stop - length <= now
    previous[j] = 0
    if turned[j] then
      previous[j], used_since, stop = used_since, 0, stop + length
    else
      local i = layout.before[j]
      if i > 0 and state[layout.n + i] == stop - length then -- else it is of a window of another length
        previous[j] = state[i]
      end
    end
    turns[j] = stop - length
    weights[j] = math.ceil(previous[j] * math.min((turns[j] - now) / length, 1))
    return math.min(used_since + weights[j], MAX_USED), stop
  end

  -- Looks after a key that was only read: one that never expires would stay for
  -- good, and one of another type was read as missing.
  local function inspect(key, layout, state)
    local ttl = ask('PTTL', key)
    if type(ttl) == 'table' then
      return ttl
    end
    if not layout and ttl ~= -2 then
      return redis.error_reply('WRONGTYPE ' .. key .. ' does not hold counters')
    end
    if ttl == -1 then
      local last = now + 1
      for i = 1, layout.n do
        last = math.max(last, math.min(state[layout.n + i], now + MAX_LENGTH))
      end
      local reply = ask('PEXPIREAT', key, exact(last))
      return type(reply) == 'table' and reply or nil
    end
  end

  -- How many of count charges of cost fit. They are added to what was used.
  local function charge(group, cost, count)
    local max, n = group.max, group.n
    for j = 1, n do
      if used[j] + cost * count > max[j] then
        count = cost > 0 and math.max(0, math.floor((max[j] - used[j]) / cost)) or 0
      end
    end
    if cost > 0 and count > 0 then
      for j = 1, n do
        used[j] = math.min(used[j] + cost * count, MAX_USED)
      end
    end
    return count
  end

  -- How much of the share is granted, where all the charges were. It is added to
  -- what was used.
  local function grant(group)
    local share = group.share
    for j = 1, group.n do
      share = math.min(share, math.floor((group.max[j] - used[j]) / PART))
    end
    share = math.max(share, 0)
    for j = 1, group.n do
      used[j] = math.min(used[j] + share, MAX_USED)
    end
    return share
  end

  -- Charges one key and adds the answer to the replies. Returns nil, or an error
  -- reply in place of an answer.
  function take(group, key, value)
    if type(value) == 'table' then
      return value
    end
    local n, m, latest = group.n, group.m, group.latest
    local first = r + m + group.leased -- before the counts
    local width = group.sliding and 3 or 2
    if not names_of(group) then
      return redis.error_reply('TIERLIMIT "' .. group.head .. '" is not ' .. n .. ' names in order')
    end
    local layout, state
    local place, steady = nil, false -- steady: every window is stored and running
    local changed = false -- also if nothing is charged
    if value then
      group.layouts = group.layouts or {}
      layout, state = read_value(key, value, group.layouts)
      if not layout then
        return state
      end
      place, steady = places_of(group, layout), true
    end
    for j = 1, n do
      local i = layout and place[j] or 0
      local stop = i > 0 and state[layout.n + i] or 0
      local at = first + width * (j - 1)
      weights[j], previous[j], turns[j], turned[j] = 0, 0, nil, false
      if stop > now then
        used[j] = math.min(state[i], MAX_USED)
        if group.back > 0 and group.ends[j] == stop then
          used[j], changed = math.max(used[j] - group.back, 0), true
        end
        if stop > latest[j] then -- a window never lasts longer than its limit says now
          stop, changed, steady = latest[j], true, false
        end
        if group.sliding and group.sliding[j] then
          used[j], stop = slide(group, j, used[j], stop, layout, state)
          steady = steady and not turned[j]
        end
        stops[j] = stop
        replies[at + 1], replies[at + 2] = used[j], stop - now
      else
        used[j], stops[j], steady = 0, nil, false
        replies[at + 1], replies[at + 2] = -1, latest[j] - now
      end
      if group.sliding then
        replies[at + 3] = previous[j]
      end
    end

    local charged, all = false, true
    for i = 1, m do
      local cost, count = group.cost, group.count
      if m > 1 then
        cost, count = group.costs[i], group.counts[i]
      end
      local admitted = charge(group, cost, count)
      charged = charged or admitted > 0 and cost > 0
      all = all and admitted == count
      replies[r + i] = admitted
    end
    if group.leased ~= 0 then
      replies[first] = charged and all and grant(group) or 0
    end

    local err
    if (charged or changed) and steady then
      for j = 1, n do
        state[place[j]] = used[j] - weights[j]
      end
      local reply = ask('SETRANGE', key, layout.size, pack(layout.counts, unpack(state, 1, layout.n)))
      err = type(reply) == 'table' and reply or nil
    elseif charged or changed then
      -- A shortened end is kept although nothing was charged: else a window that
      -- is full would be shortened anew at every look, and never end.
      for j = 1, n do
        stops[j] = stops[j] or charged and latest[j] or nil
      end
      err = rewrite(group, key, layout, state, charged)
    else
      err = inspect(key, layout, state)
    end
    if not err then
      r = first + width * n
    end
    return err
  end

  function fail(err)
    local text = err.err
    replies[r + 1] = -#text
    for i = 1, #text do
      replies[r + 1 + i] = string.byte(text, i)
    end
    r = r + 1 + #text
  end
end

-- All keys in one look, unless one of them changes in between or may not be
-- read: that must not take the others along.
local values, one_by_one = {}, again ~= 0 or #KEYS == 1
if not one_by_one then
  values = ask('MGET', unpack(KEYS))
  one_by_one = values.err
end
local s = {} -- to fill a table costs less than to make one for each key
local k = 0
for g = 1, #groups do
  local group = groups[g]
  local n, max, latest, count, head = group.n, group.max, group.latest, group.count, group.head
  local amount, share, leased = group.cost * count, group.share, group.leased
  local one_run = group.m == 1 and n <= 4 and amount > 0 and amount <= MAX_COUNT and group.back == 0 and not group.sliding
  local size = #head
  local length = size + WIDTH * n
  local counts, numbers = counts_format(n), numbers_format(n)
  for i = k + 1, k + group.keys do
    local key, value = KEYS[i], values[i]
    if one_by_one then
      value = ask('GET', key)
    end
    -- What nearly every charge is: one run that fits windows which are all
    -- running and stand in the order they are asked in. take does the rest.
    local steady = one_run and value and type(value) == 'string' and #value == length and sub(value, 1, size) == head
    local p = r + 1 + leased
    if steady then
      s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8] = unpack_value(numbers, value, size + 1)
      for j = 1, n do
        local used, stop = s[j], s[n + j]
        if stop <= now or stop > latest[j] or used + amount > max[j] or used > MAX_COUNT then
          steady = false
          break
        end
        replies[p + 1], replies[p + 2] = used, stop - now
        s[j] = used + amount
        p = p + 2
      end
    end
    local granted = share
    if steady and share > 0 then
      for j = 1, n do
        granted = math.min(granted, math.floor((max[j] - s[j]) / PART))
      end
      for j = 1, n do
        s[j] = s[j] + granted
      end
    end
    if steady then
      local reply = ask('SETRANGE', key, size, n == 1 and pack(counts, s[1]) or pack(counts, unpack(s, 1, n)))
      steady = type(reply) == 'number' -- else take meets the same error, and tells it
    end
    if steady then
      replies[r + 1] = count
      if leased ~= 0 then
        replies[r + 2] = granted
      end
      r = p
    else
      if not take then
        make_take()
      end
      local err = take(group, key, value)
      if err then
        fail(err)
      end
    end
  end
  k = k + group.keys
end
for i = #replies, r + 1, -1 do -- of a key that failed at its write
  replies[i] = nil
end
return replies
