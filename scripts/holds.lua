-- holds.lua: the format of the key that stores the open holds of a subject. Scripts that read
-- or write this key are prefixed with value.lua and holds.lua.
--
-- One hash for a subject. The field of a hold is its id, 16 bytes; the value is a list:
-- when the hold expires, in milliseconds since the epoch, then for each limit five: its
-- name, what was charged, when the window ends as the counters have it (0: it was
-- forgiven), the window's length (0 for a period), and flags. The field "" holds what
-- the others add up to, so that no script reads them all. It is a list, too:
--
--   1  no hold expires before this instant
--   2  whether the hold that the instant was taken from is gone
--   3  when the key expires: when the last hold does, or later where an expired one has
--      something to give back
--   4  how many holds are open
--   5  by limits' names { places, held, stop }: open holds of a concurrent limit; what is
--      held of the window that ends at stop
--
-- Lists and tables are MessagePack: https://github.com/msgpack/msgpack/blob/master/spec.md.

local OWN, RELEASE, PLACE = 1, 2, 4 -- flags: a cost of its own, given back when it expires, a place of a concurrent limit
local KIND = 8 -- times the window's kind, as take.lua has it, is added to the flags
local SLIDING = 4
local MAX_USED = 9007199254740991 -- 2^53 - 1, the last number that is exact
local FEW = 64 -- holds that may be looked at for one decision
local EACH = 5 -- entries of a limit in a hold
local NEXT, STALE, LAST, COUNT, LIMITS = 1, 2, 3, 4, 5 -- of what the holds add up to

local function is_place(flags)
  return flags % KIND >= PLACE
end

local function is_released(flags)
  return flags % PLACE >= RELEASE
end

-- Returns until when the charge of a hold's limit at i can be corrected: until its window ends,
-- or turns if the window slides.
local function turn_of(hold, i)
  local stop = hold[i + 2]
  return floor(hold[i + 4] / KIND) == SLIDING and stop - hold[i + 3] or stop
end

-- Returns the totals of the holds in a key, or nil and an error reply for a key of another
-- type.
local function read_holds(key)
  local text = ask('HGET', key, '')
  if type(text) == 'table' then
    return nil, text
  end
  return text and cmsgpack.unpack(text) or { 0, false, 0, 0, {} }
end

-- Adds a hold to the totals (sign 1), or subtracts the hold from the totals (sign -1).
local function sum_up(all, hold, sign)
  all[COUNT] = all[COUNT] + sign
  for i = 2, #hold, EACH do
    local name, cost, stop, flags = hold[i], hold[i + 1], hold[i + 2], hold[i + 4]
    local limit = all[LIMITS][name] or { 0, 0, 0 }
    all[LIMITS][name] = limit
    if is_place(flags) then
      limit[1] = limit[1] + sign
    elseif stop > 0 and stop == limit[3] then
      limit[2] = limit[2] + sign * cost
    elseif sign > 0 and stop > 0 then
      limit[2], limit[3] = cost, stop
    end
    if limit[1] == 0 and limit[2] == 0 then
      all[LIMITS][name] = nil
    end
  end
end

-- Finds out which hold expires first, if that is not known and few holds are open. With
-- many open holds the totals keep an instant that is too early.
local function find_next(key, all)
  if all[STALE] and all[COUNT] <= FEW then
    local list = redis.call('HGETALL', key)
    all[NEXT], all[STALE] = 0, false
    for i = 1, #list, 2 do
      local expires = list[i] ~= '' and cmsgpack.unpack(list[i + 1])[1]
      if expires and (all[NEXT] == 0 or expires < all[NEXT]) then
        all[NEXT] = expires
      end
    end
  end
end

-- Adds the expiry of a new hold to the totals: the key expires no sooner than the hold.
local function expires_at(all, hold)
  all[LAST] = math.max(all[LAST], hold[1])
  for i = 2, #hold, EACH do
    if is_released(hold[i + 4]) then
      all[LAST] = math.max(all[LAST], hold[i + 2])
    end
  end
  if all[COUNT] <= 1 or all[NEXT] == 0 or hold[1] < all[NEXT] then
    all[NEXT] = hold[1]
    all[STALE] = false
  end
end

-- Writes the totals, and one hold if an id is given. Deletes the key if no hold is open.
local function write_sum(key, all, id, hold)
  if all[COUNT] <= 0 then
    redis.call('DEL', key)
    return
  end
  if id then
    redis.call('HSET', key, '', cmsgpack.pack(all), id, cmsgpack.pack(hold))
  else
    redis.call('HSET', key, '', cmsgpack.pack(all))
  end
  redis.call('PEXPIREAT', key, string.format('%.0f', all[LAST]))
end

-- Replaces the charge of a hold's limit at i by cost in state, the numbers of the counters.
-- Returns the index of the limit in state, or nil if the window of the charge has ended.
local function correct(layout, state, hold, i, cost, now)
  local name, stop = hold[i], hold[i + 2]
  if not layout or turn_of(hold, i) <= now then
    return nil
  end
  for j = 1, layout.n do
    if layout.names[j] == name and state[layout.n + j] == stop then
      state[j] = math.max(0, math.min(state[j] + cost - hold[i + 1], MAX_USED))
      return j
    end
  end
end

-- Writes the used counts in state to an existing key. Returns an error reply, or nil.
local function write_counts(key, layout, state)
  local reply = ask('SETRANGE', key, tostring(layout.size), pack(layout.counts, unpack(state, 1, layout.n)))
  return type(reply) == 'table' and reply or nil
end

-- Records in the key of resets, under LESS and the limit's name, that the used count of a
-- limit became lower. ends maps names to the ends of the windows. restore.lua then does not
-- take the lower count for a loss.
local function note_less(resets_key, ends, now)
  if next(ends) == nil then
    return
  end
  local resets, entries = resets_of(resets_key, now), {}
  for name, stop in pairs(ends) do
    name = LESS .. name
    resets[name], resets.ends[name] = now, math.max(stop, resets.ends[name] or 0)
  end
  for name, stop in pairs(resets.ends) do
    entries[#entries + 1] = { name = name, used = resets[name], stop = stop }
  end
  table.sort(entries, function(a, b) return comes_before(a.name, b.name) end)
  write_value(resets_key, entries, false)
end

-- Reports whether restore.lua may restore the window: a period, or a day or longer.
local function is_long(hold, i)
  local kind = floor(hold[i + 4] / KIND)
  return kind >= 1 and kind <= 3 or kind == 0 and hold[i + 3] >= DAY
end

-- Returns the counters of a subject as layout and state; nothing if the key is missing; nil,
-- nil and an error reply if the key is of another type.
local function read_counts(key)
  local value = ask('GET', key)
  if type(value) == 'table' then
    return nil, nil, value
  elseif not value then
    return
  end
  local layout, state = read_value(key, value, {})
  if not layout then
    return nil, nil, state
  end
  return layout, state
end

-- Closes the holds that have expired. The charge of a limit with the flag RELEASE is given
-- back. Returns an error reply, or nil.
local function close_expired(key, holds_key, resets_key, all, now)
  local layout, state, err = read_counts(key)
  if err then
    return err
  end
  local list, gone, changed, less = redis.call('HGETALL', holds_key), {}, false, {}
  all[NEXT], all[STALE] = 0, false
  for i = 1, #list, 2 do
    if list[i] ~= '' then
      local hold = cmsgpack.unpack(list[i + 1])
      if hold[1] > now then
        if all[NEXT] == 0 or hold[1] < all[NEXT] then
          all[NEXT] = hold[1]
        end
      else
        gone[#gone + 1] = list[i]
        sum_up(all, hold, -1)
        for j = 2, #hold, EACH do
          if is_released(hold[j + 4]) and correct(layout, state, hold, j, 0, now) then
            changed = true
            if is_long(hold, j) then
              less[hold[j]] = hold[j + 2]
            end
          end
        end
      end
    end
  end
  err = changed and write_counts(key, layout, state)
  if err then
    return err
  end
  if #gone > 0 then
    redis.call('HDEL', holds_key, unpack(gone))
  end
  write_sum(holds_key, all)
  note_less(resets_key, less, now)
end

-- Closes the expired holds of a subject and returns the totals of the open ones, or nil and
-- an error reply if a key is of another type.
local function open_holds(key, holds_key, resets_key, now)
  local all, err = read_holds(holds_key)
  if all and all[COUNT] > 0 and all[NEXT] <= now then
    err = close_expired(key, holds_key, resets_key, all, now)
  end
  if err then
    return nil, err
  end
  return all
end
