-- show.lua: a subject's counters as text, for whoever is on call:
--
--   $ redis-cli --eval show.lua 'tl:{acct_42}'
--   1) "per_day used 17, ends in 34200000 ms"
--   2) "per_minute used 3, ends in 41234 ms"
--
-- A sliding limit is two lines: what was used since its last turn, and with a ~
-- what was used in the window before, which ends when it turns next.
--
-- KEYS[1] the subject's counters
-- returns a line for each limit; none for a key that is not there
--
-- It only reads, and needs no other file: value.lua says what it reads.

local value = redis.call('GET', KEYS[1])
if not value then
  return {}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local head = string.match(value, '^[%w_~,-]+:')
if not head then
  return redis.error_reply('TIERLIMIT ' .. KEYS[1] .. ' does not hold counters')
end
local names = {}
for name in string.gmatch(head, '[%w_~-]+') do
  names[#names + 1] = name
end
local lines = {}
for i = 1, #names do
  local used = struct.unpack('>I7', value, #head + 7 * (i - 1) + 1)
  local stop = struct.unpack('>I6', value, #head + 7 * #names + 6 * (i - 1) + 1)
  lines[i] = string.format('%s used %.0f, ends in %.0f ms', names[i], used, math.max(0, stop - now))
end
return lines
