-- take.lua: charges subjects. For each, all its windows or none.
--
-- KEYS    the counters of one subject each; on a cluster all in one slot
-- ARGV    for each key: cost, n, then n times: limit, max, window
--           cost    whole, 0 to 1e15; 0 reads and begins no window
--           n       whole, 1 to 16
--           max     whole, 0 to 1e15, or -1 for unlimited
--           window  see window_end in time.lua
-- returns for each key {fits, used, reset, used, reset, ...}
--           fits    1 if the charge fits every max (and is made), else 0
--           used    after the charge, or as found if it was not made
--           reset   milliseconds until the window ends; 0 if it has not begun
--         or an error in a key's place, which leaves the other keys alone
--
-- Atomic for each key: it is written by one SET, after everything was checked.
-- A malformed frame (n, or the number of arguments) fails before any write.

local MAX_COUNT = 1e15
local MAX_USED = 9007199254740991 -- 2^53 - 1, the last number that is exact

local now = time_ms()
local ends = {} -- window -> when it would end if it began now; few differ in a call

local function whole(text, least)
  local n = tonumber(text)
  if n and n >= least and n <= MAX_COUNT and n % 1 == 0 then
    return n
  end
end

-- The asked limits of one key, checked. nil and an error reply if one is wrong.
local function read_limits(first, n)
  local limits = {}
  for i = 1, n do
    local at = first + 3 * (i - 1)
    local name, max, window = ARGV[at], whole(ARGV[at + 1], -1), ARGV[at + 2]
    if not find(name, '^[%w_-]+$') then
      return nil, redis.error_reply('TIERLIMIT limit "' .. name .. '" is not a name')
    end
    if not max then
      return nil, redis.error_reply('TIERLIMIT max "' .. ARGV[at + 1] .. '" is not a whole number from -1 to 1e15')
    end
    ends[window] = ends[window] or window_end(window, now)
    if not ends[window] then
      return nil, redis.error_reply('TIERLIMIT window "' .. window .. '" is not a window')
    end
    limits[i] = { name = name, max = max, latest = ends[window], calendar = not tonumber(window), used = 0 }
  end
  return limits
end

-- Finds what is stored for the limits, and keeps the entries of other limits
-- that are still running. Returns the state, or nil and an error reply.
local function read_state(key, limits)
  local asked = {}
  for i = 1, #limits do
    asked[limits[i].name] = limits[i]
  end
  local state = { others = {}, last = 0, stored = false, shortened = false }
  local err = read_value(key, function(name, used, stop)
    local stop_ms, limit = tonumber(stop), asked[name]
    state.stored = true
    if stop_ms <= now then
      return
    end
    if limit then
      -- A window never lasts longer than its limit says now.
      state.shortened = state.shortened or stop_ms > limit.latest
      limit.used, limit.stop = math.min(tonumber(used), MAX_USED), math.min(stop_ms, limit.latest)
    else
      state.others[#state.others + 1] = entry_text(name, used, stop)
      state.last = math.max(state.last, math.min(stop_ms, now + MAX_LENGTH))
    end
  end)
  if err then
    return nil, err
  end
  return state
end

local function charge(limits, cost)
  for i = 1, #limits do
    local limit = limits[i]
    limit.used = math.min(limit.used + cost, MAX_USED)
    limit.stop = limit.stop or limit.latest
  end
end

-- Writes the running windows of the limits, and what else is running.
local function write_state(key, limits, state)
  local entries, last = state.others, state.last
  for i = 1, #limits do
    local limit = limits[i]
    if limit.stop then
      entries[#entries + 1] = entry_text(limit.name, exact(limit.used), exact(limit.stop))
      last = math.max(last, limit.stop)
    end
  end
  return write_value(key, entries, last)
end

-- Sees to it that counters never stay for good. Returns nil, or an error reply:
-- an error that is raised would end the call for all keys.
local function expire(key, limits, state)
  local ttl = redis.pcall('PTTL', key)
  if ttl ~= -1 then
    return type(ttl) == 'table' and ttl or nil
  end
  local last = math.max(state.last, now + 1)
  for i = 1, #limits do
    last = math.max(last, limits[i].stop or 0)
  end
  local reply = redis.pcall('PEXPIREAT', key, exact(last))
  return type(reply) == 'table' and reply or nil
end

local function take(key, cost_text, first, n)
  local cost = whole(cost_text, 0)
  if not cost then
    return redis.error_reply('TIERLIMIT cost "' .. cost_text .. '" is not a whole number from 0 to 1e15')
  end
  local limits, bad = read_limits(first, n)
  if bad then
    return bad
  end
  local state, err = read_state(key, limits)
  if err then
    return err
  end
  local fits = 1
  for i = 1, n do
    if limits[i].max >= 0 and limits[i].used + cost > limits[i].max then
      fits = 0
    end
  end
  local charged = fits == 1 and cost > 0
  if charged then
    charge(limits, cost)
  end
  if charged or state.shortened then
    -- A shortened end is kept although nothing was charged: else a window that
    -- is full would be shortened anew at every look, and never end.
    err = write_state(key, limits, state)
  elseif state.stored then
    err = expire(key, limits, state)
  end
  if err then
    return err
  end
  local reply = { fits }
  for i = 1, n do
    local limit = limits[i]
    local stop = limit.stop or (limit.calendar and limit.latest) or now
    reply[2 * i], reply[2 * i + 1] = limit.used, stop - now
  end
  return reply
end

-- Where the arguments of each key begin, found before anything is written.
local starts, at = {}, 1
for i = 1, #KEYS do
  local n = tonumber(ARGV[at + 1])
  if not n or n < 1 or n > 16 or n % 1 ~= 0 then
    return redis.error_reply('TIERLIMIT the number of limits of key ' .. i .. ' is not a whole number from 1 to 16')
  end
  starts[i] = at
  at = at + 2 + 3 * n
end
if at ~= #ARGV + 1 then
  return redis.error_reply('TIERLIMIT ' .. #ARGV .. ' arguments where the keys ask for ' .. at - 1)
end

local replies = {}
for i = 1, #KEYS do
  local start = starts[i]
  replies[i] = take(KEYS[i], ARGV[start], start + 2, tonumber(ARGV[start + 1]))
end
return replies
