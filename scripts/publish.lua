-- publish.lua: keeps a text that a replica publishes for the others.
--
-- KEYS[1] the topic: a hash of replicas, and when each text expires, ":" and the text
-- ARGV    the replica, its text, and how many milliseconds the text is kept
-- returns 1
--
-- Atomic. Texts that have expired are removed.

local now = time_ms()
local list, keep = redis.call('HGETALL', KEYS[1]), tonumber(ARGV[3])
local latest = now + keep
for i = 1, #list, 2 do
  local ends = tonumber(string.match(list[i + 1], '^(%d+):')) or 0
  if ends <= now then
    redis.call('HDEL', KEYS[1], list[i])
  elseif ends > latest then
    latest = ends
  end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f:', now + keep) .. ARGV[2])
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', latest))
return 1
