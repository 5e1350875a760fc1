-- reset.lua: forgets what a subject used.
--
-- KEYS[1] the subject's counters
-- ARGV    the limits to forget; none: all of them
-- returns 1, or an error for a key that does not hold counters
--
-- Atomic: one SET or one DEL.

local key = KEYS[1]
if #ARGV == 0 then
  redis.call('DEL', key)
  return 1
end

local now = time_ms()
local value = ask('GET', key)
if not value then
  return 1
elseif type(value) == 'table' then
  return value
end
local layout, state = read_value(key, value, {})
if not layout then
  return state
end

local forget, kept = {}, {}
for i = 1, #ARGV do
  forget[ARGV[i]], forget[ARGV[i] .. BEFORE] = true, true
end
for i = 1, layout.n do
  local name, stop = layout.names[i], math.min(state[layout.n + i], now + MAX_LENGTH)
  if stop > now and not forget[name] then
    kept[#kept + 1] = { name = name, used = state[i], stop = stop }
  end
end
if #kept > 0 then
  return write_value(key, kept, false) or 1
end
redis.call('DEL', key)
return 1
