-- reset.lua: forgets what a subject used.
--
-- KEYS[1] the subject's counters
-- ARGV    the limits to forget; none: all of them
-- returns 1, or an error for a key that does not hold counters
--
-- Atomic: one SET or one DEL.

if #ARGV == 0 then
  call('DEL', KEYS[1])
  return 1
end

local key, now = KEYS[1], time_ms()
local value = pcall_redis('GET', key)
if not value then
  return 1
elseif type(value) == 'table' then
  return value
end
local head, err = head_of(key, value)
if err then
  return err
end
local layout = layout_of(head)
if not fits(layout, value) then
  return redis.error_reply('TIERLIMIT ' .. key .. ' does not hold counters')
end

local forget = {}
for i = 1, #ARGV do
  forget[ARGV[i]] = true
end
local state, kept = { unpack_value(layout.all, value, layout.size + 1) }, {}
for i = 1, layout.n do
  local name, stop = layout.names[i], math.min(state[layout.n + i], now + MAX_LENGTH)
  if stop > now and not forget[name] then
    kept[#kept + 1] = { name = name, used = state[i], stop = stop }
  end
end
if #kept > 0 then
  return write_value(key, kept, false) or 1
end
call('DEL', key)
return 1
