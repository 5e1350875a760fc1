-- publish.lua: keeps a text that a replica publishes for the others.
--
-- KEYS[1] the topic: a hash of names, and when each text expires, ":" and the text
-- ARGV    the name, which is a replica's or of what several replicas write; its text; how many
--         milliseconds the text is kept; and if the text is to be kept only in the place of a
--         certain text, that text, "" for none
-- returns 1, or 0 if another text was in its place: then nothing is kept
--
-- Atomic. Texts that have expired are removed.

local now = time_ms()
local list, keep = redis.call('HGETALL', KEYS[1]), tonumber(ARGV[3])
local latest, there = now + keep, ''
for i = 1, #list, 2 do
  local ends, text = string.match(list[i + 1], '^(%d+):(.*)$')
  ends = tonumber(ends) or 0
  if ends <= now then
    redis.call('HDEL', KEYS[1], list[i])
  else
    latest = math.max(latest, ends)
    if list[i] == ARGV[1] then
      there = text
    end
  end
end
if ARGV[4] and ARGV[4] ~= there then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f:', now + keep) .. ARGV[2])
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', latest))
return 1
