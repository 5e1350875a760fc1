-- reset.lua: forgets what a subject used.
--
-- KEYS[1] the subject's counters
-- ARGV    the limits to forget; none: all of them
-- returns 1, or an error for a key that does not hold counters
--
-- Atomic: one SET or one DEL.

if #ARGV == 0 then
  redis.call('DEL', KEYS[1])
  return 1
end

local now = time_ms()
local forget = {}
for i = 1, #ARGV do
  forget[ARGV[i]] = true
end

local kept, last = {}, 0
local err = read_value(KEYS[1], function(limit, used, stop)
  local stop_ms = tonumber(stop)
  if stop_ms > now and not forget[limit] then
    kept[#kept + 1] = entry_text(limit, used, stop)
    last = math.max(last, math.min(stop_ms, now + MAX_LENGTH))
  end
end)
if err then
  return err
end
if #kept > 0 then
  return write_value(KEYS[1], kept, last) or 1
end
redis.call('DEL', KEYS[1])
return 1
