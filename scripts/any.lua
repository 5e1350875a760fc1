-- any.lua: charges a key of take.lua's, whatever it holds. It stands in make_any(now),
-- behind value.lua, and returns the function that does it.

local MAX_USED = 9007199254740991 -- 2^53 - 1, the last number that is exact

-- Of the group's limits, for the key at hand: used is what was used since the window
-- began, or last turned; weights is the part of a sliding limit's window before that
-- counts beside it; stops is when the window ends, nil if it has not begun.
local used, stops = {}, {}
local previous, turns, weights, turned = {}, {}, {}, {}

-- The names of the group's limits, and where each stands in a layout.
local function names_of(group)
  if group.names == nil then
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

-- amount * part / whole, rounded up, for 0 <= part < whole <= MAX_LENGTH. Exact: the
-- product is formed from pieces of part that keep every sum below 2^53.
local function share_of(amount, part, whole)
  local times = floor(amount / whole)
  local left = amount - times * whole -- below whole
  local quotient, remainder = 0, 0
  for shift = 2, 0, -1 do
    local piece = 8192 ^ shift
    local digit = floor(part / piece)
    part = part - digit * piece
    local product = remainder * 8192 + left * digit
    local q = floor(product / whole)
    local r = product - q * whole
    if r < 0 then -- the division was rounded up
      q, r = q - 1, r + whole
    end
    quotient, remainder = quotient * 8192 + q, r
  end
  return times, quotient + (remainder > 0 and 1 or 0)
end

-- What counts of a sliding window's previous charges, turn milliseconds before it turns:
-- previous * turn / length, rounded up. The twin of window.Weighted.
local function weighted(previous, turn, length)
  if turn <= 0 or previous <= 0 then
    return 0
  elseif turn >= length then
    return previous
  end
  local times, part = share_of(previous, turn, length)
  return times * turn + part
end

-- How far a sliding window has come that ends at stop, with used_since used since it
-- last turned: if it has turned again since it was written, that is of the window
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
  weights[j] = weighted(previous[j], turns[j] - now, length)
  return used_since, stop
end

-- Reports whether a charge begins or turns the window of limit j.
local function begins(group, j)
  return group.begins or not group.own or group.own[j] > 0
end

-- Writes what is running: the windows of the group and those of other limits.
local function rewrite(group, key, layout, state, charged)
  local entries, asked = {}, {}
  for j = 1, group.n do
    local name, charged = group.names[j], charged and begins(group, j)
    asked[name] = true
    if turned[j] and not charged then -- as it was: only a charge turns a window
      entries[#entries + 1] = { name = name, used = previous[j], stop = turns[j] }
    elseif stops[j] then
      entries[#entries + 1] = { name = name, used = used[j], stop = stops[j] }
    end
    name = name .. BEFORE
    asked[name] = true -- of a limit that slides no more it is dropped
    if group.sliding and group.sliding[j] then
      if stops[j] and previous[j] > 0 and (charged or not turned[j]) then
        entries[#entries + 1] = { name = name, used = previous[j], stop = turns[j] }
      end
    end
  end
  for i = 1, layout and layout.n or 0 do
    local name, stop = layout.names[i], math.min(state[layout.n + i], now + 2 * MAX_LENGTH)
    if not asked[name] and stop > now then
      entries[#entries + 1] = { name = name, used = state[i], stop = stop }
    end
  end
  if layout or group.sliding then
    table.sort(entries, function(a, b) return comes_before(a.name, b.name) end)
  end
  return write_value(key, entries, not layout)
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
      last = math.max(last, math.min(state[layout.n + i], now + 2 * MAX_LENGTH))
    end
    local reply = ask('PEXPIREAT', key, exact(last))
    return type(reply) == 'table' and reply or nil
  end
end

-- hold.lua sets three fields: group.own has a cost for each limit; group.begins makes a charge
-- begin windows that it costs nothing; group.wanted marks a charge whose cost may be 0.

-- Returns how many of count charges of cost fit, and adds those to used. With costs by limit,
-- count must be 1.
local function charge(group, cost, count)
  local own = group.own
  for j = 1, group.n do
    local counted, each = used[j] + weights[j], own and own[j] or cost
    if counted + each * count > group.max[j] and not (own and each == 0) then
      count = each > 0 and math.max(0, floor((group.max[j] - counted) / each)) or 0
    end
  end
  if cost > 0 and count > 0 then
    for j = 1, group.n do
      used[j] = math.min(used[j] + (own and own[j] or cost) * count, MAX_USED)
    end
  end
  return count
end

local function failed(err)
  return '\2' .. pack('>I4', #err.err) .. err.err
end

return function(group, key, value)
  if type(value) == 'table' then
    return failed(value)
  end
  local n, m = group.n, group.m
  if not names_of(group) then
    return failed(redis.error_reply('TIERLIMIT "' .. group.head .. '" is not ' .. n .. ' names in order'))
  end
  local layout, state
  local place, steady = nil, false -- steady: every window is stored and running
  local wanted, shortened = false, false
  if value then
    group.layouts = group.layouts or {}
    layout, state = read_value(key, value, group.layouts)
    if not layout then
      return failed(state)
    end
    place, steady = places_of(group, layout), true
  end
  local found = {}
  for j = 1, n do
    local i = layout and place[j] or 0
    local stop = i > 0 and state[layout.n + i] or 0
    weights[j], previous[j], turns[j], turned[j] = 0, 0, nil, false
    if stop > now then
      used[j] = math.min(state[i], MAX_USED)
      if stop > group.latest[j] then -- a window never lasts longer than its limit says now
        stop, shortened, steady = group.latest[j], true, false
      end
      if group.sliding and group.sliding[j] then
        used[j], stop = slide(group, j, used[j], stop, layout, state)
        steady = steady and not turned[j]
      end
      stops[j] = stop
    else
      used[j], stops[j], steady = 0, nil, false
    end
    found[j] = pack('>I7I6I7', used[j], stops[j] or 0, previous[j])
  end

  local charged, admitted = false, {}
  for i = 1, m do
    local cost, count = group.cost, group.count
    if m > 1 then
      cost, count = group.costs[i], group.counts[i]
    end
    local made = charge(group, cost, count)
    local counts = cost > 0 or group.begins
    wanted = wanted or counts or group.wanted
    charged = charged or made > 0 and counts
    admitted[i] = pack('>I7', made)
  end

  local err
  if charged and steady then
    for j = 1, n do
      state[place[j]] = used[j]
    end
    local reply = ask('SETRANGE', key, tostring(layout.size), pack(layout.counts, unpack(state, 1, layout.n)))
    err = type(reply) == 'table' and reply or nil
  elseif charged or shortened and wanted then
    -- A shortened end is kept although the charge is denied: else a window that is full
    -- would be shortened anew with each charge, and never end. A read keeps nothing.
    for j = 1, n do
      stops[j] = stops[j] or charged and begins(group, j) and group.latest[j] or nil
    end
    err = rewrite(group, key, layout, state, charged)
  else
    err = inspect(key, layout, state)
  end
  return err and failed(err) or '\1' .. table.concat(admitted) .. table.concat(found)
end
