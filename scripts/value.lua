-- value.lua: how a subject's counters stand in their key. It is ahead of each
-- script that reads or writes them.
--
-- One string for a subject: the names of its limits, ascending, then for each
-- what was used and for each when its window ends:
--
--   per_day,per_minute: <used><used> <end><end>      (without the spaces)
--
--   used  7 bytes, end 6 bytes (milliseconds since the epoch), both unsigned
--         and big-endian. scripts/show.lua prints a key for whoever is on call.
--
-- A window whose end has passed counts for nothing. The key expires with the
-- last of its windows. Numbers in binary, because turning them into text and
-- back cost more than all the rest of a charge.

local find, sub, rep, format, concat = string.find, string.sub, string.rep, string.format, table.concat
local pack, unpack_value = struct.pack, struct.unpack
local call, pcall_redis = redis.call, redis.pcall

local WIDTH = 13 -- bytes of a limit's numbers

-- What stands behind the names in `head` ("per_day,per_minute:"): their order,
-- and how to read it. nil if these are no names.
local function layout_of(head)
  local names = {}
  for name in string.gmatch(sub(head, 1, -2), '[^,]+') do
    if find(name, '[^%w_-]') then
      return nil
    end
    names[#names + 1] = name
  end
  if #names == 0 or concat(names, ',') .. ':' ~= head then
    return nil
  end
  local counts = '>' .. rep('I7', #names)
  return { names = names, n = #names, head = head, size = #head, counts = counts, all = counts .. rep('I6', #names) }
end

-- Where the names of a value end, or nil and an error reply.
local function head_of(key, value)
  local colon = find(value, ':', 1, true)
  if colon then
    return sub(value, 1, colon)
  end
  return nil, redis.error_reply('TIERLIMIT ' .. key .. ' does not hold counters')
end

local function fits(layout, value)
  return layout and #value == layout.size + WIDTH * layout.n
end

-- Milliseconds as text. Past 99999999999999 Lua's own conversion turns to 1e+14.
local function exact(n)
  return format('%.0f', n)
end

-- Writes entries {name, used, stop}, in ascending order of names, to a key that
-- is new or not. Returns nil, or an error reply.
local function write_value(key, entries, new)
  local names, numbers, n, last = {}, {}, #entries, 0
  for i = 1, n do
    local entry = entries[i]
    names[i], numbers[i], numbers[n + i] = entry.name, entry.used, entry.stop
    last = math.max(last, entry.stop)
  end
  local head = concat(names, ',') .. ':'
  local value = head .. pack('>' .. rep('I7', n) .. rep('I6', n), unpack(numbers))
  local reply
  if new then -- reads of many keys call one of another type missing: this does not
    reply = pcall_redis('SET', key, value, 'PXAT', exact(last), 'NX')
  else
    reply = pcall_redis('SET', key, value, 'PXAT', exact(last))
  end
  if not reply then
    return redis.error_reply('WRONGTYPE ' .. key .. ' does not hold counters')
  end
  return reply.err and reply or nil
end
