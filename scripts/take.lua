-- take.lua: charges subjects. For each, all its windows or none.
--
-- KEYS    the counters of one subject each; on a cluster all in one slot
-- ARGV    again, then groups, each for the next keys: those on the same limits
--         and charged the same
--           again   1 if a key stands in KEYS more than once, else 0
--         a group: keys, n, m, then n times limit, max, window, then m times
--         cost, count
--           keys    how many keys it is for
--           n       limits, 1 to 16, ascending by name
--           max     whole, 0 to 1e15, or -1 for unlimited
--           window  see window_end in time.lua
--           m       runs, 1 or more: count charges of cost, one after the other
--           cost    whole, 0 to 1e15; 0 reads and begins no window
-- returns whole numbers only, which clients read without an allocation for
--         each: for each key m times admitted, then n times used, reset
--           admitted  how many charges of the run fit (and were made)
--           used      before the first charge; -1 if the window had not begun
--           reset     milliseconds until the window ends; if it has not begun,
--                     until it would if it began now
--         or for a key that failed and was not charged: minus the length of an
--         error's text, then its bytes. It leaves the other keys alone.
--
-- Atomic for each key: it is written once, after everything was checked. A
-- malformed frame fails before any write.

local MAX_COUNT = 1e15
local MAX_USED = 9007199254740991 -- 2^53 - 1, the last number that is exact
local MAX_STOP = 281474976710655  -- what 6 bytes hold

local now = time_ms()
local ends = {} -- window -> when it would end if it began now; few differ in a call

local function whole(text, least, most)
  local n = tonumber(text)
  if n and n >= least and n <= most and n % 1 == 0 then
    return n
  end
end

local function bad(what, text)
  return nil, redis.error_reply('TIERLIMIT ' .. what .. ' "' .. tostring(text) .. '"')
end

-- Reads the group that begins at ARGV[at]. Returns it, or nil and an error reply.
local function read_group(at)
  local keys, n, m = whole(ARGV[at], 1, #KEYS), whole(ARGV[at + 1], 1, 16), whole(ARGV[at + 2], 1, #ARGV)
  if not keys or not n or not m then
    return bad('group is not keys, limits, runs:', concat({ tostring(ARGV[at]), tostring(ARGV[at + 1]), tostring(ARGV[at + 2]) }, ' '))
  end
  local group = { keys = keys, n = n, m = m, name = {}, max = {}, latest = {}, cost = {}, count = {}, layouts = {} }
  at = at + 3
  for i = 1, n do
    local name, max, window = ARGV[at], whole(ARGV[at + 1], -1, MAX_COUNT), ARGV[at + 2]
    if not name or not find(name, '^[%w_-]+$') or i > 1 and name <= group.name[i - 1] then
      return bad('limit is not a name, or not in order:', name)
    end
    if not max then
      return bad('max is not a whole number from -1 to 1e15:', ARGV[at + 1])
    end
    ends[window or ''] = ends[window or ''] or window_end(window, now)
    if not ends[window or ''] then
      return bad('window is not a window:', window)
    end
    group.name[i], group.max[i], group.latest[i] = name, max < 0 and math.huge or max, ends[window]
    at = at + 3
  end
  for i = 1, m do
    group.cost[i], group.count[i] = whole(ARGV[at], 0, MAX_COUNT), whole(ARGV[at + 1], 1, MAX_COUNT)
    if not group.cost[i] or not group.count[i] then
      return bad('run is not a cost from 0 to 1e15 and a count:', concat({ tostring(ARGV[at]), tostring(ARGV[at + 1]) }, ' '))
    end
    at = at + 2
  end
  group.amount = group.cost[1] * group.count[1]
  group.head = concat(group.name, ',') .. ':'
  group.size, group.length = #group.head, #group.head + WIDTH * n
  group.counts = '>' .. rep('I7', n)
  group.all = group.counts .. rep('I6', n)
  group.next = at
  return group
end

-- The layout of a value and where the limits of the group stand in it; the
-- values of a call have few different ones. nil and an error reply for a value
-- that holds no counters.
local function find_layout(group, key, value)
  local head, err = head_of(key, value)
  if err then
    return nil, err
  end
  local layout = group.layouts[head]
  if not layout then
    layout = layout_of(head)
    if layout then
      local at = {}
      for i = 1, layout.n do
        at[layout.names[i]] = i
      end
      layout.at = {}
      for j = 1, group.n do
        layout.at[j] = at[group.name[j]] or 0
      end
      group.layouts[head] = layout
    end
  end
  if not fits(layout, value) then
    return nil, redis.error_reply('TIERLIMIT ' .. key .. ' does not hold counters')
  end
  return layout
end

-- Of the group's limits, for the key at hand. They are filled anew for each key
-- rather than made anew: what a script throws away costs as much as its work.
local used, stops = {}, {}

-- Writes what is running: the windows of the group and those of other limits.
local function rewrite(group, key, layout, state)
  local entries = {}
  for j = 1, group.n do
    if stops[j] then
      entries[#entries + 1] = { name = group.name[j], used = used[j], stop = math.min(stops[j], MAX_STOP) }
    end
  end
  if layout then
    local asked = {}
    for j = 1, group.n do
      asked[group.name[j]] = true
    end
    for i = 1, layout.n do
      local name, stop = layout.names[i], math.min(state[layout.n + i], now + MAX_LENGTH)
      if not asked[name] and stop > now then
        entries[#entries + 1] = { name = name, used = state[i], stop = stop }
      end
    end
    table.sort(entries, function(a, b) return a.name < b.name end)
  end
  return write_value(key, entries, not layout)
end

-- Looks after a key that was only read: one that never expires would stay for
-- good, and one of another type was read as missing.
local function inspect(group, key, value)
  local ttl = pcall_redis('PTTL', key)
  if type(ttl) == 'table' then
    return ttl
  end
  if not value and ttl ~= -2 then
    return redis.error_reply('WRONGTYPE ' .. key .. ' does not hold counters')
  end
  if ttl == -1 then
    local last = now + 1
    for j = 1, group.n do
      last = math.max(last, stops[j] or 0)
    end
    local reply = pcall_redis('PEXPIREAT', key, exact(last))
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

local replies, r = {}, 0

-- Charges one key and adds the answer to the replies. Returns nil, or an error
-- reply in place of an answer.
local function take(group, key, value)
  if type(value) == 'table' then
    return value
  end
  local n, m, latest = group.n, group.m, group.latest
  local layout, state, err
  local steady, shortened = false, false -- steady: every window is stored and running
  if value then
    layout, err = find_layout(group, key, value)
    if err then
      return err
    end
    state = { unpack_value(layout.all, value, layout.size + 1) }
    steady = true
  end
  for j = 1, n do
    local i = layout and layout.at[j] or 0
    local stop = i > 0 and state[layout.n + i] or 0
    if stop > now then
      if stop > latest[j] then -- a window never lasts longer than its limit says now
        stop, shortened, steady = latest[j], true, false
      end
      used[j], stops[j] = math.min(state[i], MAX_USED), stop
      replies[r + m + 2 * j - 1], replies[r + m + 2 * j] = used[j], stop - now
    else
      used[j], stops[j], steady = 0, nil, false
      replies[r + m + 2 * j - 1], replies[r + m + 2 * j] = -1, latest[j] - now
    end
  end

  local charged = false
  for i = 1, m do
    local admitted = charge(group, group.cost[i], group.count[i])
    charged = charged or admitted > 0 and group.cost[i] > 0
    replies[r + i] = admitted
  end

  if charged and steady then
    local at = layout.at
    for j = 1, n do
      state[at[j]] = used[j]
    end
    local reply = pcall_redis('SETRANGE', key, layout.size, pack(layout.counts, unpack(state, 1, layout.n)))
    err = type(reply) == 'table' and reply or nil
  elseif charged or shortened then
    -- A shortened end is kept although nothing was charged: else a window that
    -- is full would be shortened anew at every look, and never end.
    if charged then
      for j = 1, n do
        stops[j] = stops[j] or latest[j]
      end
    end
    err = rewrite(group, key, layout, state)
  else
    err = inspect(group, key, value)
  end
  if not err then
    r = r + m + 2 * n
  end
  return err
end

local function fail(err)
  local text = err.err
  replies[r + 1] = -#text
  for i = 1, #text do
    replies[r + 1 + i] = string.byte(text, i)
  end
  r = r + 1 + #text
end

local groups, at, keys = {}, 2, 0
while ARGV[at] do
  local group, err = read_group(at)
  if err then
    return err
  end
  groups[#groups + 1], at, keys = group, group.next, keys + group.keys
end
if keys ~= #KEYS or (ARGV[1] ~= '0' and ARGV[1] ~= '1') then
  return redis.error_reply('TIERLIMIT ' .. #KEYS .. ' keys where the groups are for ' .. keys)
end

-- What nearly every charge is: one run that fits windows which are all running
-- and stand in the order they are asked in. Returns false, and has done nothing,
-- if this is not one; take is then for it.
local state = {}
local function take_steady(group, key, value)
  local n, size = group.n, group.size
  if sub(value, 1, size) ~= group.head or #value ~= group.length then
    return false
  end
  -- Up to 4 windows; to fill a table costs less than to make one for each key.
  state[1], state[2], state[3], state[4], state[5], state[6], state[7], state[8] = unpack_value(group.all, value, size + 1)
  local max, latest, amount = group.max, group.latest, group.amount
  local at = r + 1
  for j = 1, n do
    local count, stop = state[j], state[n + j]
    if stop <= now or stop > latest[j] or count + amount > max[j] or count > MAX_COUNT then
      return false
    end
    replies[at + 1], replies[at + 2] = count, stop - now
    state[j] = count + amount
    at = at + 2
  end
  local numbers
  if n == 1 then
    numbers = pack(group.counts, state[1])
  else
    numbers = pack(group.counts, unpack(state, 1, n))
  end
  local reply = pcall_redis('SETRANGE', key, size, numbers)
  if type(reply) == 'table' then
    return false -- take meets the same error, and tells it
  end
  replies[r + 1] = group.count[1]
  r = at
  return true
end

-- All keys in one look, unless one of them changes in between or may not be
-- read: that must not take the others along.
local values = ARGV[1] == '0' and pcall_redis('MGET', unpack(KEYS)) or { err = 'again' }
local one_by_one = values.err
local k = 0
for g = 1, #groups do
  local group = groups[g]
  local steady = group.m == 1 and group.n <= 4 and group.amount > 0
  for i = k + 1, k + group.keys do
    local key, value = KEYS[i], values[i]
    if one_by_one then
      value = pcall_redis('GET', key)
    end
    if not (steady and value and not one_by_one and take_steady(group, key, value)) then
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
