-- value.lua: how a subject's counters stand in their key. It is ahead of each
-- script that reads or writes them.
--
-- One string for a subject: the names of its limits, ascending, then for each
-- what was used and for each when its window ends:
--
--   per_day,per_minute: <used><used> <end><end>      (without the spaces)
--
--   used  7 bytes, end 6 bytes (milliseconds since the epoch), both unsigned
--         and big-endian. show.lua prints a key for whoever is on call.
--
-- A sliding limit is two: what was used since it last turned, which ends one
-- length later than it turns next, and under its name and a ~ what was used in the
-- window before, which ends then.
--
-- A window whose end has passed counts for nothing. The key expires with the
-- last of its windows. Numbers in binary, because turning them into text and
-- back cost more than all the rest of a charge.

local find, sub, rep = string.find, string.sub, string.rep
local pack, unpack_value = struct.pack, struct.unpack
local ask = redis.pcall -- an error that is raised would end the call for all keys

local WIDTH = 13 -- bytes of a limit's numbers
local LESS = '_' -- ahead of a limit's name, among resets: see restore.lua
local BEFORE = '~' -- behind the name of a sliding limit: the window before

-- How to read and write the numbers of n limits.
local function counts_format(n)
  return n == 1 and '>I7' or '>' .. rep('I7', n)
end
local function numbers_format(n)
  return n == 1 and '>I7I6' or '>' .. rep('I7', n) .. rep('I6', n)
end

-- Whether the name a comes before b. Lua's own order of strings is that of the
-- server's locale.
local function comes_before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

-- What stands in a value, by the names at its head ("per_day,per_minute:").
-- nil if these are no names.
local function layout_of(head)
  local names = {}
  for name in string.gmatch(head, '([%w_~-]+)[,:]') do
    names[#names + 1] = name
  end
  if #names > 0 and table.concat(names, ',') .. ':' == head then
    return { names = names, n = #names, size = #head, counts = counts_format(#names), numbers = numbers_format(#names) }
  end
end

-- The layout of a value, and its numbers: what was used, then the ends. nil and
-- an error reply for a value that holds no counters. Layouts holds those that
-- were met.
local function read_value(key, value, layouts)
  local colon = find(value, ':', 1, true)
  local head = colon and sub(value, 1, colon) or ''
  local layout = layouts[head] or layout_of(head)
  if not layout or #value ~= layout.size + WIDTH * layout.n then
    return nil, redis.error_reply('TIERLIMIT ' .. key .. ' does not hold counters')
  end
  layouts[head] = layout
  return layout, { unpack_value(layout.numbers, value, layout.size + 1) }
end

-- Milliseconds as text. Past 99999999999999 Lua's own conversion turns to 1e+14.
local function exact(n)
  return string.format('%.0f', n)
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
  local value = table.concat(names, ',') .. ':' .. pack(numbers_format(n), unpack(numbers))
  local reply
  if new then -- a look at many keys calls one of another type missing: this does not
    reply = ask('SET', key, value, 'PXAT', exact(last), 'NX')
  else
    reply = ask('SET', key, value, 'PXAT', exact(last))
  end
  if not reply then
    return redis.error_reply('WRONGTYPE ' .. key .. ' does not hold counters')
  end
  return reply.err and reply or nil
end

-- When each window that still runs was reset, by its name, and in ends until when
-- that matters. See reset.lua.
local function resets_of(key, now)
  local at = { ends = {} }
  local value = ask('GET', key)
  if type(value) == 'string' then
    local layout, state = read_value(key, value, {})
    for i = 1, layout and layout.n or 0 do
      if state[layout.n + i] > now then
        at[layout.names[i]], at.ends[layout.names[i]] = state[i], state[layout.n + i]
      end
    end
  end
  return at
end
