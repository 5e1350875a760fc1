-- restore.lua: puts back what a subject had used of windows that Redis has lost.
--
-- KEYS[1] the subject's counters
-- KEYS[2] when its windows were reset, see reset.lua
-- KEYS[3] when its windows were restored: the same kind of value, where used is when
-- ARGV    for each window: its limit's name, what was used of it, when it ends, when
--         that was seen, and if it was begun anew since, the end that it got by that
--         and when that was; else 0 and 0. Instants are milliseconds since the epoch
-- returns how many windows were changed, or an error
--
-- A window that was begun anew has what was used added to what it has, unless it was
-- restored since: however often this is asked, it is added once. Of others it is seen
-- to it that they have at least what was used. What was reset since it was seen stays
-- forgiven. Atomic.

local MAX_USED = 9007199254740991 -- 2^53 - 1, the last number that is exact

local key = KEYS[1]
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

local running = {}
for i = 1, layout and layout.n or 0 do
  local stop = math.min(state[layout.n + i], now + MAX_LENGTH)
  if stop > now then
    running[layout.names[i]] = { name = layout.names[i], used = state[i], stop = stop }
  end
end
local changed = 0
for i = 1, #ARGV, 6 do
  local name, used, stop, at = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local begun, seen = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  local window, restored = running[name], restored_at[name] or 0
  local add = false
  if stop <= now or at <= (reset_at[name] or 0) then
    used = 0 -- it has ended, or was forgiven
  elseif not window then
    window = { name = name, used = 0, stop = math.min(stop, now + MAX_LENGTH) }
    add = true
  elseif begun > 0 then
    add = window.stop <= begun and restored < seen
    used = add and used or 0
  elseif at <= (reset_at[LESS .. name] or 0) then
    used = 0 -- it has less because a hold was settled or given back since
  else
    add = window.stop > stop -- it was begun while another still ran
  end
  if add or used > (window and window.used or 0) then
    window.used = math.min(add and window.used + used or used, MAX_USED)
    window.stop = math.min(window.stop, stop)
    running[name], changed = window, changed + 1
    restored_at[name], restored_at.ends[name] = now, window.stop
  end
end
if changed == 0 then
  return 0
end
local function sorted(list)
  table.sort(list, function(a, b) return comes_before(a.name, b.name) end)
  return list
end
local entries, marks = {}, {}
for _, window in pairs(running) do
  entries[#entries + 1] = window
end
for name, stop in pairs(restored_at.ends) do
  marks[#marks + 1] = { name = name, used = restored_at[name], stop = stop }
end
return write_value(KEYS[3], sorted(marks), false) or write_value(key, sorted(entries), not layout) or changed
