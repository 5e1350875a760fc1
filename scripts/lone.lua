-- lone.lua: charges one key, where the frame is for one key. It stands in take.lua's
-- script, ahead of the rest of it, and answers as take.lua says.
--
-- It charges what nearly every lone charge is: one run against 1 to 3 limits that do not
-- slide, whose windows all run, or of which none has begun, and have room for the whole
-- run. Anything else it leaves, untouched and unchecked, to the rest of the script. To set
-- up for many keys would cost a lone charge a third more.

local function charge_alone(frame, key)
  local ask, unpack_value, pack = redis.pcall, struct.unpack, struct.pack
  local _, keys, m, n, head, at = unpack_value('>BI4HBHc0', frame, 1)
  if keys ~= 1 or m ~= 1 or n < 1 or n > 3 then
    return nil
  end
  local cost, count, after = unpack_value('>I7I7', frame, at + 14 * n)
  local charged = cost * count
  if charged < 1 or charged > 1e15 or after <= #frame then
    return nil
  end
  local numbers = n == 1 and '>I7I6' or n == 2 and '>I7I7I6I6' or '>I7I7I7I6I6I6'
  local value, size = ask('GET', key), #head
  local state -- what was used, then the ends
  if not value then
    state = { 0, 0, 0, 0, 0, 0 }
  elseif type(value) == 'string' and #value == size + 13 * n and string.sub(value, 1, size) == head then
    state = { unpack_value(numbers, value, size + 1) }
  else
    return nil
  end
  local now, last = time_ms(), 0
  for i = 1, n do
    local max, kind, length, latest
    max, kind, length, at = unpack_value('>I7BI6', frame, at)
    if kind ~= 0 then
      latest = period_end(kind, length, now) -- nil for a limit that slides
    elseif length >= 1 and length <= MAX_LENGTH then
      latest = now + length
    end
    local used = state[i] + charged
    if not latest or used > (max > 1e15 and 2e15 or max) then
      return nil
    end
    state[i] = used
    if not value then
      state[n + i], last = latest, math.max(last, latest)
    elseif state[n + i] <= now or state[n + i] > latest then
      return nil
    end
  end
  if not value then
    local opened = head .. pack(numbers, unpack(state, 1, 2 * n))
    local done = ask('SET', key, opened, 'PXAT', string.format('%.0f', last), 'NX')
    return done and done.ok and pack('>I6', now) .. '\0'
  end
  local counts = n == 1 and '>I7' or n == 2 and '>I7I7' or '>I7I7I7'
  local written = ask('SETRANGE', key, tostring(size), pack(counts, unpack(state, 1, n)))
  return type(written) == 'number' and pack('>I6', now) .. value
end

if #KEYS == 1 then
  local reply = charge_alone(ARGV[1], KEYS[1])
  if reply then
    return reply
  end
end
