-- renew.lua: changes when an open hold expires.
--
-- KEYS[1] the subject's counters
-- KEYS[2] its open holds, see holds.lua
-- KEYS[3] when its windows were reset, or had less than before, see reset.lua
-- ARGV[1] the hold's id
-- ARGV[2] the time from now until the hold expires, in milliseconds
-- returns 1, or 0 if no such hold is open; or an error
--
-- Atomic.

local holds_key, id, now = KEYS[2], ARGV[1], time_ms()
local all, err = open_holds(KEYS[1], holds_key, KEYS[3], now)
if not all then
  return err
end
local text = id ~= '' and ask('HGET', holds_key, id)
if not text then
  return 0
end
local hold = cmsgpack.unpack(text)
all[STALE] = all[STALE] or hold[1] <= all[NEXT]
hold[1] = now + tonumber(ARGV[2])
all[LAST] = math.max(all[LAST], hold[1])
if hold[1] < all[NEXT] then
  all[NEXT], all[STALE] = hold[1], false
end
write_sum(holds_key, all, id, hold)
return 1
