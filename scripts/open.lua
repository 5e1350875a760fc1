-- open.lua: returns the open holds of a subject.
--
-- KEYS[1] the subject's counters
-- KEYS[2] its open holds, see holds.lua
-- KEYS[3] when its windows were reset, or had less than before, see reset.lua
-- returns for each hold a list: its id, when it expires, in milliseconds since the epoch,
--         and for each limit its name, what was charged, and 1 for a place of a
--         concurrent limit, else 0. Or an error
--
-- Atomic. The script closes expired holds.

local all, err = open_holds(KEYS[1], KEYS[2], KEYS[3], time_ms())
if not all then
  return err
end
local list, reply = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #list, 2 do
  if list[i] ~= '' then
    local hold = cmsgpack.unpack(list[i + 1])
    local out = { list[i], hold[1] }
    for j = 2, #hold, EACH do
      out[#out + 1], out[#out + 2], out[#out + 3] = hold[j], hold[j + 1], is_place(hold[j + 4]) and 1 or 0
    end
    reply[#reply + 1] = out
  end
end
return reply
