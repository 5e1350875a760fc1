-- refund.lua: takes a charge off the windows it was made in, once.
--
-- KEYS[1] the subject's counters
-- KEYS[2] when its windows were reset, see reset.lua
-- KEYS[3] says that this charge was refunded, for as long as it could be again
-- ARGV[1] the cost
-- ARGV[2] when it was charged, in milliseconds since the epoch: what was reset
--         since then has forgiven it
-- ARGV    then for each window that was charged its limit's name, when it ends, and
--         0; of a sliding one when it turns, and its length. One that ends at
--         another time is not that window any more
-- returns the names of the limits in which something was taken off, or an error
--
-- Atomic.

local key, cost, charged = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local now = time_ms()
local value = ask('GET', key)
if not value then
  return {}
elseif type(value) == 'table' then
  return value
end
local layout, state = read_value(key, value, {})
if not layout then
  return state
end
local reset_at = resets_of(KEYS[2], now)

local stops, last = {}, 0
for i = 3, #ARGV, 3 do
  local name, stop = ARGV[i], tonumber(ARGV[i + 1])
  last = math.max(last, stop)
  if stop > now and charged > (reset_at[name] or 0) then
    stops[name] = stop + tonumber(ARGV[i + 2])
  end
end
local names = {}
for i = 1, layout.n do
  if stops[layout.names[i]] == state[layout.n + i] and state[i] > 0 then
    state[i] = math.max(state[i] - cost, 0)
    names[#names + 1] = layout.names[i]
  end
end
if #names == 0 then
  return names
end
local first = ask('SET', KEYS[3], 1, 'PXAT', exact(last), 'NX')
if not first then
  return {}
elseif first.err then
  return first
end
local reply = ask('SETRANGE', key, layout.size, pack(layout.counts, unpack(state, 1, layout.n)))
if type(reply) == 'table' then
  return reply
end
return names
