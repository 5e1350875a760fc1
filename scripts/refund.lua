-- refund.lua: takes a charge off the windows it was made in, once.
--
-- KEYS[1] the subject's counters
-- KEYS[2] says that this charge was refunded, for as long as it could be again
-- ARGV[1] the cost
-- ARGV    then for each window that was charged its limit's name and when it ends,
--         in milliseconds since the epoch: one that ends at another time is not
--         that window any more
-- returns 1 if anything was taken off, 0 if not, or an error
--
-- Atomic. Of a sliding limit only what was used since it last turned is taken off.

local key, cost = KEYS[1], tonumber(ARGV[1])
local now = time_ms()
local value = ask('GET', key)
if not value then
  return 0
elseif type(value) == 'table' then
  return value
end
local layout, state = read_value(key, value, {})
if not layout then
  return state
end

local ends, last = {}, 0
for i = 2, #ARGV, 2 do
  ends[ARGV[i]] = tonumber(ARGV[i + 1])
end
for i = 1, layout.n do
  local stop = ends[layout.names[i]]
  if stop and stop > now and stop == state[layout.n + i] and state[i] > 0 then
    state[i] = math.max(state[i] - cost, 0)
    last = math.max(last, stop)
  end
end
if last == 0 then
  return 0
end
local first = ask('SET', KEYS[2], 1, 'PXAT', exact(last), 'NX')
if not first then
  return 0
elseif first.err then
  return first
end
local reply = ask('SETRANGE', key, layout.size, pack(layout.counts, unpack(state, 1, layout.n)))
if type(reply) == 'table' then
  return reply
end
return 1
