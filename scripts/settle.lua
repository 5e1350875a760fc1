-- settle.lua: replaces the charges of a hold by the actual costs, and closes the hold.
--
-- KEYS[1] the subject's counters
-- KEYS[2] its open holds, see holds.lua
-- KEYS[3] when its windows were reset, or had less than before, see reset.lua
-- ARGV[1] the hold's id
-- ARGV[2] the actual cost of the limits that were charged the request's cost; -1: unchanged
-- ARGV[3] 1 to give back all charges, else 0
-- ARGV    then pairs of a limit's name and its actual cost
-- returns a list: now, in milliseconds since the epoch; 1, or 0 if no such hold is open;
--         then for each limit that was charged: its name, the kind and the length of its
--         window, the charge before and after, the used count, and when the window ends, or
--         turns if it slides. The last two are 0 if the window has ended and nothing has
--         changed. Or an error
--
-- Atomic.

local key, holds_key, id, cost, back, now = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', time_ms()
local all, err = open_holds(key, holds_key, KEYS[3], now)
if not all then
  return err
end
local text = id ~= '' and ask('HGET', holds_key, id)
if not text then
  return { now, 0 }
end
local layout, state
layout, state, err = read_counts(key)
if err then
  return err
end
local real = {}
for i = 4, #ARGV, 2 do
  real[ARGV[i]] = tonumber(ARGV[i + 1])
end

local hold, reply, changed, less = cmsgpack.unpack(text), { now, 1 }, false, {}
for i = 2, #hold, EACH do
  local name, charged, flags = hold[i], hold[i + 1], hold[i + 4]
  if not is_place(flags) then
    local costs = real[name]
    if not costs and back then
      costs = 0
    elseif not costs then
      costs = (cost < 0 or flags % RELEASE >= OWN) and charged or cost
    end
    local j = correct(layout, state, hold, i, costs, now)
    changed = changed or j and costs ~= charged
    local used, ends = 0, 0
    if j then
      used, ends = state[j], turn_of(hold, i)
      if costs < charged and is_long(hold, i) then
        less[name] = hold[i + 2]
      end
    else
      costs = charged
    end
    for _, entry in ipairs({ name, floor(flags / KIND), hold[i + 3], charged, costs, used, ends }) do
      reply[#reply + 1] = entry
    end
  end
end
-- The hold is deleted first: if a later command fails, the hold is not settled again.
redis.call('HDEL', holds_key, id)
err = changed and write_counts(key, layout, state)
sum_up(all, hold, -1)
all[STALE] = all[STALE] or hold[1] <= all[NEXT]
write_sum(holds_key, all)
note_less(KEYS[3], less, now)
return err or reply
