-- published.lua: reads the texts of a topic that have not expired.
--
-- KEYS[1] the topic, as in publish.lua
-- returns for each text its name, the text, and in how many milliseconds it expires
--
-- Changes nothing.

local now = time_ms()
local list, kept = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #list, 2 do
  local ends, text = string.match(list[i + 1], '^(%d+):(.*)$')
  if ends and tonumber(ends) > now then
    kept[#kept + 1] = list[i]
    kept[#kept + 1] = text
    kept[#kept + 1] = tonumber(ends) - now
  end
end
return kept
