-- restore.lua: puts back what a subject had used of windows that Redis has lost.
--
-- KEYS[1] the subject's counters
-- KEYS[2] when its windows were reset, see reset.lua
-- KEYS[3] when its windows were restored: the same kind of value, where used is when
-- ARGV[1] when the loss was seen, in milliseconds since the epoch: what was restored
--         since then is not restored again, however often this is asked
-- ARGV    then for each window its limit's name, what was used of it, when it ends
--         and when that was seen: what was reset since then stays forgiven
-- returns how many windows were restored, or an error
--
-- What was charged since the loss counts on top. Atomic.

local MAX_USED = 9007199254740991 -- 2^53 - 1, the last number that is exact

local key, seen = KEYS[1], tonumber(ARGV[1])
local now = time_ms()
local value = ask('GET', key)
if type(value) == 'table' then
  return value
end
local layout, state
if value then
  layout, state = read_value(key, value, {})
  if not layout then
    return state
  end
end
local reset_at, restored_at = resets_of(KEYS[2], now), resets_of(KEYS[3], now)

local lost, n = {}, 0
for i = 2, #ARGV, 4 do
  local name, used, stop, at = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if stop > now and at > (reset_at[name] or 0) and seen > (restored_at[name] or 0) then
    lost[name], n = { name = name, used = used, stop = math.min(stop, now + MAX_LENGTH) }, n + 1
  end
end
if n == 0 then
  return 0
end
local entries, marks = {}, {}
for i = 1, layout and layout.n or 0 do
  local name, stop = layout.names[i], state[layout.n + i]
  local entry = { name = name, used = state[i], stop = math.min(stop, now + MAX_LENGTH) }
  local back = lost[name]
  if stop > now then
    if back then
      back.used, back.stop = math.min(back.used + entry.used, MAX_USED), math.min(back.stop, entry.stop)
    else
      entries[#entries + 1] = entry
    end
  end
end
for name, back in pairs(lost) do
  entries[#entries + 1] = back
  marks[#marks + 1] = { name = name, used = now, stop = back.stop }
end
for name, stop in pairs(restored_at.ends) do
  if not lost[name] then
    marks[#marks + 1] = { name = name, used = restored_at[name], stop = stop }
  end
end
local function by_name(a, b) return comes_before(a.name, b.name) end
table.sort(entries, by_name)
table.sort(marks, by_name)
return write_value(KEYS[3], marks, false) or write_value(key, entries, not layout) or n
