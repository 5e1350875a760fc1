-- value.lua: how a subject's counters stand in their key. It is ahead of each
-- script that reads or writes them.
--
-- One string for a subject, written to be read with GET by whoever is on call:
--
--   per_day=17@1767225600000 per_minute=3@1767182460000
--
-- that is limit=used@end, with the window's end in milliseconds since the
-- epoch. An entry whose end has passed counts for nothing. The key expires with
-- the last of its windows.

local find, gsub, format = string.find, string.gsub, string.format

-- Hands each entry to `entry(limit, used, stop)`; the numbers are text.
-- Returns nil, or an error reply for a key that does not hold counters.
local function read_value(key, entry)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    return value
  end
  if value and gsub(value, '([%w_-]+)=(%d+)@(%d+) ?', function(limit, used, stop)
    entry(limit, used, stop)
    return ''
  end) ~= '' then
    return redis.error_reply('TIERLIMIT ' .. key .. ' does not hold counters')
  end
end

-- A number as text. Past 99999999999999 Lua's own conversion turns to 1e+14.
local function exact(n)
  return format('%.0f', n)
end

local function entry_text(limit, used, stop)
  return limit .. '=' .. used .. '@' .. stop
end

-- Writes entries, the text of each, that last until `last`. Returns nil, or the
-- error reply of a server that cannot write now.
local function write_value(key, entries, last)
  local reply = redis.pcall('SET', key, table.concat(entries, ' '), 'PXAT', exact(last))
  if reply.err then
    return reply
  end
end
