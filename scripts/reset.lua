-- reset.lua: forgets what a subject used.
--
-- KEYS[1] the subject's counters
-- KEYS[2] when its windows were reset: the same kind of value, where used is when,
--         in milliseconds since the epoch: restore.lua must not put back what was forgiven
-- KEYS[3] its open holds, see holds.lua: what they have charged is forgiven, and they stay
--         open
-- ARGV    the limits to forget; none: all of them
-- returns 1, or an error for a key that does not hold counters
--
-- Atomic.

local key = KEYS[1]
local now = time_ms()
local forget = {}
for i = 1, #ARGV do
  forget[ARGV[i]], forget[ARGV[i] .. BEFORE] = true, true
end

local value = ask('GET', key)
local layout, state
if type(value) == 'string' then
  layout, state = read_value(key, value, {})
end
if value and not layout and #ARGV > 0 then
  return type(value) == 'table' and value or state
end

local all, err = read_holds(KEYS[3])
if err and #ARGV > 0 then
  return err
elseif err then -- whatever it holds
  redis.call('DEL', KEYS[3])
elseif all[COUNT] > 0 then
  local list = redis.call('HGETALL', KEYS[3])
  for i = 1, #list, 2 do
    local hold, changed = list[i] ~= '' and cmsgpack.unpack(list[i + 1]), false
    for j = 2, hold and #hold or 0, EACH do
      if hold[j + 2] > 0 and (#ARGV == 0 or forget[hold[j]]) then
        hold[j + 2], changed = 0, true
      end
    end
    if changed then
      redis.call('HSET', KEYS[3], list[i], cmsgpack.pack(hold))
    end
  end
  for name, sum in pairs(all[LIMITS]) do
    if #ARGV == 0 or forget[name] then
      sum[2], sum[3] = 0, 0
      if sum[1] == 0 then
        all[LIMITS][name] = nil
      end
    end
  end
  write_sum(KEYS[3], all)
end

if not layout then -- whatever it holds
  redis.call('DEL', key)
  return 1
end

local kept, resets = {}, resets_of(KEYS[2], now)
local ends = resets.ends
for i = 1, layout.n do
  local name, stop = layout.names[i], math.min(state[layout.n + i], now + 2 * MAX_LENGTH)
  if stop > now then
    if #ARGV == 0 or forget[name] then
      resets[name], ends[name] = now, math.max(stop, ends[name] or 0)
    else
      kept[#kept + 1] = { name = name, used = state[i], stop = stop }
    end
  end
end
local entries = {}
for name, stop in pairs(ends) do
  entries[#entries + 1] = { name = name, used = resets[name], stop = stop }
end
if #entries > 0 then
  table.sort(entries, function(a, b) return comes_before(a.name, b.name) end)
  local err = write_value(KEYS[2], entries, false)
  if err then
    return err
  end
end
if #kept > 0 then
  return write_value(key, kept, false) or 1
end
redis.call('DEL', key)
return 1
